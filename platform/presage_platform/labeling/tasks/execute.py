"""Run SQL tasks behind the wall: as the role that may only read, in one read-only snapshot, always rolled back.

Before a query runs, its plan passes the cost gate and it runs on a hundred studies; both are far below what a forgotten
join condition costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from presage_platform.errors import LimitError, PresageError, TaskError
from presage_platform.labeling.outcomes import OutcomeKind, outcome_rows
from presage_platform.labeling.semantics import NEVER, RiskWindows, risk_windows
from presage_platform.labeling.tasks.candidates import Fetched, Found, Places, find_candidates, find_moments
from presage_platform.labeling.tasks.compile import Block, Compiled
from presage_platform.labeling.tasks.cost import CostGate, refuse_costly
from presage_platform.labeling.tasks.definition import Task
from presage_platform.labeling.tasks.locks import Lock
from presage_platform.labeling.tasks.results import (
    TaskIndex,
    TaskResult,
    definition_hash,
    policy_of,
    row_options,
    seconds,
)
from presage_platform.labeling.tasks.run_schema import TASKS_ROLE, RunSchema, run_schemas
from presage_platform.logs import get_logger

if TYPE_CHECKING:
    from presage_platform.postgres.connection import Database

log = get_logger(__name__)

CONTRACT_TYPES = {
    "study_id": {"int8", "int4"},
    "event_date": {"date"},
    "risk_start_date": {"date"},
    "censor_date": {"date"},
    "event_datetime": {"timestamp"},
    "risk_start_datetime": {"timestamp"},
    "cause": {"int2", "int4", "int8"},
    "value": {"numeric", "float8", "float4", "int8", "int4", "int2"},
    "unit_concept_id": {"int8", "int4"},
    "evidence_id": {"int8", "int4"},
    "evidence_concept_id": {"int8", "int4"},
}
ROW_KINDS: dict[str, OutcomeKind] = {"binary_window": "binary_window", "recurrent_count": "recurrent_count"}
TOO_MUCH = (psycopg.errors.QueryCanceled, psycopg.errors.ConfigurationLimitExceeded, psycopg.errors.OutOfMemory)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a task's rows were made from: its queries' rows, candidates, and when each study is at risk."""

    fetched: Fetched
    found: Found
    windows: RiskWindows


@dataclass
class Outcomes:
    """What tasks gave: rows of those that ran, the error of those that did not, evidence where it was asked for."""

    results: dict[str, TaskResult] = field(default_factory=dict)
    failures: dict[str, PresageError] = field(default_factory=dict)
    evidence: dict[str, Evidence] = field(default_factory=dict)


def run_tasks(
    tasks: Sequence[tuple[Compiled, Lock]],
    index: TaskIndex,
    *,
    data_cut_s: int,
    database: Database,
    gate: CostGate | None = None,
) -> dict[str, TaskResult]:
    """Run compiled, locked tasks on the studies of an index; all see one state of the database.

    Raises
    ------
    TaskError
        When a query fails or breaks its contract; the message names columns and rules, never values.
    LimitError
        When a query is refused by the cost gate, or exceeds the role's time or space.
    """
    outcomes = try_tasks(tasks, index, data_cut_s=data_cut_s, database=database, gate=gate)
    for error in outcomes.failures.values():
        raise error
    return outcomes.results


def try_tasks(
    tasks: Sequence[tuple[Compiled, Lock]],
    index: TaskIndex,
    *,
    data_cut_s: int,
    database: Database,
    gate: CostGate | None = None,
    keep_evidence: bool = False,
) -> Outcomes:
    """Run tasks one after the other in one snapshot; a task that fails does not keep the others from their rows."""
    outcomes = Outcomes()
    limits = gate or CostGate()
    with run_schemas(tasks, index, database, limits.dry_run_studies) as schemas, _snapshot(database) as snapshot:
        for compiled, lock in tasks:
            name = compiled.task.name
            schema = schemas[name]
            try:
                _rehearse(compiled, schema, snapshot, database, limits)
                with _walled(database, schema.path, snapshot) as connection:
                    result, evidence = _run(compiled, lock, index, data_cut_s, connection)
            except (TaskError, LimitError) as error:
                outcomes.failures[name] = error
                continue
            outcomes.results[name] = result
            if keep_evidence:
                outcomes.evidence[name] = evidence
            log.info("task run", extra={"fields": {"studies": len(index.facts)}})
    return outcomes


def plan_tasks(
    tasks: Sequence[tuple[Compiled, Lock]], index: TaskIndex, *, database: Database, gate: CostGate
) -> dict[str, dict[str, float]]:
    """Return the planner's estimate of each task, `cost` and `rows` over all its queries; nothing is run.

    Raises
    ------
    LimitError
        Of the first query that the cost gate refuses.
    """
    estimates = {}
    with run_schemas(tasks, index, database, gate.dry_run_studies) as schemas, _snapshot(database) as snapshot:
        for compiled, _ in tasks:
            name = compiled.task.name
            with _walled(database, schemas[name].path, snapshot) as connection:
                plans = [_explain(compiled.task, part, block, connection) for part, block in _blocks(compiled)]
            for (part, _), plan in zip(_blocks(compiled), plans, strict=True):
                refuse_costly(name, part, plan, gate)
            estimates[name] = {
                "cost": float(sum(plan["Total Cost"] for plan in plans)),
                "rows": float(plans[-1]["Plan Rows"]),
            }
    return estimates


def _blocks(compiled: Compiled) -> Iterator[tuple[str, Block]]:
    for name, block in (("at_risk", compiled.at_risk), ("censor", compiled.censor), ("body", compiled.body)):
        if block is not None:
            yield name, block


def _rehearse(compiled: Compiled, schema: RunSchema, snapshot: str, database: Database, gate: CostGate) -> None:
    """Pass every query through the cost gate, then run it on a few studies within a few seconds."""
    task = compiled.task
    with _walled(database, schema.path, snapshot) as connection:
        for name, block in _blocks(compiled):
            refuse_costly(task.name, name, _explain(task, name, block, connection), gate)
    if schema.rehearsal is None:
        return
    with _walled(database, (schema.rehearsal, *schema.path), snapshot) as connection:
        connection.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(int(gate.dry_run_s * 1000))))
        for name, block in _blocks(compiled):
            try:
                _fetch(task, name, block, connection)
            except LimitError:
                raise LimitError(
                    f"limit: task {task.name}: its {name} query takes more than {gate.dry_run_s:g} s for "
                    f"{gate.dry_run_studies} studies: narrow it, or have the indexes of its tables checked"
                ) from None


def _run(
    compiled: Compiled, lock: Lock, index: TaskIndex, data_cut_s: int, connection: Any
) -> tuple[TaskResult, Evidence]:
    task, facts = compiled.task, index.facts
    policy = policy_of(task, data_cut_s)
    place = Places(facts.study_id)
    at_risk = _moments(task, compiled.at_risk, "risk_start", place, connection)
    censor = _moments(task, compiled.censor, "censor", place, connection)
    windows = risk_windows(facts, policy, risk_start_s=at_risk, censor_s=censor)
    fetched = _fetch(task, "body", compiled.body, connection)
    found = find_candidates(task, lock, fetched, place)
    clock = None
    if task.front.clock == "risk_start" and at_risk is not None:
        clock = np.where(at_risk == NEVER, facts.t0_s, at_risk)
    rows = outcome_rows(
        facts,
        windows,
        found.candidates,
        policy,
        kind=ROW_KINDS.get(task.front.kind, "time_to_event"),
        window_s=seconds(task.front.window_days),
        era_gap_s=seconds(task.front.era_gap_days) or 0,
        clock_s=clock,
        **row_options(task, index),
    )
    result = TaskResult(rows, definition_hash(task, lock, data_cut_s), found.dropped)
    return result, Evidence(fetched, found, windows)


def _moments(task: Task, block: Block | None, prefix: str, place: Places, connection: Any) -> NDArray[np.int64] | None:
    if block is None:
        return None
    name = "at_risk" if prefix == "risk_start" else "censor"
    return find_moments(_fetch(task, name, block, connection), prefix, place)


def _fetch(task: Task, name: str, block: Block, connection: Any) -> Fetched:
    cursor = _send(task, name, block.sql, block, connection)
    try:
        rows = cursor.fetchall()
    except psycopg.Error as error:
        raise _failure(task, name, error) from None
    described = cursor.description or []
    for column in described:
        kind = psycopg.adapters.types.get(column.type_code)
        allowed = CONTRACT_TYPES.get(column.name)
        if allowed is not None and (kind is None or kind.name not in allowed):
            found = kind.name if kind is not None else "another type"
            raise TaskError(
                f"task {task.name}: Q10 `{column.name}` is {found}, expected {' or '.join(sorted(allowed))}"
            )
    return Fetched([column.name for column in described], rows)


def _explain(task: Task, name: str, block: Block, connection: Any) -> dict[str, Any]:
    (document,) = _send(task, name, f"EXPLAIN (FORMAT JSON) {block.sql}", block, connection).fetchone()
    plan: dict[str, Any] = document[0]["Plan"]
    return plan


def _send(task: Task, name: str, text: str, block: Block, connection: Any) -> Any:
    cursor = psycopg.RawCursor(connection)
    try:
        # Prepared, hence the extended protocol: the server itself refuses a second statement in the message.
        cursor.execute(text, block.values, prepare=True)
    except psycopg.Error as error:
        raise _failure(task, name, error) from None
    return cursor


def _failure(task: Task, name: str, error: psycopg.Error) -> PresageError:
    if isinstance(error, TOO_MUCH):
        return LimitError(
            f"limit: task {task.name}: its {name} query exceeded the time or space of role {TASKS_ROLE}: narrow it, "
            "or have an administrator raise statement_timeout or temp_file_limit"
        )
    # The server's message may quote values; its code does not.
    return TaskError(f"task {task.name}: its {name} query failed with SQLSTATE {error.sqlstate}")


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
def _walled(database: Database, schemas: Sequence[str], snapshot: str) -> Iterator[Any]:
    """Log in as the role that may only read, in the shared snapshot; whatever happens is rolled back."""
    names = ("pg_catalog", *schemas, database.schemas.cdm, "pg_temp")
    path = sql.SQL(", ").join(sql.Identifier(name) for name in names)
    connection = database.connect_tasks()
    try:
        connection.execute(sql.SQL("SET search_path TO {}").format(path))
        connection.commit()
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
        yield connection
    finally:
        connection.close()  # which rolls back, also where a broken session could not be told to
