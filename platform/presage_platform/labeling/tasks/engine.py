"""All outcome tasks of a run: read, check, compare with their locks, test, execute, and add to a label store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from presage_platform.errors import PresageError, TaskError
from presage_platform.labeling.hashing import hash_json, hash_table
from presage_platform.labeling.outcomes import add_outcomes, read_notes, remove_outcomes, write_notes
from presage_platform.labeling.semantics import IndexFacts
from presage_platform.labeling.store import LabelStore
from presage_platform.labeling.tasks.compile import Compiled, compile_task
from presage_platform.labeling.tasks.cost import CostGate
from presage_platform.labeling.tasks.definition import Task, read_task
from presage_platform.labeling.tasks.execute import Outcomes, plan_tasks, try_tasks
from presage_platform.labeling.tasks.kernel import run_concept_tasks
from presage_platform.labeling.tasks.locks import (
    Concepts,
    DatabaseConcepts,
    Lock,
    read_lock,
    resolve_lock,
    warnings_of,
    write_lock,
)
from presage_platform.labeling.tasks.passes import Passes
from presage_platform.labeling.tasks.results import TaskIndex, TaskResult, definition_hash
from presage_platform.labeling.tasks.testing import run_fixture
from presage_platform.labeling.timeline import Snapshot

if TYPE_CHECKING:
    from presage_platform.postgres.connection import Database

Ready = Sequence[tuple[Compiled, Lock]]


FLAGS = ("t0_is_date", "in_period")


@dataclass(frozen=True)
class LockChange:
    """What renewing a lock changed: concepts gained and lost by concept set; sets that no record here has."""

    task: str
    changes: dict[str, tuple[int, int]]
    without_records: list[str] = field(default_factory=list)


@dataclass
class OutcomeReport:
    """What became of the tasks of a run; `found` were there already, made from the same things."""

    written: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    failures: dict[str, PresageError] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def raise_failure(self) -> None:
        """Raise the first failure, in the name of all, once the others are written."""
        if not self.failures:
            return
        first = next(iter(self.failures.values()))
        others = [name for name in self.failures][1:]
        kept = f"; {len(self.written) + len(self.found)} other outcomes stand, the next `platform label` adds this one"
        more = f" (also failed: {', '.join(others)})" if others else ""
        raise type(first)(f"{first}{more}{kept}") from None


def prepare(files: Sequence[Path], concepts: Concepts) -> list[tuple[Compiled, Lock]]:
    """Read and check task files and their locks."""
    compiled = [compile_task(read_task(path)) for path in files]
    return [(one, read_lock(one.task, concepts)) for one in compiled]


def prepare_in(files: Sequence[Path], database: Database) -> list[tuple[Compiled, Lock]]:
    """Read and check task files and their locks against the vocabulary of a database, and that cohorts are there."""
    with database.connect() as connection:
        ready = prepare(files, DatabaseConcepts(connection))
        for compiled, _ in ready:
            if compiled.task.front.kind == "cohort":
                _require_cohort(compiled.task, connection, database.schemas.results)
    return ready


def estimate(
    files: Sequence[Path], database: Database, *, store: Path | None, gate: CostGate
) -> dict[str, dict[str, float]]:
    """Return what the planner expects of the queries of task files, locked or not; no data is read.

    `store` gives the studies to plan for; None = none are known yet.
    """
    with database.connect() as connection:
        concepts = DatabaseConcepts(connection)
        ready = [(one, resolve_lock(one.task, concepts)) for one in (compile_task(read_task(path)) for path in files)]
    in_sql = [(compiled, lock) for compiled, lock in ready if compiled.task.front.kind != "concept"]
    index = no_studies() if store is None else task_index(store)
    return plan_tasks(in_sql, index, database=database, gate=gate)


def require_sound(ready: Ready, database: Database, passes: Passes) -> None:
    """Run the fixtures of tasks whose pass is not remembered.

    Raises
    ------
    TaskTestError
        Of the first task that fails its own test.
    """
    for compiled, lock in ready:
        if compiled.task.has_body and not passes.holds(compiled, lock):
            run_fixture(compiled, lock, database)
            passes.remember(compiled, lock)


def run_ready(
    ready: Ready,
    index: TaskIndex,
    *,
    data_cut_s: int,
    snapshot: Snapshot | None,
    database: Database | None,
    gate: CostGate | None = None,
    keep_evidence: bool = False,
) -> Outcomes:
    """Run tasks of every kind: concept tasks on the snapshot, the others in the database."""
    concept = [(compiled.task, lock) for compiled, lock in ready if compiled.task.front.kind == "concept"]
    in_sql = [(compiled, lock) for compiled, lock in ready if compiled.task.front.kind != "concept"]
    outcomes = Outcomes()
    if in_sql:
        if database is None:
            raise _needs_database(in_sql[0][0].task)
        outcomes = try_tasks(
            in_sql, index, data_cut_s=data_cut_s, database=database, gate=gate, keep_evidence=keep_evidence
        )
    if concept:
        if snapshot is None:
            raise ValueError("concept tasks read a snapshot")
        outcomes.results.update(run_concept_tasks(concept, index, snapshot=snapshot, data_cut_s=data_cut_s))
    return outcomes


def add_task_outcomes(
    store: Path,
    ready: Ready,
    *,
    snapshot: Snapshot,
    database: Database | None,
    gate: CostGate | None = None,
    tests_skipped: bool = False,
) -> OutcomeReport:
    """Run tasks over the studies of a label store and add their rows; what is there already is left as it is."""
    labels = LabelStore.open(store)
    cut = int(labels.manifest["inputs"]["semantics"]["data_cut_s"])
    index_hash = hash_json([hash_table(labels.studies), hash_table(labels.covariates)])
    known = {"index_hash": index_hash, "snapshot_id": snapshot.snapshot_id}
    hashes = {
        compiled.task.name: hash_json({**known, "definition": definition_hash(compiled.task, lock, cut)})
        for compiled, lock in ready
    }
    notes = read_notes(store)
    warnings = {compiled.task.name: warnings_of(compiled.task, lock) for compiled, lock in ready}
    report = OutcomeReport(warnings=[f"{name}: {text}" for name, texts in warnings.items() for text in texts])
    report.found = [name for name in hashes if notes.get(name, {}).get("outcome_hash") == hashes[name]]
    _note_tests(store, notes, report.found, tests_skipped)
    missing = [(compiled, lock) for compiled, lock in ready if compiled.task.name not in report.found]
    if not missing:
        return report
    index = task_index(store)
    outcomes = run_ready(missing, index, data_cut_s=cut, snapshot=snapshot, database=database, gate=gate)
    # What a task gave under another text or vocabulary is not what it means now: without new rows it has none.
    remove_outcomes(store, outcomes.failures)
    _write(store, outcomes.results, hashes, warnings, tests_skipped)
    report.written, report.failures = list(outcomes.results), outcomes.failures
    return report


def lock_tasks(files: Sequence[Path], concepts: Concepts, database: Database | None = None) -> list[LockChange]:
    """Resolve the concept sets of task files in a vocabulary and write their locks."""
    changes = []
    for path in files:
        task = compile_task(read_task(path)).task
        lock = resolve_lock(task, concepts)
        changes.append(LockChange(task.name, write_lock(task, lock), _without_records(task, lock, database)))
    return changes


def lock_state(task: Task, database: Database | None) -> str:
    """Return `locked`, `stale`, or `none`; without a database the vocabulary is not compared."""
    if not task.lock_path.is_file():
        return "none"
    if database is None:
        return "locked"
    with database.connect() as connection:
        try:
            read_lock(task, DatabaseConcepts(connection))
        except TaskError:
            return "stale"
    return "locked"


def task_index(store: Path) -> TaskIndex:
    """Return what tasks need of each study of a label store: its facts, visit, site, sex and age."""
    index = pq.read_table(store / "facts.parquet")
    for file, names in (("studies", ["visit_occurrence_id", "site"]), ("covariates", ["sex", "age_years"])):
        known = pq.read_table(store / f"{file}.parquet", columns=names)
        for name in names:
            index = index.append_column(name, known.column(name))
    facts = IndexFacts(*(_array(index, name) for name in IndexFacts.__slots__))
    listed = (index.column(name).to_pylist() for name in ("visit_occurrence_id", "site", "sex", "age_years"))
    return TaskIndex(facts, *listed)


def no_studies() -> TaskIndex:
    """Return an index of no study."""
    facts: list[Any] = [np.zeros(0, dtype=np.bool_ if name in FLAGS else np.int64) for name in IndexFacts.__slots__]
    return TaskIndex(IndexFacts(*facts), [], [], [], [])


def _write(
    store: Path,
    results: dict[str, TaskResult],
    hashes: dict[str, str],
    warnings: dict[str, list[str]],
    tests_skipped: bool,
) -> None:
    add_outcomes(
        store,
        {name: result.rows for name, result in results.items()},
        {
            name: {
                "outcome_hash": hashes[name],
                "dropped": result.dropped,
                "tests_skipped": tests_skipped,
                "warnings": warnings[name],
            }
            for name, result in results.items()
        },
    )


def _note_tests(store: Path, notes: dict[str, Any], found: list[str], tests_skipped: bool) -> None:
    """An outcome made without tests whose task has passed since is no longer one made without."""
    changed = [name for name in found if notes[name].get("tests_skipped") and not tests_skipped]
    for name in changed:
        notes[name]["tests_skipped"] = False
    if changed:
        write_notes(store, notes)


def _needs_database(task: Task) -> TaskError:
    return TaskError(
        f"task {task.name}: `kind: {task.front.kind}` needs the database: leave --snapshot out, or the task"
    )


def _require_cohort(task: Task, connection: Any, results: str) -> None:
    from psycopg import sql

    number = task.front.cohort_definition_id
    found = connection.execute(
        sql.SQL("SELECT EXISTS (SELECT FROM {}.cohort WHERE cohort_definition_id = %s)").format(
            sql.Identifier(results)
        ),
        [number],
    ).fetchone()
    if found is None or not found[0]:
        raise TaskError(
            f"task {task.name}: {results}.cohort holds no row of cohort {number}, expected its persons: generate the "
            "cohort there first"
        )


def _without_records(task: Task, lock: Lock, database: Database | None) -> list[str]:
    """Return the concept sets of which the tables that the task reads hold no record."""
    from presage_platform.labeling.tasks.records import sets_without_records

    return [] if database is None else sets_without_records(task, lock, database)


def _array(index: pa.Table, name: str) -> Any:
    values = np.asarray(index.column(name).combine_chunks())
    return values.astype(np.bool_) if values.dtype == np.bool_ else values.astype(np.int64)
