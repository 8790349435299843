"""What is measured against databases: the same labels by PostgreSQL and DuckDB, extraction, one SQL task.

Used by `bench_labeling.py`. The server is an embedded one in a temporary folder.
"""

from __future__ import annotations

import datetime as dt
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.labeling_cohort import POLICY
from presage_platform.labeling.facts import Histories, Intervals, index_facts
from presage_platform.labeling.semantics import risk_windows
from presage_platform.settings import LabelingSettings
from tests.lib import label_sql
from tests.lib.label_events import Generated

PERSONS_A_CHUNK = 500
NUM_PERSONS, STUDIES = 20_000, 20_000
DAY = 86_400
JOIN = "JOIN event AS e ON e.person_id = i.person_id"
CHUNK = " AND e.person_id BETWEEN {0} AND {0} WHERE i.person_id BETWEEN {0} AND {0}"
TASK = """/*---
task: bench_diagnosis
version: 1
title: A diagnosis and what lies below it
concept_sets:
  outcome: {include: ["Bench:5"], descendants: true}
requires: [condition_occurrence]
---*/
select i.study_id, c.condition_start_date as event_date, c.condition_start_datetime as event_datetime
from   task_index i
join   condition_occurrence c on c.person_id = i.person_id
join   cs_outcome o on o.concept_id = c.condition_concept_id
"""


@contextmanager
def server() -> Iterator[Any]:
    """Yield a database of its own, and take it away again."""
    from presage_platform.postgres.connection import open_database
    from presage_platform.postgres.embedded import stop_server
    from presage_platform.settings import parse_settings

    with tempfile.TemporaryDirectory(prefix="presage-bench-") as folder, ExitStack() as stack:
        stack.callback(stop_server, Path(folder))
        with open_database(parse_settings(Path(folder), {}, environment={}), command="bench") as database:
            yield database


def by_postgres(parts: list[Generated], shards: list[Any]) -> dict[str, Any]:
    """Run the set-based statement in person chunks on two connections, and compare every bit."""
    from presage_platform.postgres.bulk import copy_in, copy_out

    statement = label_sql.text("first_occurrence")
    with server() as database:
        with database.connect() as connection:
            start = time.perf_counter()
            for number, part in enumerate(parts):
                for name, table in _tables(part).items():
                    if number == 0:
                        connection.execute(_create(name, table))
                    if number == 0 or name != "concept_task":
                        copy_in(connection, name, table, schema="public")
            for name, column in (("event", "person_id"), ("index_", "person_id"), ("concept_task", "concept")):
                connection.execute(f"CREATE INDEX ON {name} ({column})")
            connection.commit()
            loaded = time.perf_counter() - start
        with database.connect(autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
        seconds = _run_chunks(database, parts, statement)
        with database.connect() as connection:
            found = copy_out(connection, "SELECT * FROM found_0 UNION ALL SELECT * FROM found_1")
    return {
        "postgres_load_s": round(loaded, 1),
        "postgres_s": round(seconds, 1),
        "postgres_same_bits": same_bits(found, parts, shards),
    }


def by_duckdb(parts: list[Generated], shards: list[Any]) -> dict[str, Any]:
    """Run the same statement in DuckDB on two threads, in the same chunks, and compare every bit."""
    import duckdb
    import pyarrow as pa

    statement = label_sql.text("first_occurrence").replace(JOIN, JOIN + CHUNK.format("?"))
    found, seconds = [], 0.0
    with tempfile.TemporaryDirectory(prefix="presage-bench-") as folder:
        for part in parts:
            with duckdb.connect(str(Path(folder) / "one.duckdb")) as connection:
                connection.execute("SET threads = 2; SET memory_limit = '3GB'; SET integer_division = true")
                for name, table in _tables(part).items():
                    connection.register("given", table)
                    connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM given")
                    connection.unregister("given")
                persons = part.events.person_id
                for low, high in _chunks(persons):
                    start = time.perf_counter()
                    rows = connection.sql(statement, params=[low, high, low, high]).to_arrow_table()
                    seconds += time.perf_counter() - start
                    found.append(rows.select(["study_id", "task", "t", "prevalent"]))
    return {"duckdb_s": round(seconds, 1), "duckdb_same_bits": same_bits(pa.concat_tables(found), parts, shards)}


def extraction_and_task(rows: int, runs: int) -> dict[str, Any]:
    """Fill condition_occurrence, then time the product's extraction and one diagnosis task over it."""
    from presage_platform.labeling import extraction

    with server() as database, tempfile.TemporaryDirectory(prefix="presage-bench-") as folder:
        start = time.perf_counter()
        fill(database, rows)
        result: dict[str, Any] = {"cdm_rows": rows, "cdm_load_s": round(time.perf_counter() - start, 1)}
        settings = LabelingSettings(refresh="off", data_cut=dt.date(2024, 12, 31))
        reading, whole, read = [], [], extraction.Reader.read

        def timed(self: Any, *arguments: Any) -> Any:
            begun = time.perf_counter()
            found = read(self, *arguments)
            reading.append(time.perf_counter() - begun)
            return found

        extraction.Reader.read = timed  # type: ignore[method-assign]
        try:
            for _ in range(runs):
                shutil.rmtree(Path(folder) / "timeline", ignore_errors=True)
                start = time.perf_counter()
                extraction.extract_snapshot(database, settings, Path(folder) / "timeline")
                whole.append(time.perf_counter() - start)
        finally:
            extraction.Reader.read = read  # type: ignore[method-assign]
        result["extraction_rows_per_s"] = round(rows / statistics.median(reading))
        result["snapshot_rows_per_s"] = round(rows / statistics.median(whole))
        start = time.perf_counter()
        first = settings.model_copy(update={"refresh": "fingerprint"})
        extraction.extract_snapshot(database, first, Path(folder) / "timeline")
        result["snapshot_with_fingerprint_s"] = round(time.perf_counter() - start, 2)
        start = time.perf_counter()
        extraction.extract_snapshot(database, first, Path(folder) / "refreshed")
        start = time.perf_counter()
        extraction.extract_snapshot(database, first, Path(folder) / "refreshed")
        result["refresh_without_change_s"] = round(time.perf_counter() - start, 2)
        result["sql_task_s"] = round(_sql_task(database, Path(folder)), 2)
    return result


def fill(database: Any, rows: int) -> None:
    """Fill persons, periods, a small vocabulary and `rows` conditions, with the indexes that the schema declares."""
    with database.connect() as connection:
        connection.execute(
            "INSERT INTO person (person_id, gender_concept_id, year_of_birth, race_concept_id, ethnicity_concept_id)"
            " SELECT i, 8507, 1950, 0, 0 FROM generate_series(1, %s) AS i",
            [NUM_PERSONS],
        )
        connection.execute(
            "INSERT INTO observation_period (observation_period_id, person_id, observation_period_start_date,"
            " observation_period_end_date, period_type_concept_id)"
            " SELECT i, i, '2014-01-01', '2024-12-31', 0 FROM generate_series(1, %s) AS i",
            [NUM_PERSONS],
        )
        connection.execute(
            "INSERT INTO vocabulary (vocabulary_id, vocabulary_name, vocabulary_version, vocabulary_concept_id)"
            " VALUES ('None', 'OMOP', 'bench', 0)"
        )
        connection.execute(
            "INSERT INTO concept (concept_id, concept_name, domain_id, vocabulary_id, concept_class_id,"
            " standard_concept, concept_code, valid_start_date, valid_end_date)"
            " SELECT i, i::text, 'Condition', 'Bench', 'Disorder', 'S', i::text, '1970-01-01', '2099-12-31'"
            " FROM generate_series(1, 30000) AS i"
        )
        connection.execute(
            "INSERT INTO concept_ancestor (ancestor_concept_id, descendant_concept_id, min_levels_of_separation,"
            " max_levels_of_separation) SELECT 5, i, (i <> 5)::int, (i <> 5)::int FROM generate_series(5, 54) AS i"
        )
        indexes = connection.execute(
            "SELECT indexdef, format('%I.%I', schemaname, indexname) FROM pg_indexes"
            " WHERE tablename = 'condition_occurrence' AND indexdef NOT LIKE '%UNIQUE%'"
        ).fetchall()
        for _, name in indexes:
            connection.execute(f"DROP INDEX {name}")
        connection.execute("SELECT setseed(0.2)")
        connection.execute(
            "INSERT INTO condition_occurrence (condition_occurrence_id, person_id, condition_concept_id,"
            " condition_start_date, condition_start_datetime, condition_type_concept_id, condition_source_concept_id)"
            " SELECT i, 1 + (i * 7919) %% %s, 1 + (random() * 29999)::int, at::date,"
            " CASE WHEN random() < 0.7 THEN date_trunc('second', at) END, 32817, 1 + (random() * 29999)::int"
            " FROM (SELECT i, timestamp '2014-01-01' + random() * interval '3650 days' AS at"
            " FROM generate_series(1::bigint, %s) AS i) AS made",
            [NUM_PERSONS, rows],
        )
        for definition, _ in indexes:
            connection.execute(definition)
        connection.commit()
    with database.connect(autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def same_bits(found: Any, parts: list[Generated], shards: list[Any]) -> bool:
    """Compare times and history bits of the whole result with the kernel's arrays."""
    study, task = (np.asarray(found.column(name)).astype(np.int64) for name in ("study_id", "task"))
    time_s = np.asarray(found.column("t").fill_null(-1)).astype(np.int64)
    prevalent = np.asarray(found.column("prevalent"))
    order = np.lexsort((task, study))
    study, task, time_s, prevalent = study[order], task[order], time_s[order], prevalent[order]
    equal = True
    for part, shard in zip(parts, shards, strict=True):
        low = np.searchsorted(study, part.facts.study_id[0], side="left")
        high = np.searchsorted(study, part.facts.study_id[-1], side="right")
        here, tasks, times, seen = study[low:high], task[low:high], time_s[low:high], prevalent[low:high]
        happened = times >= 0
        rows = np.repeat(part.facts.study_id, np.diff(shard.indptr))
        equal &= np.array_equal(here[happened], rows)
        equal &= np.array_equal(tasks[happened], shard.task) and np.array_equal(times[happened], shard.time)
        bits = np.zeros((len(part.facts), shard.prevalent.shape[1] * 8), dtype=np.uint8)
        bits[np.searchsorted(part.facts.study_id, here[seen]), tasks[seen]] = 1
        equal &= np.array_equal(np.packbits(bits, axis=1, bitorder="little"), shard.prevalent)
    return bool(equal)


def _tables(part: Generated) -> dict[str, Any]:
    windows = risk_windows(part.facts, POLICY)
    return label_sql.kernel_tables(part.events, part.facts, windows, part.ontology, "exclude")


def _create(name: str, table: Any) -> str:
    types = {"int32": "integer", "int64": "bigint"}
    columns = ", ".join(f"{field.name} {types[str(field.type)]}" for field in table.schema)
    return f"CREATE UNLOGGED TABLE public.{name} ({columns})"


def _chunks(persons: Any, at_least: int = 1) -> list[tuple[int, int]]:
    pieces = np.array_split(persons, max(-(-len(persons) // PERSONS_A_CHUNK), at_least))
    return [(int(piece[0]), int(piece[-1])) for piece in pieces if len(piece)]


def _run_chunks(database: Any, parts: list[Generated], statement: str) -> float:
    """Return the seconds that two connections need for all chunks of 500 persons."""
    chunks = _chunks(np.concatenate([part.events.person_id for part in parts]), at_least=2)
    limited = statement.replace(JOIN, JOIN + CHUNK.format("%s"))
    lock, failures = threading.Lock(), []

    def work(number: int) -> None:
        try:
            with database.connect(autocommit=True) as connection:
                connection.execute("SET work_mem = '256MB'; SET max_parallel_workers_per_gather = 0")
                columns = "study_id bigint, task int, t bigint, prevalent boolean"
                connection.execute(f"CREATE UNLOGGED TABLE public.found_{number} ({columns})")
                while True:
                    with lock:
                        if not chunks:
                            return
                        low, high = chunks.pop()
                    connection.execute(f"INSERT INTO public.found_{number} {limited}", (low, high, low, high))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - start


def _sql_task(database: Any, folder: Path) -> float:
    """Return the seconds of one diagnosis task over 20,000 studies, from its lock to its outcome rows."""
    from presage_platform.labeling.tasks.engine import lock_tasks, prepare_in, run_ready
    from presage_platform.labeling.tasks.locks import DatabaseConcepts
    from presage_platform.labeling.tasks.results import TaskIndex

    path = folder / "bench_diagnosis.sql"
    path.write_text(TASK, encoding="utf-8")
    with database.connect() as connection:
        lock_tasks([path], DatabaseConcepts(connection))
    persons = np.arange(1, STUDIES + 1, dtype=np.int64) % NUM_PERSONS + 1
    persons.sort()
    start_s, none = 1_388_534_400, np.empty(0, dtype=np.int64)
    everyone = np.arange(1, NUM_PERSONS + 1, dtype=np.int64)
    whole = np.full(NUM_PERSONS, start_s)
    histories = Histories(
        periods=Intervals.sort(everyone, whole, whole + 4_018 * DAY - 1),
        visits=Intervals(none, none, none),
        visit_id=none,
        death_person_id=none,
        death_s=none,
        last_event_person_id=everyone,
        last_event_s=whole + 3_650 * DAY,
    )
    t0 = start_s + np.random.default_rng(0).integers(2 * 365, 7 * 365, STUDIES) * DAY + 36_000
    dates = np.zeros(STUDIES, dtype=np.bool_)
    facts = index_facts(np.arange(1, STUDIES + 1, dtype=np.int64), persons, t0, dates, histories)[0]
    index = TaskIndex(facts, [None] * STUDIES, [None] * STUDIES, [None] * STUDIES, [None] * STUDIES)
    start = time.perf_counter()
    ready = prepare_in([path], database)
    cut = int((dt.date(2024, 12, 31) - dt.date(1970, 1, 1)).days) * DAY + DAY - 1
    outcomes = run_ready(ready, index, data_cut_s=cut, snapshot=None, database=database)
    seconds = time.perf_counter() - start
    if outcomes.failures or outcomes.results["bench_diagnosis"].rows.num_rows != STUDIES:
        raise AssertionError(f"the task failed: {list(outcomes.failures.values())}")
    return seconds
