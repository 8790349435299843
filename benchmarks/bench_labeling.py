"""Labels at scale: kernel, reading, selection, store, extraction and one SQL task, each beside its target.

    python benchmarks/bench_labeling.py --events 20              20 million events × 8,192 tasks, with both databases
    python benchmarks/bench_labeling.py --events 225             the same cohort, larger: shards are streamed
    python benchmarks/bench_labeling.py --events 20 --write      also into benchmarks/results/

The same labels are made by PostgreSQL and DuckDB in the same run (up to 25 million events) and must have the same bits.
The events are synthetic (labeling L84): log-normal persons, Zipf concepts, visits over ten years, a random hierarchy.
Exit code 1 says that a target was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import labeling_cohort as cohorts  # noqa: E402
from benchmarks import labeling_database as databases  # noqa: E402

SMALL = 25_000_000
TARGETS: dict[str, tuple[float, bool, str]] = {
    "kernel_s": (3.0, False, "20 M events × 8,192 tasks, one core, cached arrays (s)"),
    "times_faster_than_postgres": (20.0, True, "times less than the set-based PostgreSQL statement, same bits"),
    "from_parquet_s": (60.0, False, "225 M events from Parquet, 2 cores (s)"),
    "peak_rss_mb": (4_096.0, False, "peak memory of the run, workers included (MB)"),
    "growth_exponent": (1.1, False, "growth from 20 M to 225 M events (exponent)"),
    "sort_write_events_per_cpu_s": (3_000_000.0, True, "sorting and writing a snapshot (events a second, one core)"),
    "extraction_rows_per_s": (2_000_000.0, True, "extraction from PostgreSQL, two connections (rows a second)"),
    "selection_s": (300.0, False, "selection, default mode, 225 M events (s)"),
    "open_ms": (50.0, False, "LabelStore.open (ms)"),
    "rows_32_ms": (2.0, False, "rows of 32 random studies, warm (ms)"),
    "sql_task_s": (10.0, False, "one diagnosis SQL task, 20,000 studies, 20 M conditions (s)"),
}
"""Measured name: target, whether more is better, what it is (labeling L17, L85)."""


def main() -> int:
    """Run the benchmark and print one JSON object and a line a target; return 1 when one was missed."""
    arguments = _arguments()
    num_events = int(arguments.events * 1e6)
    result: dict[str, Any] = {
        "events_asked": num_events,
        "tasks": arguments.tasks,
        "seed": arguments.seed,
        **_machine(),
    }
    with tempfile.TemporaryDirectory(prefix="presage-bench-", dir=arguments.folder) as folder:
        cohort, written = cohorts.write(Path(folder), num_events, arguments.tasks, arguments.seed)
        result |= written
        _say("kernel")
        result |= cohorts.kernel(cohort, arguments.runs)
        _say("from Parquet")
        result |= cohorts.from_parquet(cohort, arguments.workers, arguments.runs)
        _say("selection")
        result |= cohorts.selection(cohort)
        result["peak_rss_mb"] = cohorts.peak_rss_mb()
    if num_events <= SMALL:
        result |= _compared(num_events, arguments)
    if not arguments.no_database:
        _say("extraction and one SQL task")
        result |= databases.extraction_and_task(min(arguments.rows or num_events, 20_000_000), arguments.runs)
    print(json.dumps(result, indent=1))
    for line in verdicts(result):
        print(line)
    if arguments.write:
        _write(result)
    return 1 if any("missed" in line or "DIFFERENT" in line for line in verdicts(result)) else 0


def verdicts(result: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each target that was measured at its size, and one for each comparison of bits."""
    for name, (target, more, what) in TARGETS.items():
        if name in result:
            met = result[name] >= target if more else result[name] <= target
            value = f"{result[name]:,.3f}".rstrip("0").rstrip(".")
            yield f"{name}: {value} (target {target:,.10g}, {'met' if met else 'missed'}): {what}"
    for engine in ("postgres", "duckdb"):
        if f"{engine}_same_bits" in result:
            yield f"kernel and {engine}: {'same bits' if result[f'{engine}_same_bits'] else 'DIFFERENT'}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=float, default=2.0, help="millions: 0.2, 2, 20, 225")
    parser.add_argument("--tasks", type=int, default=8192)
    parser.add_argument("--runs", type=int, default=3, help="the median is reported")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, help="rows of the table that is extracted (default: events, at most 20 M)")
    parser.add_argument("--folder", help="where the cohort is written (default: the temporary folder)")
    parser.add_argument("--no-database", action="store_true", help="leave PostgreSQL and DuckDB out")
    parser.add_argument("--write", action="store_true", help="write a report into benchmarks/results/")
    return parser.parse_args()


def _compared(num_events: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Label the cohort once more in memory, store it, and let the databases make the same labels."""
    from presage_platform.labeling.first_occurrence import label_shard
    from presage_platform.labeling.semantics import risk_windows

    parts = list(cohorts.parts(num_events, arguments.tasks, arguments.seed))
    shards, seconds = [], 0.0
    for part in parts:
        windows = risk_windows(part.facts, cohorts.POLICY)
        start = time.perf_counter()
        shards.append(label_shard(part.events, part.facts, windows, part.ontology, same_day="exclude"))
        seconds += time.perf_counter() - start
    result = _store([SimpleNamespace(facts=part.facts) for part in parts], shards, arguments.tasks)
    if arguments.no_database:
        return result
    _say("DuckDB")
    result |= databases.by_duckdb(parts, shards)
    _say("PostgreSQL")
    result |= databases.by_postgres(parts, shards)
    result["times_faster_than_duckdb"] = round(result["duckdb_s"] / seconds, 1)
    result["times_faster_than_postgres"] = round(result["postgres_s"] / seconds, 1)
    return result


def _store(parts: list[Any], shards: list[Any], num_tasks: int) -> dict[str, Any]:
    """Time opening a label store of these labels, and reading 32 random studies (warm)."""
    import numpy as np

    from presage_platform.labeling.store import LabelStore
    from tests.lib.label_store import store_of

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        path = store_of(Path(folder), parts, shards, num_tasks, cohorts.POLICY)
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


def _say(what: str) -> None:
    print(f"… {what}", file=sys.stderr, flush=True)


def _machine() -> dict[str, Any]:
    import duckdb
    import numba
    import numpy as np
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
        "duckdb": duckdb.__version__,
        "commit": commit.stdout.strip(),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _write(result: dict[str, Any]) -> None:
    day = datetime.now(UTC).date().isoformat()
    folder = ROOT / "benchmarks" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"labeling_{result['events_asked'] // 1_000_000}M_{result['cores']}core_{day}.md"
    versions = ", ".join(f"{name} {result[name]}" for name in ("numpy", "numba", "psycopg", "duckdb"))
    lines = [
        "# How fast are labels made, and against what?",
        "",
        f"{result['events']:,} events × {result['tasks']:,} tasks: {result['from_parquet_s']} s from Parquet with "
        f"{result['workers']} workers, {result['kernel_s']} s on one core for the first {result['kernel_events']:,}.",
        "",
        f"Hardware and versions: {result['cpu']}, {result['cores']} cores (load {result['load_before']} before); "
        f"Python {result['python']}, {versions}; commit {result['commit']}.",
        f"Data: synthetic (labeling L84), seed {result['seed']}.",
        "",
        f"    python benchmarks/bench_labeling.py --events {result['events_asked'] / 1e6:g} --write",
        "",
        "| target | measured | wanted | |",
        "|---|---|---|---|",
        *(
            f"| {what} | {result[name]:,} | {'≥' if more else '≤'} {target:,.10g} | "
            f"{'met' if (result[name] >= target if more else result[name] <= target) else '**missed**'} |"
            for name, (target, more, what) in TARGETS.items()
            if name in result
        ),
        "",
        "| also measured | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in result.items() if name not in TARGETS),
        "",
        "Times are medians, warm. PostgreSQL ran in chunks of 500 persons on two connections, `work_mem` 256 MB,",
        "analysed; DuckDB in the same chunks on two threads; neither time has loading in it. A target that names a",
        "size is judged at any size that was asked for. Peak memory adds the peaks of all processes up to selection,",
        "before the databases were filled.",
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
