"""A task's own tests: rows in, states out, in PostgreSQL, through the engine that runs the task.

A fixture is a YAML list of cases. Each gives an index, CDM rows in short form, and the states that must come out:

    - name: event on the index day is history
      given:
        index: [{study_id: 1, person_id: 7, t0: "2020-03-01 10:00"}]
        observation_period: [{person_id: 7, start: 2015-01-01, end: 2022-12-31}]
        condition_occurrence: [{person_id: 7, concept: "SNOMED:59282003", date: 2020-03-01}]
      expect: [{study_id: 1, state: prevalent}]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from presage_platform.errors import TaskTestError
from presage_platform.labeling.event import SECONDS_PER_DAY, State
from presage_platform.labeling.tasks.compile import Compiled
from presage_platform.labeling.tasks.definition import Task
from presage_platform.labeling.tasks.execute import try_tasks
from presage_platform.labeling.tasks.locks import Lock
from presage_platform.labeling.tasks.scratch import DATA_CUT, Row, RowWriter, day_s, index_of, scratch_cdm

if TYPE_CHECKING:
    from presage_platform.postgres.connection import Database

CASE_SPAN = 1_000_000
BASE_TABLES = ("observation_period", "visit_occurrence", "death", "person", "care_site")
WORDS = {state.word for state in State}


@dataclass(frozen=True)
class Case:
    """One case of a fixture."""

    name: str
    given: dict[str, list[Row]]
    expect: list[Row]


def run_fixture(compiled: Compiled, lock: Lock, database: Database) -> int:
    """Run a task's fixture and return the number of cases that passed: all of them.

    Raises
    ------
    TaskTestError
        When the fixture is missing, does not cover the states that the task can have, or a case comes out otherwise.
    """
    cases = read_fixture(compiled.task)
    for case, found in zip(cases, run_cases(compiled, lock, cases, database), strict=True):
        for expected in case.expect:
            _compare(compiled.task, case, expected, found.get(int(expected["study_id"]), {}))
    return len(cases)


def read_fixture(task: Task) -> list[Case]:
    """Read a task's fixture and check that it covers event, censored, and prevalent and competing where possible."""
    path = task.fixture_path
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        cases = [Case(str(entry["name"]), dict(entry["given"]), list(entry["expect"])) for entry in document]
    except FileNotFoundError:
        raise TaskTestError(
            f"task {task.name}: test missing: expected cases in {path.parent.name}/{path.name}"
        ) from None
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        raise TaskTestError(f"task {task.name}: test file {path.name} is no list of name, given, expect") from None
    needed = {"event", "censored"}
    needed |= {"prevalent"} if task.front.risk == "incident" else set()
    needed |= {"competing"} if task.front.competing else set()
    covered = {str(row["state"]) for case in cases for row in case.expect}
    if needed - covered:
        raise TaskTestError(f"task {task.name}: test covers no {', '.join(sorted(needed - covered))}: add such a case")
    if covered - WORDS:
        raise TaskTestError(f"task {task.name}: test expects `{sorted(covered - WORDS)[0]}`, no such state")
    return cases


def run_cases(compiled: Compiled, lock: Lock, cases: list[Case], database: Database) -> list[dict[int, Row]]:
    """Run a task on its cases, laid out side by side as different persons; return the row of each study by case.

    A row has the columns of `outcomes/<task>.parquet`, `days` (to the event, else to the end), and on the wall clock
    `clock_s`, `risk_start_s` and `follow_up_end_s`.
    """
    tables = sorted({*BASE_TABLES, *compiled.task.front.requires})
    with scratch_cdm(database, tables) as scratch:
        with scratch.connect() as connection:
            writer = RowWriter(connection, scratch, compiled.task, database.schemas.cdm)
            for number, case in enumerate(cases):
                for table, rows in _apart(case, number).items():
                    writer.write(table, rows)
            connection.commit()
            index = index_of([row for number, case in enumerate(cases) for row in _shifted(case, number)], connection)
        made = try_tasks([(compiled, lock)], index, data_cut_s=day_s(DATA_CUT), database=scratch, keep_evidence=True)
    for error in made.failures.values():
        raise error
    rows, windows = made.results[compiled.task.name].rows.to_pylist(), made.evidence[compiled.task.name].windows
    found: list[dict[int, Row]] = [{} for _ in cases]
    for place, row in enumerate(rows):
        number, study = divmod(row["study_id"], CASE_SPAN)
        start = int(windows.risk_start_s[place])
        found[number][study] = {
            **row,
            "study_id": study,
            "days": _days(row),
            "clock_s": start - row["entry_s"],
            "risk_start_s": start,
            "follow_up_end_s": int(windows.follow_up_end_s[place]),
        }
    return found


def _shifted(case: Case, number: int) -> list[Row]:
    """Return the index rows of a case with persons and studies of their own."""
    shift = number * CASE_SPAN
    return [
        {**row, "study_id": row["study_id"] + shift, "person_id": row["person_id"] + shift}
        for row in case.given["index"]
    ]


def _apart(case: Case, number: int) -> dict[str, list[Row]]:
    """Return the CDM rows of a case with persons of their own."""
    shift = number * CASE_SPAN
    return {
        table: [{**row, "person_id": row["person_id"] + shift} for row in rows]
        for table, rows in case.given.items()
        if table != "index"
    }


def _compare(task: Task, case: Case, expected: Row, found: Row) -> None:
    for key, wanted in expected.items():
        if key != "study_id" and found.get(key) != wanted:
            raise TaskTestError(
                f"task {task.name}: test `{case.name}`: study {expected['study_id']} has {key} {found.get(key)}, "
                f"expected {wanted}"
            )


def _days(row: Row) -> int | None:
    seconds = row["time_s"] if row["time_s"] is not None else row["end_s"]
    return None if seconds is None else int(seconds) // SECONDS_PER_DAY
