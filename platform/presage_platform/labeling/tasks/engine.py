"""All outcome tasks of a run: read, check, compare with their locks, test, then execute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from presage_platform.labeling.semantics import IndexFacts
from presage_platform.labeling.tasks.compile import Compiled, Lock, compile_task, read_lock, resolve_lock, write_lock
from presage_platform.labeling.tasks.definition import Task, read_task
from presage_platform.labeling.tasks.execute import TaskIndex, TaskResult, run_tasks
from presage_platform.labeling.tasks.testing import run_fixture

if TYPE_CHECKING:
    from presage_platform.postgres.connection import Database


@dataclass(frozen=True)
class LockChange:
    """What renewing a lock changed: concepts gained and lost by concept set."""

    task: str
    changes: dict[str, tuple[int, int]]


def label_outcomes(
    files: Sequence[Path], index: pa.Table, *, data_cut_s: int, database: Database, skip_tests: bool = False
) -> dict[str, TaskResult]:
    """Run the task files on the studies of a label store.

    Parameters
    ----------
    index
        One row a study: the columns of `IndexFacts`, and visit_occurrence_id, site, sex, age_years.
    data_cut_s
        Last second that the record covers.
    skip_tests
        Do not run the fixtures first; the caller writes that into its manifest.

    Raises
    ------
    TaskError, TaskTestError, LimitError
        Of the first task that is refused, fails its own test, or costs too much; nothing is kept then.
    """
    ready = prepare(files, database)
    if not skip_tests:
        _run_fixtures(ready, database)
    return run_tasks(ready, task_index(index), data_cut_s=data_cut_s, database=database)


def require_sound(files: Sequence[Path], database: Database, *, skip_tests: bool = False) -> None:
    """Raise what `label_outcomes` would, but for what only the record shows; nothing is written (L83)."""
    ready = prepare(files, database)
    if not skip_tests:
        _run_fixtures(ready, database)


def _run_fixtures(ready: Sequence[tuple[Compiled, Lock]], database: Database) -> None:
    for compiled, lock in ready:
        run_fixture(compiled, lock, database)


def prepare(files: Sequence[Path], database: Database) -> list[tuple[Compiled, Lock]]:
    """Read and check task files and their locks."""
    compiled = [compile_task(read_task(path)) for path in files]
    with database.connect() as connection:
        return [(one, read_lock(one.task, connection)) for one in compiled]


def lock_tasks(files: Sequence[Path], database: Database) -> list[LockChange]:
    """Resolve the concept sets of task files in the vocabulary and write their locks."""
    changes = []
    with database.connect() as connection:
        for path in files:
            task = compile_task(read_task(path)).task
            changes.append(LockChange(task.name, write_lock(task, resolve_lock(task, connection))))
    return changes


def lock_state(task: Task, database: Database | None) -> str:
    """Return `locked`, `stale`, or `none`; without a database the vocabulary is not compared."""
    from presage_platform.errors import TaskError

    if not task.lock_path.is_file():
        return "none"
    if database is None:
        return "locked"
    with database.connect() as connection:
        try:
            read_lock(task, connection)
        except TaskError:
            return "stale"
    return "locked"


def task_index(index: pa.Table) -> TaskIndex:
    """Return the index of tasks from the columns of a label store."""
    facts = IndexFacts(*(_array(index, name) for name in IndexFacts.__slots__))
    listed = (index.column(name).to_pylist() for name in ("visit_occurrence_id", "site", "sex", "age_years"))
    return TaskIndex(facts, *listed)


def _array(index: pa.Table, name: str) -> Any:
    values = np.asarray(index.column(name).combine_chunks())
    return values.astype(np.bool_) if values.dtype == np.bool_ else values.astype(np.int64)
