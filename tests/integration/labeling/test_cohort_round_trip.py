"""Labels out as OMOP cohorts and back in as an outcome: equal, day by day."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from presage_platform.labeling import command
from presage_platform.labeling.cohorts import export_cohorts
from presage_platform.labeling.command import Request
from presage_platform.labeling.store import LabelStore, open_labels
from presage_platform.labeling.tasks.engine import lock_tasks
from presage_platform.labeling.tasks.locks import DatabaseConcepts
from presage_platform.postgres.connection import Database, open_database
from presage_platform.settings import Settings
from tests.lib.label_hospital import fill

DAY = 86_400
TASK = """/*---
task: {name}
version: 1
title: {name}
{options}
---*/
{body}"""
HEART_FAILURE = TASK.format(
    name="heart_failure",
    options='concept_sets:\n  outcome: {include: ["SNOMED:H"], descendants: true}\nrequires: [condition_occurrence]\n'
    "visit_guard: none\nmin_lag: 0 days",
    body="""select i.study_id, c.condition_start_date as event_date, c.condition_start_datetime as event_datetime
from   task_index i
join   condition_occurrence c on c.person_id = i.person_id
join   cs_outcome o on o.concept_id = c.condition_concept_id
""",
)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    with open_database(settings, command="test") as database:
        with database.connect() as connection:
            fill(connection)
            connection.commit()
        yield database


def test_l79_a_round_trip_is_equal_at_day_precision(settings: Settings, database: Database, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"labeling": settings.labeling.model_copy(update={"k": 4, "min_events": 1})})
    tasks = settings.workspace / "tasks"
    tasks.mkdir(exist_ok=True)
    (tasks / "heart_failure.sql").write_text(HEART_FAILURE)
    lock(tasks / "heart_failure.sql", database)
    command.label(settings, Request(allow_fewer=True, skip_tests=True))
    exported = export_cohorts(open_labels(settings), database)
    again = export_cohorts(open_labels(settings), database)
    assert again.cohorts == exported.cohorts  # the same labels replace their own cohorts
    number = next(n for name, (n, _) in exported.cohorts.items() if name.endswith("heart_failure: events"))
    (tasks / "from_cohort.sql").write_text(
        TASK.format(
            name="from_cohort",
            options=f"kind: cohort\ncohort_definition_id: {number}\nvisit_guard: none\nmin_lag: 0 days\nrisk: next",
            body="",
        )
    )
    lock(tasks / "from_cohort.sql", database)
    command.label(settings, Request(allow_fewer=True, skip_tests=True))
    store = open_labels(settings)
    events = days_of_events(store, "heart_failure")
    assert len(events) > 10
    assert events.items() <= days_of_events(store, "from_cohort").items()
    with database.connect() as connection:
        at_risk = connection.execute(
            "SELECT count(*) FROM results.cohort AS c JOIN results.cohort_definition AS d USING (cohort_definition_id)"
            " WHERE d.cohort_definition_name LIKE '%heart_failure: at risk'"
        ).fetchone()
    view = store.task_view("heart_failure", risk="incident")
    assert at_risk is not None and 0 < at_risk[0] <= int(view.at_risk.sum())


def lock(file: Path, database: Database) -> None:
    with database.connect() as connection:
        lock_tasks([file], DatabaseConcepts(connection))


def days_of_events(store: LabelStore, task: str) -> dict[int, int]:
    """Study → calendar day of its first event, for studies at risk."""
    t0 = dict(zip(store.studies.column("study_id").to_pylist(), store.studies.column("t0").to_pylist(), strict=True))
    table = pq.read_table(store.path / "outcomes" / f"{task}.parquet").to_pylist()
    return {
        row["study_id"]: (t0[row["study_id"]] + row["time_s"]) // DAY
        for row in table
        if row["time_s"] is not None and row["mask"] == 0 and row["state"] == "event"
    }
