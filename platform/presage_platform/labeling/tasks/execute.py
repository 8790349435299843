"""Run SQL tasks behind the wall: as the role that may only read, in one read-only snapshot, always rolled back.

What a task may see beside the CDM (its index, concept sets, eras) is laid out as real tables in a schema of this run
before the snapshot is taken, since a read-only transaction cannot make temporary ones; the schema is dropped after.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pyarrow as pa
from numpy.typing import NDArray
from psycopg import sql

from presage_platform.errors import LimitError, TaskError
from presage_platform.labeling.event import SECONDS_PER_DAY, Event
from presage_platform.labeling.hashing import hash_json
from presage_platform.labeling.outcomes import Candidates, age_mask, outcome_rows, sex_mask
from presage_platform.labeling.semantics import NEVER, IndexFacts, Policy, day_end, risk_windows
from presage_platform.labeling.tasks.compile import Block, Compiled, Lock
from presage_platform.labeling.tasks.definition import Era, Task
from presage_platform.logs import get_logger
from presage_platform.postgres.bulk import copy_in

if TYPE_CHECKING:
    from presage_platform.postgres.connection import Database

log = get_logger(__name__)

TASKS_ROLE = "presage_tasks"
RUN_PREFIX = "task_run_"
ERA_COLUMNS = {
    "visit_occurrence": ("visit_concept_id", "visit_start", "visit_end", "visit_occurrence_id"),
    "condition_occurrence": ("condition_concept_id", "condition_start", "condition_end", "condition_occurrence_id"),
    "drug_exposure": ("drug_concept_id", "drug_exposure_start", "drug_exposure_end", "drug_exposure_id"),
}
CONTRACT_TYPES = {
    "study_id": {"int8", "int4"},
    "event_date": {"date"},
    "risk_start_date": {"date"},
    "censor_date": {"date"},
    "event_datetime": {"timestamp"},
    "risk_start_datetime": {"timestamp"},
    "cause": {"int2", "int4", "int8"},
}


@dataclass(frozen=True, eq=False)
class TaskIndex:
    """The studies that tasks run on: what the record says around each, and what a query may read of it.

    `visit_occurrence_id`, `site`, `sex` and `age_years` are in the order of `facts`; None = unknown.
    """

    facts: IndexFacts
    visit_occurrence_id: list[int | None]
    site: list[str | None]
    sex: list[str | None]
    age_years: list[int | None]

    def relation(self) -> pa.Table:
        """Return `task_index` as tasks see it."""
        t0 = self.facts.t0_s.astype("datetime64[s]")
        return pa.table(
            {
                "study_id": self.facts.study_id,
                "person_id": self.facts.person_id,
                "t0": pa.array(t0.astype("datetime64[us]")),
                "t0_date": pa.array(t0.astype("datetime64[D]")),
                "visit_occurrence_id": pa.array(self.visit_occurrence_id, pa.int64()),
                "site": pa.array(self.site, pa.string()),
            }
        )


@dataclass(frozen=True, eq=False)
class TaskResult:
    """Rows of one task (labeling L93), how many candidates were dropped and why, and the hash of its definition."""

    rows: pa.Table
    definition_hash: str
    dropped: dict[str, int]


def run_tasks(
    tasks: Sequence[tuple[Compiled, Lock]], index: TaskIndex, *, data_cut_s: int, database: Database
) -> dict[str, TaskResult]:
    """Run compiled, locked tasks on the studies of an index; all see one state of the database.

    Raises
    ------
    TaskError
        When a query fails or breaks its contract; the message names columns and rules, never values.
    LimitError
        When a query exceeds the role's time or space.
    """
    results = {}
    with _run_schemas(tasks, index, database) as schemas, _snapshot(database) as snapshot:
        for compiled, lock in tasks:
            with _walled(database, schemas[compiled.task.name], snapshot) as connection:
                results[compiled.task.name] = _run(compiled, lock, index, data_cut_s, connection)
            log.info("task run", extra={"fields": {"studies": len(index.facts)}})
    return results


def policy_of(task: Task, data_cut_s: int) -> Policy:
    """Return the semantics that a task declares."""
    front = task.front
    return Policy(
        data_cut_s=data_cut_s,
        same_day=front.same_day,
        censor=front.censor,
        lookback_s=None if front.lookback_days is None else front.lookback_days * SECONDS_PER_DAY,
        min_lag_s=task.min_lag_days * SECONDS_PER_DAY,
        min_prior_obs_days=front.min_prior_obs_days,
        visit_guard=front.visit_guard,
        fed_by_conditions="condition_occurrence" in front.requires,
        follows_death=task.follows_death,
        death_competes="death" in front.competing,
    )


def _run(compiled: Compiled, lock: Lock, index: TaskIndex, data_cut_s: int, connection: Any) -> TaskResult:
    task, facts = compiled.task, index.facts
    policy = policy_of(task, data_cut_s)
    place = _Places(facts.study_id)
    at_risk = _moments(task, compiled.at_risk, "risk_start", place, connection)
    censor = _moments(task, compiled.censor, "censor", place, connection)
    windows = risk_windows(facts, policy, risk_start_s=at_risk, censor_s=censor)
    candidates, dropped = _candidates(task, compiled.body, place, connection)
    clock = None
    if task.front.clock == "risk_start" and at_risk is not None:
        clock = np.where(at_risk == NEVER, facts.t0_s, at_risk)
    rows = outcome_rows(
        facts,
        windows,
        candidates,
        policy,
        kind="binary_window" if task.front.kind == "binary_window" else "time_to_event",
        risk=task.front.risk,
        horizon_s=_seconds(task.front.horizon_days),
        window_s=_seconds(task.front.window_days),
        clock_s=clock,
        extra_mask=sex_mask(index.sex, task.front.sex)
        | age_mask(index.age_years, task.front.age.min, task.front.age.max),
    )
    definition = {"body": task.body_hash, "lock": lock.lock_hash, "policy": policy.to_json()}
    return TaskResult(rows, hash_json(definition), dropped)


def _candidates(task: Task, block: Block, place: _Places, connection: Any) -> tuple[Candidates, dict[str, int]]:
    columns, rows = _query(task, "body", block, connection)
    fetched = {name: [row[number] for row in rows] for number, name in enumerate(columns)}
    dated = [row for row, day in enumerate(fetched["event_date"]) if day is not None]
    stamps = fetched.get("event_datetime", [None] * len(rows))
    time_s, is_date = _instants([fetched["event_date"][row] for row in dated], [stamps[row] for row in dated])
    study = np.array([fetched["study_id"][row] for row in dated], dtype=np.int64)
    known, number = place.find(study)
    cause = np.array([(fetched["cause"][row] if "cause" in fetched else 1) or 1 for row in dated], dtype=np.int64)
    if not np.isin(cause, [Event.EVENT, Event.COMPETING]).all():
        raise TaskError(f"task {task.name}: Q10 `cause` holds another value than 1 (event) and 2 (competing)")
    dropped = {"without_date": len(rows) - len(dated), "unknown_study": int((~known).sum())}
    found = Candidates(number[known], time_s[known], is_date[known], cause[known].astype(np.uint8))
    return found, {reason: count for reason, count in dropped.items() if count}


def _moments(task: Task, block: Block | None, prefix: str, place: _Places, connection: Any) -> NDArray[np.int64] | None:
    """Return the earliest moment that a block gives each study (a date means its end), `NEVER` where it gives none."""
    if block is None:
        return None
    columns, rows = _query(task, "at_risk" if prefix == "risk_start" else "censor", block, connection)
    day, stamp = columns.index(f"{prefix}_date"), f"{prefix}_datetime"
    given = [row for row in rows if row[day] is not None]
    stamps = [row[columns.index(stamp)] if stamp in columns else None for row in given]
    time_s, is_date = _instants([row[day] for row in given], stamps)
    time_s = np.where(is_date, day_end(time_s), time_s)
    known, number = place.find(np.array([row[columns.index("study_id")] for row in given], dtype=np.int64))
    moments = np.full(len(place), NEVER, dtype=np.int64)
    np.minimum.at(moments, number[known], time_s[known])
    return moments


def _instants(days: list[Any], stamps: list[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return seconds, and where they are bare dates: no time, or midnight where most of the times are midnight."""
    is_date = np.array([stamp is None for stamp in stamps], dtype=np.bool_)
    chosen = [day if stamp is None else stamp for day, stamp in zip(days, stamps, strict=True)]
    time_s = np.array(chosen, dtype="datetime64[s]").astype(np.int64) if chosen else np.zeros(0, dtype=np.int64)
    midnight = ~is_date & (time_s % SECONDS_PER_DAY == 0)
    if midnight.sum() * 2 > (~is_date).sum():
        is_date |= midnight
    return time_s, is_date


def _query(task: Task, name: str, block: Block, connection: Any) -> tuple[list[str], list[tuple[Any, ...]]]:
    cursor = psycopg.RawCursor(connection)
    try:
        # Prepared, hence the extended protocol: the server itself refuses a second statement in the message.
        cursor.execute(block.sql, block.values, prepare=True)
        described = cursor.description or []
        rows = cursor.fetchall()
    except (psycopg.errors.QueryCanceled, psycopg.errors.ConfigurationLimitExceeded, psycopg.errors.OutOfMemory):
        raise LimitError(
            f"limit: task {task.name}: its {name} query exceeded the time or space of role {TASKS_ROLE}: narrow it, "
            "or have an administrator raise statement_timeout or temp_file_limit"
        ) from None
    except psycopg.Error as error:
        # The server's message may quote values; its code does not.
        raise TaskError(f"task {task.name}: its {name} query failed with SQLSTATE {error.sqlstate}") from None
    for column in described:
        kind = psycopg.adapters.types.get(column.type_code)
        allowed = CONTRACT_TYPES.get(column.name)
        if allowed is not None and (kind is None or kind.name not in allowed):
            found = kind.name if kind is not None else "another type"
            raise TaskError(
                f"task {task.name}: Q10 `{column.name}` is {found}, expected {' or '.join(sorted(allowed))}"
            )
    return [column.name for column in described], rows


class _Places:
    """Row numbers of studies."""

    def __init__(self, study_id: NDArray[np.int64]) -> None:
        self.order = np.argsort(study_id, kind="stable")
        self.sorted = study_id[self.order]

    def __len__(self) -> int:
        return len(self.sorted)

    def find(self, study_id: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which studies are known, and the row of each (0 where unknown)."""
        place = np.minimum(np.searchsorted(self.sorted, study_id), max(len(self.sorted) - 1, 0))
        known = self.sorted[place] == study_id if len(self.sorted) else np.zeros(len(study_id), dtype=np.bool_)
        return known, np.where(known, self.order[place] if len(self.sorted) else 0, 0)


@contextmanager
def _run_schemas(
    tasks: Sequence[tuple[Compiled, Lock]], index: TaskIndex, database: Database
) -> Iterator[dict[str, str]]:
    """Make, fill and analyse one schema a task (with the shared index in each); drop them at the end."""
    names = {compiled.task.name: f"{RUN_PREFIX}{secrets.token_hex(6)}" for compiled, _ in tasks}
    with database.connect() as connection:
        try:
            for compiled, lock in tasks:
                _fill(connection, sql.Identifier(names[compiled.task.name]), compiled.task, lock, index)
            connection.commit()
            yield names
        finally:
            connection.rollback()
            for name in names.values():
                connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))
            connection.commit()


def _fill(connection: Any, schema: sql.Identifier, task: Task, lock: Lock, index: TaskIndex) -> None:
    name = schema.as_string(connection).strip('"')
    connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
    connection.execute(
        sql.SQL(
            "CREATE TABLE {}.task_index (study_id bigint PRIMARY KEY, person_id bigint NOT NULL, t0 timestamp NOT NULL,"
            " t0_date date NOT NULL, visit_occurrence_id bigint, site text)"
        ).format(schema)
    )
    copy_in(connection, "task_index", index.relation(), schema=name)
    connection.execute(sql.SQL("CREATE INDEX ON {}.task_index (person_id)").format(schema))
    for set_name in task.front.concept_sets:
        table = f"cs_{set_name}"
        connection.execute(
            sql.SQL("CREATE TABLE {}.{} (concept_id bigint PRIMARY KEY)").format(schema, sql.Identifier(table))
        )
        copy_in(
            connection, table, pa.table({"concept_id": pa.array(lock.concept_ids(set_name), pa.int64())}), schema=name
        )
    for era_name, era in task.front.eras.items():
        _fill_era(connection, schema, f"era_{era_name}", era)
    tables = ["task_index", *(f"cs_{n}" for n in task.front.concept_sets), *(f"era_{n}" for n in task.front.eras)]
    for table in tables:
        connection.execute(sql.SQL("ANALYZE {}.{}").format(schema, sql.Identifier(table)))
    role = sql.Identifier(TASKS_ROLE)
    connection.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, role))
    connection.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA {} TO {}").format(schema, role))


def _fill_era(connection: Any, schema: sql.Identifier, name: str, era: Era) -> None:
    concept, start, end, key = ERA_COLUMNS[era.table]
    statement = sql.SQL(
        """
        CREATE TABLE {schema}.{name} AS
        WITH stay AS (
            SELECT t.person_id, t.{start} AS start_date, t.{stamp} AS start_datetime, t.{key} AS id,
                   greatest(coalesce(t.{end}, t.{start}), t.{start}) AS end_date
            FROM {table} AS t JOIN {schema}.{concepts} AS c ON c.concept_id = t.{concept}
            WHERE EXISTS (SELECT FROM {schema}.task_index AS i WHERE i.person_id = t.person_id)
        ), marked AS (
            SELECT *, start_date > max(end_date) OVER (
                PARTITION BY person_id ORDER BY start_date, end_date, id
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) + {gap} AS opens
            FROM stay
        ), numbered AS (
            SELECT *, count(*) FILTER (WHERE opens) OVER (
                PARTITION BY person_id ORDER BY start_date, end_date, id
            ) AS era
            FROM marked
        )
        SELECT person_id, min(start_date) AS start_date,
               (array_agg(start_datetime ORDER BY start_date, end_date, id))[1] AS start_datetime,
               max(end_date) AS end_date, (array_agg(id ORDER BY start_date, end_date, id))[1] AS first_id
        FROM numbered GROUP BY person_id, era
        """
    ).format(
        schema=schema,
        name=sql.Identifier(name),
        table=sql.Identifier(era.table),
        concepts=sql.Identifier(f"cs_{era.concepts}"),
        concept=sql.Identifier(concept),
        start=sql.Identifier(f"{start}_date"),
        stamp=sql.Identifier(f"{start}_datetime"),
        end=sql.Identifier(f"{end}_date"),
        key=sql.Identifier(key),
        gap=sql.Literal(era.gap_days),
    )
    connection.execute(statement)
    connection.execute(sql.SQL("CREATE INDEX ON {}.{} (person_id)").format(schema, sql.Identifier(name)))


@contextmanager
def _snapshot(database: Database) -> Iterator[str]:
    """Hold one snapshot open and yield its name, so that every task sees the same state."""
    with database.connect() as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = connection.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        yield str(row[0])
        connection.rollback()


@contextmanager
def _walled(database: Database, schema: str, snapshot: str) -> Iterator[Any]:
    """Log in as the role that may only read, in the shared snapshot; whatever happens is rolled back."""
    path = sql.SQL(", ").join(sql.Identifier(name) for name in ("pg_catalog", schema, database.schemas.cdm, "pg_temp"))
    connection = database.connect_tasks()
    try:
        connection.execute(sql.SQL("SET search_path TO {}").format(path))
        connection.commit()
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
        yield connection
    finally:
        connection.close()  # which rolls back, also where a broken session could not be told to


def _seconds(days: int | None) -> int | None:
    return None if days is None else days * SECONDS_PER_DAY
