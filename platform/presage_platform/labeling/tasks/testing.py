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

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from psycopg import sql

from presage_platform.errors import TaskTestError
from presage_platform.labeling import side_tables
from presage_platform.labeling.event import SECONDS_PER_DAY, State
from presage_platform.labeling.facts import Histories, Intervals, index_facts
from presage_platform.labeling.semantics import LAST_SECOND
from presage_platform.labeling.statements import statement
from presage_platform.labeling.tasks.compile import Compiled
from presage_platform.labeling.tasks.definition import Task
from presage_platform.labeling.tasks.execute import run_tasks
from presage_platform.labeling.tasks.locks import Lock
from presage_platform.labeling.tasks.results import TaskIndex
from presage_platform.labeling.tasks.run_schema import TASKS_ROLE
from presage_platform.postgres.bulk import copy_out

if TYPE_CHECKING:
    from presage_platform.postgres.connection import Database

SCRATCH_PREFIX = "task_test_"
CASE_SPAN = 1_000_000
DATA_CUT = date(2299, 12, 31)
BASE_TABLES = ("observation_period", "visit_occurrence", "death", "person", "care_site")
WORDS = {state.word for state in State}

# Short names of a fixture → column stem of each table; `date` and `datetime` are the event's own.
STEMS = {
    "condition_occurrence": "condition_start",
    "procedure_occurrence": "procedure",
    "drug_exposure": "drug_exposure_start",
    "measurement": "measurement",
    "observation": "observation",
    "device_exposure": "device_exposure_start",
    "death": "death",
}
CONCEPTS = {"drug_exposure": "drug", "device_exposure": "device"}


@dataclass(frozen=True)
class Case:
    """One case of a fixture."""

    name: str
    given: dict[str, list[dict[str, Any]]]
    expect: list[dict[str, Any]]


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


def run_cases(compiled: Compiled, lock: Lock, cases: list[Case], database: Database) -> list[dict[int, dict[str, Any]]]:
    """Run a task on its cases, laid out side by side as different persons, and return state and days by study."""
    tables = sorted({*BASE_TABLES, *compiled.task.front.requires})
    with _scratch(database, tables) as scratch:
        with scratch.connect() as connection:
            for number, case in enumerate(cases):
                for table, rows in _apart(case, number).items():
                    _insert(connection, scratch, table, rows, compiled.task, database.schemas.cdm)
            connection.commit()
            index = _index([row for number, case in enumerate(cases) for row in _shifted(case, number)], connection)
        result = run_tasks([(compiled, lock)], index, data_cut_s=_day_s(DATA_CUT), database=scratch)
    found: list[dict[int, dict[str, Any]]] = [{} for _ in cases]
    for row in result[compiled.task.name].rows.to_pylist():
        number, study = divmod(row["study_id"], CASE_SPAN)
        found[number][study] = {**row, "days": _days(row)}
    return found


def _shifted(case: Case, number: int) -> list[dict[str, Any]]:
    """Return the index rows of a case with persons and studies of their own."""
    shift = number * CASE_SPAN
    return [
        {**row, "study_id": row["study_id"] + shift, "person_id": row["person_id"] + shift}
        for row in case.given["index"]
    ]


def _apart(case: Case, number: int) -> dict[str, list[dict[str, Any]]]:
    """Return the CDM rows of a case with persons of their own."""
    shift = number * CASE_SPAN
    return {
        table: [{**row, "person_id": row["person_id"] + shift} for row in rows]
        for table, rows in case.given.items()
        if table != "index"
    }


def _compare(task: Task, case: Case, expected: dict[str, Any], found: dict[str, Any]) -> None:
    for key, wanted in expected.items():
        if key != "study_id" and found.get(key) != wanted:
            raise TaskTestError(
                f"task {task.name}: test `{case.name}`: study {expected['study_id']} has {key} {found.get(key)}, "
                f"expected {wanted}"
            )


def _days(row: dict[str, Any]) -> int | None:
    seconds = row["time_s"] if row["time_s"] is not None else row["end_s"]
    return None if seconds is None else int(seconds) // SECONDS_PER_DAY


@contextmanager
def _scratch(database: Database, tables: list[str]) -> Iterator[Database]:
    """Yield the same database with an empty CDM of its own; the vocabulary stays the real one."""
    name = f"{SCRATCH_PREFIX}{secrets.token_hex(6)}"
    scratch = replace(database, schemas=replace(database.schemas, cdm=name))
    schema, cdm, role = sql.Identifier(name), sql.Identifier(database.schemas.cdm), sql.Identifier(TASKS_ROLE)
    with database.connect() as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
        for table in tables:
            connection.execute(
                sql.SQL("CREATE TABLE {}.{} (LIKE {}.{})").format(
                    schema, sql.Identifier(table), cdm, sql.Identifier(table)
                )
            )
        connection.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, role))
        connection.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA {} TO {}").format(schema, role))
        connection.commit()
    try:
        yield scratch
    finally:
        with database.connect() as connection:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(schema))
            connection.commit()


def _insert(connection: Any, scratch: Database, table: str, rows: list[dict[str, Any]], task: Task, cdm: str) -> None:
    known = connection.execute(
        "SELECT column_name, data_type, is_nullable FROM information_schema.columns"
        " WHERE table_schema = %s AND table_name = %s",
        (scratch.schemas.cdm, table),
    ).fetchall()
    if not known:
        raise TaskTestError(f"task {task.name}: test gives rows of {table}, which the task does not require")
    for number, row in enumerate(rows, start=1):
        values = _expanded(connection, table, row, row["person_id"] * 1000 + number, task, cdm)
        unknown = sorted(set(values) - {column for column, _, _ in known})
        if unknown:
            raise TaskTestError(f"task {task.name}: test gives {table} a column {unknown[0]}, no such column")
        for column, kind, nullable in known:
            if nullable == "NO" and column not in values:
                values[column] = _filler(kind)
        connection.execute(
            sql.SQL("INSERT INTO {}.{} ({}) VALUES ({})").format(
                sql.Identifier(scratch.schemas.cdm),
                sql.Identifier(table),
                sql.SQL(", ").join(map(sql.Identifier, values)),
                sql.SQL(", ").join(sql.Placeholder() * len(values)),
            ),
            list(values.values()),
        )


def _expanded(connection: Any, table: str, row: dict[str, Any], number: int, task: Task, cdm: str) -> dict[str, Any]:
    """Return the columns of a short row: `concept`, `date`, `datetime`, `start`, `end` mean the table's own."""
    values: dict[str, Any] = {f"{table}_id": number} if table not in ("death", "person") else {}
    stem = STEMS.get(table, "")
    for key, value in row.items():
        if key == "concept":
            values[f"{CONCEPTS.get(table, table.split('_')[0])}_concept_id"] = _concept(connection, value, task, cdm)
        elif key in ("date", "datetime"):
            moment = datetime.fromisoformat(str(value))
            values[f"{stem}_date"] = moment.date()
            if key == "datetime":
                values[f"{stem}_datetime"] = moment
        elif key in ("start", "end"):
            _span(values, table, key, value)
        else:
            values[key] = value
    if table == "visit_occurrence" and "visit_end_date" not in values:
        values["visit_end_date"] = values.get("visit_start_date")
    return values


def _span(values: dict[str, Any], table: str, key: str, value: Any) -> None:
    moment = datetime.fromisoformat(str(value))
    if table == "visit_occurrence":
        values[f"visit_{key}_date"] = moment.date()
        if len(str(value)) > len("2020-01-01"):
            values[f"visit_{key}_datetime"] = moment
    else:
        values[f"{table}_{key}_date"] = moment.date()


def _concept(connection: Any, value: Any, task: Task, cdm: str) -> int:
    if isinstance(value, int):
        return value
    vocabulary, _, code = str(value).partition(":")
    row = connection.execute(
        sql.SQL("SELECT concept_id FROM {}.concept WHERE vocabulary_id = %s AND concept_code = %s").format(
            sql.Identifier(cdm)
        ),
        (vocabulary, code),
    ).fetchone()
    if row is None:
        raise TaskTestError(f"task {task.name}: test names {value}, which is not in the vocabulary")
    return int(row[0])


def _filler(kind: str) -> Any:
    return {"date": date(2000, 1, 1), "timestamp without time zone": datetime(2000, 1, 1), "character varying": ""}.get(
        kind, 0
    )


def _index(rows: list[dict[str, Any]], connection: Any) -> TaskIndex:
    t0 = np.array([np.datetime64(str(row["t0"]), "s") for row in rows]).astype(np.int64)
    facts, visit = index_facts(
        np.array([row["study_id"] for row in rows], dtype=np.int64),
        np.array([row["person_id"] for row in rows], dtype=np.int64),
        t0,
        np.array([len(str(row["t0"])) <= len("2020-01-01") for row in rows], dtype=np.bool_),
        _histories(connection),
    )
    return TaskIndex(
        facts,
        [int(number) if number >= 0 else None for number in visit],
        [row.get("site") for row in rows],
        [row.get("sex") for row in rows],
        [row.get("age_years") for row in rows],
    )


def _histories(connection: Any) -> Histories:
    period = copy_out(connection, statement("observation_period"))
    visit = side_tables.visits(copy_out(connection, statement("visit")), {})
    death, _ = side_tables.deaths(copy_out(connection, statement("death")), _day_s(DATA_CUT), {})
    column = side_tables.numbers
    periods = Intervals(column(period, "person_id"), column(period, "start_s"), column(period, "end_s"))
    visits = Intervals(column(visit, "person_id"), column(visit, "start_s"), column(visit, "end_s"))
    return Histories(
        periods=periods,
        visits=visits,
        visit_id=column(visit, "visit_occurrence_id"),
        death_person_id=column(death, "person_id"),
        death_s=column(death, "death_s"),
        last_event_person_id=visits.person_id[:0],
        last_event_s=visits.end_s[:0],
    )


def _day_s(day: date) -> int:
    return (day - date(1970, 1, 1)).days * SECONDS_PER_DAY + LAST_SECOND
