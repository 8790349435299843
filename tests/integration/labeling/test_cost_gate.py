"""The cost gate and the rehearsal on a real server: refused before a query runs, with the exit code of a limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from presage_platform.errors import LimitError
from presage_platform.labeling.semantics import IndexFacts
from presage_platform.labeling.tasks import engine
from presage_platform.labeling.tasks.cost import CostGate
from presage_platform.labeling.tasks.engine import prepare_in
from presage_platform.labeling.tasks.execute import try_tasks
from presage_platform.labeling.tasks.locks import DatabaseConcepts
from presage_platform.labeling.tasks.results import TaskIndex
from presage_platform.postgres.connection import Database, open_database
from presage_platform.settings import Settings
from tests.lib.task_vocabulary import fill_task_vocabulary

HEAD = "/*---\ntask: {name}\nversion: 1\ntitle: A probe\nrisk: next\ncompeting: []\nrequires: [death, person]\n---*/\n"
HONEST = "select i.study_id, d.death_date as event_date from task_index i join death d on d.person_id = i.person_id"
CROSS = "select i.study_id, i.t0_date as event_date from task_index i, person p"


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    with open_database(settings, command="test") as opened:
        with opened.connect() as connection:
            fill_task_vocabulary(connection)
            connection.execute(
                "INSERT INTO person (person_id, gender_concept_id, year_of_birth, race_concept_id,"
                " ethnicity_concept_id) SELECT n, 0, 1950, 0, 0 FROM generate_series(1, 4000) AS n"
            )
            connection.execute(
                "INSERT INTO death (person_id, death_date) SELECT n, '2021-01-01' FROM generate_series(1, 9) n"
            )
            connection.execute("ANALYZE person, death")
            connection.commit()
        yield opened


def index_of(number: int) -> TaskIndex:
    flags = {"t0_is_date", "in_period"}
    t0 = np.full(number, 1_583_056_800)
    arrays = {name: np.ones(number, dtype=np.bool_) if name in flags else t0.copy() for name in IndexFacts.__slots__}
    arrays |= {"study_id": np.arange(1, number + 1), "person_id": np.arange(1, number + 1)}
    arrays |= {"t0_is_date": np.zeros(number, dtype=np.bool_), "period_end_s": t0 + 10**8, "death_at_s": t0 + 10**9}
    none: list[Any] = [None] * number
    return TaskIndex(IndexFacts(*(arrays[name] for name in IndexFacts.__slots__)), none, none, none, none)


def ready(database: Database, folder: Path, **bodies: str) -> list[Any]:
    files = []
    for name, body in bodies.items():
        files.append(folder / f"{name}.sql")
        files[-1].write_text(HEAD.format(name=name) + body + "\n")
    with database.connect() as connection:
        engine.lock_tasks(files, DatabaseConcepts(connection))
    return prepare_in(files, database)


def run(database: Database, tasks: list[Any], gate: CostGate, number: int = 500) -> Any:
    return try_tasks(tasks, index_of(number), data_cut_s=1_900_000_000, database=database, gate=gate)


def test_l68_a_forgotten_join_is_refused_and_the_other_task_runs(database: Database, tmp_path: Path) -> None:
    tasks = ready(database, tmp_path, crossed=CROSS, honest=HONEST)
    made = run(database, tasks, CostGate(max_pairs=1e6))
    assert set(made.results) == {"honest"} and set(made.failures) == {"crossed"}
    error = made.failures["crossed"]
    assert isinstance(error, LimitError)
    assert str(error).startswith("limit: task crossed: its body query pairs") and "person" in str(error)
    states = made.results["honest"].rows.column("state").to_pylist()
    assert states.count("event") == 9 and len(states) == 500


@pytest.mark.parametrize(
    ("gate", "words"), [(CostGate(max_cost=1.0), "max_cost"), (CostGate(max_rows=1.0), "max_rows")]
)
def test_l68_cost_and_rows_come_from_the_settings(
    database: Database, tmp_path: Path, gate: CostGate, words: str
) -> None:
    made = run(database, ready(database, tmp_path, honest=HONEST), gate)
    assert words in str(made.failures["honest"])


def test_l68_a_query_that_is_slow_for_a_hundred_studies_is_stopped(database: Database, tmp_path: Path) -> None:
    slow = (
        "select i.study_id, max(p.year_of_birth + q.year_of_birth + i.t0_date) as event_date from task_index i "
        "join person p on p.person_id >= i.person_id join person q on q.person_id >= p.person_id group by i.study_id"
    )
    gate = CostGate(max_cost=1e15, max_rows=1e12, max_pairs=1e15, dry_run_s=0.3)
    made = run(database, ready(database, tmp_path, slow=slow), gate, number=200)
    assert "takes more than 0.3 s for 100 studies" in str(made.failures["slow"])
    assert isinstance(made.failures["slow"], LimitError)


def test_l73_check_plans_without_running(database: Database, tmp_path: Path) -> None:
    ready(database, tmp_path, honest=HONEST)
    found = engine.estimate([tmp_path / "honest.sql"], database, store=None, gate=CostGate())
    assert found["honest"]["cost"] > 0 and found["honest"]["rows"] >= 1
    with pytest.raises(LimitError, match="max_cost"):
        engine.estimate([tmp_path / "honest.sql"], database, store=None, gate=CostGate(max_cost=0.1))
    with database.connect() as connection:
        left = connection.execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'task\\_%'").fetchone()
    assert left == (0,)
