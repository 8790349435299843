"""First occurrences at scale: the kernel against the set-based PostgreSQL statement, in one run, with equal bits.

    python benchmarks/bench_labeling.py --events 20            20 million events × 8,192 tasks
    python benchmarks/bench_labeling.py --events 225 --no-postgres
    python benchmarks/bench_labeling.py --events 20 --write    also into benchmarks/results/

The events are synthetic (labeling L84): log-normal persons, Zipf concepts, visits over ten years, a random hierarchy.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from presage_platform.labeling.first_occurrence import label_shard  # noqa: E402
from presage_platform.labeling.semantics import Policy, risk_windows  # noqa: E402
from tests.lib import label_sql  # noqa: E402
from tests.lib.label_events import Generated, dag, generate  # noqa: E402

POLICY = Policy(data_cut_s=1_720_000_000)
SHARD_EVENTS = 4_000_000
PERSONS_A_CHUNK = 500
NUM_CONCEPTS = 30_000
TARGETS = {
    "kernel_s_at_20M": 3.0,
    "times_faster_than_postgres": 20.0,
    "open_ms": 50.0,
    "rows_32_ms": 2.0,
    "extraction_rows_per_s": 2_000_000.0,
}


def main() -> None:
    """Run the benchmark and print one JSON object and the ratio beside its target."""
    arguments = _arguments()
    num_events = int(arguments.events * 1e6)
    result: dict[str, Any] = {
        "events_asked": num_events,
        "tasks": arguments.tasks,
        "seed": arguments.seed,
        **_machine(),
    }
    keep = num_events <= 25_000_000
    kept: list[Generated] = []
    labelled: list[Any] = []
    totals, cpu = np.zeros(arguments.runs), np.zeros(arguments.runs)
    counts = {"events": 0, "studies": 0, "nnz": 0}
    digest = hashlib.sha256()
    for number, part in enumerate(_parts(num_events, arguments.tasks, arguments.seed)):
        windows = risk_windows(part.facts, POLICY)
        if number == 0:
            label_shard(part.events, part.facts, windows, part.ontology, same_day="exclude")  # warm the compiler
        for run in range(arguments.runs):
            start, busy = time.perf_counter(), time.process_time()
            shard = label_shard(part.events, part.facts, windows, part.ontology, same_day="exclude")
            totals[run] += time.perf_counter() - start
            cpu[run] += time.process_time() - busy
        counts["events"] += len(part.events.time)
        counts["studies"] += len(part.facts)
        counts["nnz"] += len(shard.task)
        for array in (shard.indptr, shard.task, shard.time, shard.prevalent):
            digest.update(np.ascontiguousarray(array).tobytes())
        if keep:
            kept.append(part)
            labelled.append(shard)
    result |= counts
    result["kernel_s"] = round(statistics.median(totals.tolist()), 3)
    result["kernel_s_spread"] = [round(float(totals.min()), 3), round(float(totals.max()), 3)]
    result["kernel_cpu_s"] = round(statistics.median(cpu.tolist()), 3)
    result["events_per_s"] = round(counts["events"] / result["kernel_s"])
    result["checksum"] = digest.hexdigest()[:16]
    if keep:
        result |= _store(kept, labelled, arguments.tasks)
        if not arguments.no_postgres:
            result |= _postgres(kept, labelled)
            result["times_faster_than_postgres"] = round(result["postgres_s"] / result["kernel_s"], 1)
    result["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(result, indent=1))
    for line in _verdicts(result):
        print(line)
    if arguments.write:
        _write(result)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=float, default=2.0, help="millions: 0.2, 2, 20, 225")
    parser.add_argument("--tasks", type=int, default=8192)
    parser.add_argument("--runs", type=int, default=3, help="kernel runs; the median is reported")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--no-postgres", action="store_true")
    parser.add_argument("--write", action="store_true", help="write a report into benchmarks/results/")
    return parser.parse_args()


def _parts(num_events: int, num_tasks: int, seed: int) -> Iterator[Generated]:
    ontology = dag(NUM_CONCEPTS, num_tasks, 6.0, seed)
    left, first_person = num_events, 1
    while left > 0:
        part = generate(
            min(left, SHARD_EVENTS), num_tasks=num_tasks, seed=seed, first_person=first_person, ontology=ontology
        )
        yield part
        left -= SHARD_EVENTS
        first_person += len(part.events.person_id)


def _store(parts: list[Generated], shards: list[Any], num_tasks: int) -> dict[str, Any]:
    """Time opening a label store of these labels, and reading 32 random studies (warm)."""
    from presage_platform.labeling.store import LabelStore
    from tests.lib.label_store import store_of

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        path = store_of(Path(folder), parts, shards, num_tasks, POLICY)
        written = time.perf_counter() - start
        opened = []
        for _ in range(5):
            start = time.perf_counter()
            labels = LabelStore.open(path)
            opened.append(time.perf_counter() - start)
        rng, batches = np.random.default_rng(0), []
        labels.rows(list(range(labels.num_studies)))
        for _ in range(50):
            rows = rng.integers(0, labels.num_studies, 32)
            start = time.perf_counter()
            labels.rows(rows)
            batches.append(time.perf_counter() - start)
    return {
        "store_write_s": round(written, 2),
        "open_ms": round(statistics.median(opened) * 1e3, 2),
        "rows_32_ms": round(statistics.median(batches) * 1e3, 3),
    }


def _postgres(parts: list[Generated], shards: list[Any]) -> dict[str, Any]:
    """Run the set-based statement in person chunks on two connections, and compare every bit."""
    from presage_platform.postgres.bulk import copy_in, copy_out
    from presage_platform.postgres.connection import open_database
    from presage_platform.postgres.embedded import stop_server
    from presage_platform.settings import parse_settings

    statement = label_sql.text("first_occurrence")
    with tempfile.TemporaryDirectory(prefix="presage-bench-") as folder, ExitStack() as stack:
        stack.callback(stop_server, Path(folder))
        settings = parse_settings(Path(folder), {}, environment={})
        with open_database(settings, command="bench", check_schema=False) as database:
            with database.connect() as connection:
                start = time.perf_counter()
                for number, part in enumerate(parts):
                    windows = risk_windows(part.facts, POLICY)
                    tables = label_sql.kernel_tables(part.events, part.facts, windows, part.ontology, "exclude")
                    for name, table in tables.items():
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
            extraction = _extraction(database, sum(len(part.events.time) for part in parts))
            seconds = _run_chunks(database, parts, statement)
            with database.connect() as connection:
                found = copy_out(connection, "SELECT * FROM found_0 UNION ALL SELECT * FROM found_1")
    return {
        "postgres_load_s": round(loaded, 1),
        "postgres_s": round(seconds, 1),
        "same_bits": _equal(found, parts, shards),
    } | extraction


def _create(name: str, table: Any) -> str:
    types = {"int32": "integer", "int64": "bigint"}
    columns = ", ".join(f"{field.name} {types[str(field.type)]}" for field in table.schema)
    return f"CREATE UNLOGGED TABLE public.{name} ({columns})"


def _run_chunks(database: Any, parts: list[Generated], statement: str) -> float:
    """Return the seconds that two connections need for all chunks of 500 persons."""
    persons = np.concatenate([part.events.person_id for part in parts])
    chunks = [(int(c[0]), int(c[-1])) for c in np.array_split(persons, max(-(-len(persons) // PERSONS_A_CHUNK), 2))]
    join = "JOIN event AS e ON e.person_id = i.person_id"
    chunk = " AND e.person_id BETWEEN %s AND %s WHERE i.person_id BETWEEN %s AND %s"
    limited = statement.replace(join, join + chunk)
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
                    connection.execute(f"INSERT INTO found_{number} {limited}", (low, high, low, high))
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


def _extraction(database: Any, rows: int) -> dict[str, Any]:
    """Time ADBC and our own COPY decoder on the same rows."""
    from adbc_driver_postgresql import dbapi

    from presage_platform.postgres.bulk import copy_out

    query = "SELECT person_id, concept, time, flags FROM public.event"
    start = time.perf_counter()
    with dbapi.connect(database.conninfo, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        fetched = sum(batch.num_rows for batch in cursor.fetch_record_batch())
    adbc = time.perf_counter() - start
    limit = min(rows, 2_000_000)
    start = time.perf_counter()
    with database.connect() as connection:
        own = copy_out(connection, f"{query} LIMIT {limit}").num_rows
    decoder = time.perf_counter() - start
    return {"extraction_rows_per_s": round(fetched / adbc), "own_decoder_rows_per_s": round(own / decoder)}


def _equal(found: Any, parts: list[Generated], shards: list[Any]) -> bool:
    """Compare times and history bits of the whole result with the kernel's arrays."""
    study, task = (np.asarray(found.column(name)).astype(np.int64) for name in ("study_id", "task"))
    time_s = np.asarray(found.column("t").fill_null(-1)).astype(np.int64)
    prevalent = np.asarray(found.column("prevalent"))
    order = np.lexsort((task, study))
    study, task, time_s, prevalent = study[order], task[order], time_s[order], prevalent[order]
    equal = True
    for part, shard in zip(parts, shards, strict=True):
        low, high = np.searchsorted(study, part.facts.study_id[[0, -1]], side="left")
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


def _verdicts(result: dict[str, Any]) -> Iterator[str]:
    measured = dict(result)
    if 15e6 <= result["events"] <= 25e6:
        measured["kernel_s_at_20M"] = result["kernel_s"]
    for name, target in TARGETS.items():
        if name in measured:
            met = measured[name] >= target if "per_s" in name or "faster" in name else measured[name] <= target
            print_value = f"{measured[name]:,.3f}".rstrip("0").rstrip(".")
            yield f"{name}: {print_value} (target {target:,.0f}, {'met' if met else 'missed'})"
    if "same_bits" in result:
        yield f"kernel and PostgreSQL: {'same bits' if result['same_bits'] else 'DIFFERENT'}"


def _machine() -> dict[str, Any]:
    import numba
    import psycopg

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "psycopg": psycopg.__version__,
        "commit": commit.stdout.strip(),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _write(result: dict[str, Any]) -> None:
    day = datetime.now(UTC).date().isoformat()
    folder = ROOT / "benchmarks" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    hardware = f"{result['cores']}core"
    path = folder / f"labeling_{result['events_asked'] // 1_000_000}M_{hardware}_{day}.md"
    times = result.get("times_faster_than_postgres")
    ratio = f", {times} times less than the set-based PostgreSQL statement, with the same bits"
    lines = [
        "# How fast are first occurrences, and against what?",
        "",
        f"{result['events']:,} events × {result['tasks']:,} tasks take {result['kernel_s']} s on one core"
        + (f"{ratio}." if result.get("same_bits") else "."),
        "",
        f"Hardware and versions: {result['cpu']}, {result['cores']} cores; Python {result['python']}, "
        f"numpy {result['numpy']}, numba {result['numba']}; commit {result['commit']}.",
        f"Data: synthetic (labeling L84), seed {result['seed']}.",
        "",
        f"    python benchmarks/bench_labeling.py --events {result['events_asked'] / 1e6:g} --write",
        "",
        "| what | measured |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in result.items() if not isinstance(value, str)),
        "",
        "Targets:",
        "",
        *(f"- {line}" for line in _verdicts(result)),
        "",
        "The kernel's time is the median of its runs, warm, one core. PostgreSQL ran in chunks of",
        f"{PERSONS_A_CHUNK} persons on two connections, `work_mem` 256 MB, analysed; its time has no loading in it.",
        "Not measured: reading from Parquet, more than one core.",
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
