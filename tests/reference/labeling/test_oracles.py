"""Kernel = set-based PostgreSQL = DuckDB over the Parquet shards, bit for bit, on the same 200,000 events."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from presage_platform.labeling.first_occurrence import label_shard
from presage_platform.labeling.semantics import Policy, risk_windows
from presage_platform.labeling.timeline import Snapshot, sort_shard
from presage_platform.labeling.timeline_writer import write_shard
from tests.lib import label_sql
from tests.lib.label_events import Generated, generate
from tests.lib.timelines import day_end

POLICIES = {
    "default": Policy(data_cut_s=day_end("2024-06-30")),
    "include": Policy(data_cut_s=day_end("2024-06-30"), same_day="include", lookback_s=200 * 86_400),
    "guarded": Policy(
        data_cut_s=day_end("2024-06-30"), visit_guard="all", censor="last_visit_end", same_day="strict_day"
    ),
}


@pytest.fixture(scope="module")
def generated() -> Generated:
    return generate(200_000, num_concepts=3_000, num_tasks=700, mean_events=1_500, seed=3)


@dataclass
class Case:
    data: Generated
    windows: Any
    shard: Any
    tables: Any


@pytest.fixture(params=sorted(POLICIES))
def case(request: pytest.FixtureRequest, generated: Generated) -> Case:
    policy = POLICIES[request.param]
    windows = risk_windows(generated.facts, policy)
    shard = label_shard(generated.events, generated.facts, windows, generated.ontology, same_day=policy.same_day)
    tables = label_sql.kernel_tables(generated.events, generated.facts, windows, generated.ontology, policy.same_day)
    return Case(generated, windows, shard, tables)


def test_l52_the_kernel_equals_the_set_based_postgres_statement(case: Case, settings: Any) -> None:
    from presage_platform.postgres.connection import open_database

    with open_database(settings, command="test") as database:
        found, visits = label_sql.run_postgres(
            database.connect, case.tables, label_sql.text("first_occurrence"), label_sql.text("visit_codes")
        )
    assert len(found) > 10_000
    assert found == label_sql.rows_of_kernel(case.data.facts, case.shard, case.data.ontology.num_tasks)
    assert visits == label_sql.visits_of_kernel(case.data.facts, case.shard)


def test_l52_the_kernel_equals_duckdb_over_the_parquet_shards(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.parquet"
    write_shard(path, sort_shard(case.data.rows()))
    statement = f"""
        WITH event AS (SELECT person_id, concept, time, flags::INTEGER AS flags FROM read_parquet('{path}')),
        {label_sql.text("first_occurrence").split("WITH", 1)[1]}"""
    tables = {name: table for name, table in case.tables.items() if name != "event"}
    found = label_sql.run_duckdb(tables, statement)
    assert found == label_sql.rows_of_kernel(case.data.facts, case.shard, case.data.ontology.num_tasks)


def test_l52_the_scalars_equal_sql(settings: Any) -> None:
    """The risk windows of random hospitals, in PostgreSQL."""
    from hypothesis import HealthCheck, Phase, given
    from hypothesis import settings as profile

    from presage_platform.postgres.connection import open_database
    from tests.lib.label_strategies import policies, records

    with open_database(settings, command="test") as database:

        @profile(
            max_examples=12,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(records(), policies)
        def check(record: Any, policy: Any) -> None:
            windows = record.label(policy).windows
            [rows] = label_sql.run_postgres(
                database.connect, label_sql.window_tables(record, policy, 0), label_sql.text("risk_windows")
            )
            columns = (
                windows.entry_s,
                windows.end_s,
                windows.end_cause,
                windows.death_s,
                windows.death_end_s,
                windows.mask,
            )
            ours = [tuple(int(column[row]) for column in columns) for row in range(len(record.scans))]
            assert [tuple(int(value) for value in row[1:7]) for row in rows] == ours

        check()


def test_l11_a_written_shard_reads_back_as_it_was(generated: Generated, tmp_path: Path) -> None:
    shard = sort_shard(generated.rows())
    write_shard(tmp_path / "shard-00000.parquet", shard)
    snapshot = Snapshot(tmp_path, {"snapshot_id": "x", "shards": [shard.sha256], "settings": {}})
    snapshot.verify()
    assert np.array_equal(snapshot._read_shard(0).time, shard.time)
