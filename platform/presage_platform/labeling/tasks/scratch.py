"""An empty CDM beside the real vocabulary, and the rows of a fixture in it.

A fixture writes rows in short form: `concept` and `unit` by code or id, `date`, `datetime`, `start` and `end` for the
columns that each table has for them. What a table demands beyond that is filled in.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from psycopg import sql

from presage_platform.errors import TaskTestError
from presage_platform.labeling import side_tables
from presage_platform.labeling.event import SECONDS_PER_DAY
from presage_platform.labeling.facts import Histories, Intervals, index_facts
from presage_platform.labeling.semantics import LAST_SECOND
from presage_platform.labeling.statements import statement
from presage_platform.labeling.tasks.definition import Task
from presage_platform.labeling.tasks.results import TaskIndex
from presage_platform.labeling.tasks.run_schema import TASKS_ROLE
from presage_platform.postgres.bulk import copy_out

if TYPE_CHECKING:
    from presage_platform.postgres.connection import Database

Row = dict[str, Any]
SCRATCH_PREFIX = "task_test_"
DATA_CUT = date(2299, 12, 31)

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


@contextmanager
def scratch_cdm(database: Database, tables: list[str]) -> Iterator[Database]:
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


class RowWriter:
    """Writes the rows of fixtures into a scratch CDM; what it looks up, it looks up once."""

    def __init__(self, connection: Any, scratch: Database, task: Task, cdm: str) -> None:
        self.connection, self.schema, self.task, self.cdm = connection, scratch.schemas.cdm, task, cdm
        self.concepts: dict[str, int] = {}
        self.columns: dict[str, dict[str, tuple[str, bool]]] = {}
        found = connection.execute(
            "SELECT table_name, column_name, data_type, is_nullable = 'YES' FROM information_schema.columns"
            " WHERE table_schema = %s",
            [self.schema],
        ).fetchall()
        for table, column, kind, nullable in found:
            self.columns.setdefault(table, {})[column] = (kind, nullable)

    def write(self, table: str, rows: list[Row]) -> None:
        """Write rows of one table, numbered by person and place.

        Raises
        ------
        TaskTestError
            When the task does not require the table, or the table lacks a column.
        """
        known = self.columns.get(table)
        if known is None:
            raise TaskTestError(f"task {self.task.name}: test gives rows of {table}, which the task does not require")
        for number, row in enumerate(rows, start=1):
            values = self._expanded(table, row, row["person_id"] * 1000 + number)
            unknown = sorted(set(values) - set(known))
            if unknown:
                raise TaskTestError(f"task {self.task.name}: test gives {table} a column {unknown[0]}, no such column")
            for column, (kind, nullable) in known.items():
                if not nullable and column not in values:
                    values[column] = _filler(kind)
            self.connection.execute(
                sql.SQL("INSERT INTO {}.{} ({}) VALUES ({})").format(
                    sql.Identifier(self.schema),
                    sql.Identifier(table),
                    sql.SQL(", ").join(map(sql.Identifier, values)),
                    sql.SQL(", ").join(sql.Placeholder() * len(values)),
                ),
                list(values.values()),
            )

    def _expanded(self, table: str, row: Row, number: int) -> Row:
        """Return the columns of a short row: `concept`, `date`, `datetime`, `start`, `end` mean the table's own."""
        values: Row = {f"{table}_id": number} if table not in ("death", "person") else {}
        for key, value in row.items():
            if key == "concept":
                values[f"{CONCEPTS.get(table, table.split('_')[0])}_concept_id"] = self._concept(value)
            elif key == "unit":
                values["unit_concept_id"] = self._concept(value)
            elif key in ("date", "datetime"):
                moment, stem = datetime.fromisoformat(str(value)), STEMS.get(table, "")
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

    def _concept(self, value: Any) -> int:
        """Return the concept id of a code `VOCABULARY:code`; a number is one already."""
        if isinstance(value, int):
            return value
        if value not in self.concepts:
            vocabulary, _, code = str(value).partition(":")
            row = self.connection.execute(
                sql.SQL("SELECT concept_id FROM {}.concept WHERE vocabulary_id = %s AND concept_code = %s").format(
                    sql.Identifier(self.cdm)
                ),
                (vocabulary, code),
            ).fetchone()
            if row is None:
                raise TaskTestError(f"task {self.task.name}: test names {value}, which is not in the vocabulary")
            self.concepts[value] = int(row[0])
        return self.concepts[value]


def _span(values: Row, table: str, key: str, value: Any) -> None:
    moment = datetime.fromisoformat(str(value))
    if table == "visit_occurrence":
        values[f"visit_{key}_date"] = moment.date()
        if len(str(value)) > len("2020-01-01"):
            values[f"visit_{key}_datetime"] = moment
    else:
        values[f"{table}_{key}_date"] = moment.date()


def _filler(kind: str) -> Any:
    return {"date": date(2000, 1, 1), "timestamp without time zone": datetime(2000, 1, 1), "character varying": ""}.get(
        kind, 0
    )


def index_of(rows: list[Row], connection: Any) -> TaskIndex:
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
    death, _ = side_tables.deaths(copy_out(connection, statement("death")), day_s(DATA_CUT), {})
    column = side_tables.numbers
    last = _last_events(connection)
    periods = Intervals(column(period, "person_id"), column(period, "start_s"), column(period, "end_s"))
    visits = Intervals(column(visit, "person_id"), column(visit, "start_s"), column(visit, "end_s"))
    return Histories(
        periods=periods,
        visits=visits,
        visit_id=column(visit, "visit_occurrence_id"),
        death_person_id=column(death, "person_id"),
        death_s=column(death, "death_s"),
        last_event_person_id=np.array([person for person, _ in last], dtype=np.int64),
        last_event_s=np.array([second for _, second in last], dtype=np.int64),
    )


def _last_events(connection: Any) -> list[tuple[int, int]]:
    """Return the last second at which each person's record holds an event, ascending by person."""
    present = {
        row[0]
        for row in connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
        ).fetchall()
    }
    parts = [
        sql.SQL("SELECT person_id, coalesce({}, {}::timestamp) AS at FROM {}").format(
            sql.Identifier(f"{stem}_datetime"), sql.Identifier(f"{stem}_date"), sql.Identifier(table)
        )
        for table, stem in (*STEMS.items(), ("visit_occurrence", "visit_start"))
        if table in present
    ]
    rows = connection.execute(
        sql.SQL("SELECT person_id, extract(epoch FROM max(at))::bigint FROM ({}) AS e GROUP BY 1 ORDER BY 1").format(
            sql.SQL(" UNION ALL ").join(parts)
        )
    ).fetchall()
    return [(int(person), int(second)) for person, second in rows]


def day_s(day: date) -> int:
    """Return the last second of a day."""
    return (day - date(1970, 1, 1)).days * SECONDS_PER_DAY + LAST_SECOND
