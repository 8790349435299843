"""The SQL oracles of labeling, in DuckDB and in PostgreSQL: same statements, same tables, two engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from presage_platform.labeling.first_occurrence import ShardEvents
from presage_platform.labeling.ontology import ConceptTasks
from presage_platform.labeling.semantics import IndexFacts, Policy, RiskWindows, day_start
from tests.lib.timelines import Record, at, is_date

FOLDER = Path(__file__).resolve().parents[1] / "reference" / "labeling"
NO_DAY = -(1 << 61)


def text(name: str) -> str:
    """Return the text of one oracle statement."""
    return (FOLDER / f"{name}.sql").read_text()


def kernel_tables(
    events: ShardEvents, facts: IndexFacts, windows: RiskWindows, ontology: ConceptTasks, same_day: str
) -> dict[str, pa.Table]:
    """Return the tables of first_occurrence.sql and visit_codes.sql."""
    lengths = np.diff(events.offset)
    moved = day_start(facts.t0_s) if same_day == "include" else np.full(len(facts), NO_DAY)
    return {
        "index_": pa.table(
            {
                "study_id": facts.study_id,
                "person_id": facts.person_id,
                "t0": facts.t0_s,
                "r": windows.risk_start_s,
                "f": windows.follow_up_end_s,
                "lookback_from": windows.lookback_from_s,
                "moved_day": moved,
                "visit_start": facts.visit_start_s,
                "visit_end": facts.visit_end_s,
            }
        ),
        "event": pa.table(
            {
                "person_id": np.repeat(events.person_id, lengths),
                "concept": np.asarray(events.concept),
                "time": np.asarray(events.time),
                "flags": np.asarray(events.flags).astype(np.int32),
            }
        ),
        "concept_task": pa.table(
            {
                "concept": np.repeat(np.arange(len(ontology.indptr) - 1, dtype=np.int32), np.diff(ontology.indptr)),
                "task": ontology.task,
            }
        ),
    }


def window_tables(record: Record, policy: Policy, bridge_days: int) -> dict[str, pa.Table]:
    """Return the tables of risk_windows.sql, straight from a record."""
    histories, shard = record.histories(), record.shard()
    guarded = policy.visit_guard == "all" or (policy.visit_guard == "condition" and policy.fed_by_conditions)
    row = {
        "same_day": policy.same_day,
        "censor": policy.censor,
        "min_lag_s": policy.min_lag_s,
        "guarded": guarded,
        "data_cut_s": policy.data_cut_s,
        "death_cut_s": policy.death_cut_s,
        "death_pad_s": policy.death_pad_days * 86_400,
        "min_prior_obs_days": policy.min_prior_obs_days,
        "bridge_days": bridge_days,
    }
    kinds = {"same_day": pa.string(), "censor": pa.string(), "guarded": pa.bool_()}
    return {
        "study": pa.table(
            {
                "study_id": pa.array(range(1, len(record.scans) + 1), pa.int64()),
                "person_id": pa.array([scan.person + 1 for scan in record.scans], pa.int64()),
                "t0": pa.array([at(scan.t0) for scan in record.scans], pa.int64()),
                "t0_is_date": [is_date(scan.t0) for scan in record.scans],
            }
        ),
        "period": _intervals(histories.periods),
        "visit": _intervals(histories.visits),
        "death_": pa.table({"person_id": histories.death_person_id, "death_s": histories.death_s}),
        "event": pa.table(
            {
                "person_id": np.repeat(shard.person_id, np.diff(shard.offset)),
                "concept": shard.concept,
                "time": shard.time,
                "flags": shard.flags.astype(np.int32),
            }
        ),
        "policy": pa.table({name: pa.array([value], kinds.get(name, pa.int64())) for name, value in row.items()}),
    }


def run_duckdb(tables: dict[str, pa.Table], statement: str) -> list[tuple[Any, ...]]:
    """Run one statement in DuckDB; `/` on integers means what it means in PostgreSQL."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET threads = 1; SET integer_division = true")
        for name, table in tables.items():
            connection.register(name, table)
        return list(connection.execute(statement).fetchall())


def run_postgres(
    connect: Callable[[], Any], tables: dict[str, pa.Table], *statements: str
) -> list[list[tuple[Any, ...]]]:
    """Run statements in PostgreSQL on temporary tables."""
    from presage_platform.postgres.bulk import copy_in

    types = {"bool": "boolean", "string": "text", "int32": "integer", "int64": "bigint"}
    with connect() as connection:
        for name, table in tables.items():
            columns = ", ".join(f"{field.name} {types[str(field.type)]}" for field in table.schema)
            connection.execute(f"DROP TABLE IF EXISTS pg_temp.{name}")
            connection.execute(f"CREATE TEMP TABLE {name} ({columns})")
            copy_in(connection, name, table, schema="pg_temp")
            connection.execute(f"ANALYZE {name}")
        found = [connection.execute(statement).fetchall() for statement in statements]
        connection.rollback()
    return found


def rows_of_kernel(facts: IndexFacts, shard: Any, num_tasks: int) -> list[tuple[int, int, int | None, bool]]:
    """Return the kernel's labels in the form of first_occurrence.sql."""
    rows = []
    for number, study in enumerate(facts.study_id.tolist()):
        part = slice(shard.indptr[number], shard.indptr[number + 1])
        times = dict(zip(shard.task[part].tolist(), shard.time[part].tolist(), strict=True))
        bits = np.unpackbits(shard.prevalent[number], bitorder="little")[:num_tasks]
        for task in sorted(set(times) | set(np.flatnonzero(bits).tolist())):
            rows.append((study, task, times.get(task), bool(bits[task])))
    return sorted(rows)


def visits_of_kernel(facts: IndexFacts, shard: Any) -> list[tuple[int, int]]:
    """Return the kernel's visit codes in the form of visit_codes.sql."""
    row = np.repeat(facts.study_id, np.diff(shard.visit_indptr))
    return sorted(zip(row.tolist(), shard.visit_task.tolist(), strict=True))


def _intervals(intervals: Any) -> pa.Table:
    return pa.table({"person_id": intervals.person_id, "start_s": intervals.start_s, "end_s": intervals.end_s})
