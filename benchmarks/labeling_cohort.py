"""A cohort of benchmark size on disk, and what is measured on it: kernel, reading, selection. Shards are streamed.

Used by `bench_labeling.py`. Memory holds one shard at a time, and the index of all studies.
"""

from __future__ import annotations

import hashlib
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from presage_platform.labeling.first_occurrence import label_shard
from presage_platform.labeling.ontology import ConceptTasks, Vocabulary
from presage_platform.labeling.pipeline import ShardJob, label_job
from presage_platform.labeling.semantics import IndexFacts, Policy, RiskWindows, risk_windows
from presage_platform.labeling.task_choice import choose_tasks
from presage_platform.labeling.timeline import Snapshot, sort_shard
from presage_platform.labeling.timeline_writer import StagedShard, stage_shard, write_snapshot
from presage_platform.parallel import map_partitions
from presage_platform.settings import LabelingSettings
from tests.lib.label_events import Generated, above_tasks, dag, generate

POLICY = Policy(data_cut_s=1_720_000_000)
SHARD_EVENTS = 4_000_000
NUM_CONCEPTS = 30_000
TASK_IDS = 10_000_000
"""Concept id of task 0 in the benchmark's vocabulary; leaves are 1 … 30,000."""


@dataclass(frozen=True)
class Cohort:
    """A snapshot whose shard n holds the persons of part n, and the studies of each part."""

    snapshot: Snapshot
    facts: list[IndexFacts]
    windows: list[RiskWindows]
    ontology: ConceptTasks
    num_tasks: int
    seed: int

    @property
    def num_events(self) -> int:
        """Events of all shards."""
        return int(self.snapshot.manifest["num_events"])


def parts(num_events: int, num_tasks: int, seed: int) -> Iterator[Generated]:
    """Yield the cohort in parts of whole persons, the same for any total."""
    ontology = dag(NUM_CONCEPTS, num_tasks, 6.0, seed)
    left, first_person = num_events, 1
    while left > 0:
        part = generate(
            min(left, SHARD_EVENTS), num_tasks=num_tasks, seed=seed, first_person=first_person, ontology=ontology
        )
        yield part
        left -= SHARD_EVENTS
        first_person += len(part.events.person_id)


def write(folder: Path, num_events: int, num_tasks: int, seed: int) -> tuple[Cohort, dict[str, Any]]:
    """Write the cohort as a snapshot; return it, and how fast a core sorts and writes."""
    facts: list[IndexFacts] = []
    seconds, persons = 0.0, 0
    deaths = pa.table({"person_id": pa.array([], pa.int64()), "death_s": pa.array([], pa.int64())})

    def staged() -> Iterator[StagedShard]:
        nonlocal seconds, persons
        rng = np.random.default_rng((seed, 5))
        for number, part in enumerate(parts(num_events, num_tasks, seed)):
            facts.append(part.facts)
            persons += len(part.events.person_id)
            rows = part.rows()[rng.permutation(len(part.events.time))]
            rows["concept"] += 1
            if number == 0:  # warm the compiler
                stage_shard(folder / "warm.parquet", sort_shard(rows[:1000].copy()), deaths).path.unlink()
            start = time.process_time()
            shard = stage_shard(folder / f"waiting-{number:05d}.parquet", sort_shard(rows), deaths)
            seconds += time.process_time() - start
            yield shard

    empty = pa.table({name: pa.array([], pa.int64()) for name in ("person_id", "start_s", "end_s")})
    sides = {"person": empty, "observation_period": empty, "visit": empty, "death": deaths}
    snapshot = write_snapshot(
        folder, staged(), sides, settings={"data_cut_s": POLICY.data_cut_s}, vocabulary_version="", counts=dict
    )
    windows = [risk_windows(one, POLICY) for one in facts]
    ontology = _of_present(dag(NUM_CONCEPTS, num_tasks, 6.0, seed), snapshot.concepts - 1)
    cohort = Cohort(snapshot, facts, windows, ontology, num_tasks, seed)
    size = sum(path.stat().st_size for path in snapshot.path.glob("shard-*.parquet"))
    return cohort, {
        "events": cohort.num_events,
        "studies": sum(len(one) for one in facts),
        "persons": persons,
        "parquet_bytes_an_event": round(size / cohort.num_events, 2),
        "sort_write_events_per_cpu_s": round(cohort.num_events / seconds),
    }


def kernel(cohort: Cohort, runs: int) -> dict[str, Any]:
    """Time the kernel on one core over cached arrays: the first 20 million events, and all of them."""
    numbers = range(cohort.snapshot.n_shards)
    first = [number for number in numbers if number < 20_000_000 // SHARD_EVENTS]
    _one_core(cohort, numbers)  # makes the arrays and warms the compiler
    small = [_one_core(cohort, first) for _ in range(runs)]
    found: dict[str, Any] = {
        "kernel_s": round(statistics.median(run[0] for run in small), 3),
        "kernel_s_spread": [round(min(run[0] for run in small), 3), round(max(run[0] for run in small), 3)],
        "kernel_events": small[0][1],
    }
    found["kernel_events_per_s"] = round(small[0][1] / found["kernel_s"])
    if len(first) < len(numbers):
        whole = [_one_core(cohort, numbers) for _ in range(runs)]
        found["kernel_all_s"] = round(statistics.median(run[0] for run in whole), 3)
        growth = np.log(found["kernel_all_s"] / found["kernel_s"]) / np.log(whole[0][1] / small[0][1])
        found["growth_exponent"] = round(float(growth), 3)
    return found


def from_parquet(cohort: Cohort, workers: int, runs: int) -> dict[str, Any]:
    """Time the product's way from Parquet to labels with some workers; the arrays are made anew each time."""
    list(map_partitions(label_job, [_job(cohort, 0)] * workers, workers=workers))  # start the workers, warm
    seconds, sums, nnz = [], set(), 0
    for _ in range(runs):
        shutil.rmtree(cohort.snapshot.path / "arrays", ignore_errors=True)
        start = time.perf_counter()
        digests, nnz = {}, 0
        jobs = (_job(cohort, number) for number in range(cohort.snapshot.n_shards))
        for number, shard in map_partitions(label_job, jobs, workers=workers):
            digests[number] = hashlib.sha256(
                b"".join(np.ascontiguousarray(a) for a in (shard.indptr, shard.task, shard.time, shard.prevalent))
            ).hexdigest()
            nnz += len(shard.task)
        seconds.append(time.perf_counter() - start)
        sums.add(hashlib.sha256("".join(digests[n] for n in sorted(digests)).encode()).hexdigest()[:16])
    if len(sums) != 1:
        raise AssertionError("two runs gave different labels")
    return {
        "from_parquet_s": round(statistics.median(seconds), 2),
        "workers": workers,
        "nnz": nnz,
        "checksum": sums.pop(),
    }


def selection(cohort: Cohort) -> dict[str, Any]:
    """Time the choice of a task set in the default mode over the whole cohort."""
    names = ("study_id", "person_id", "t0_s")
    joined = {name: np.concatenate([getattr(one, name) for one in cohort.facts]) for name in names}
    shard = np.repeat(np.arange(len(cohort.facts)), [len(one) for one in cohort.facts])
    prepared: Any = SimpleNamespace(
        rows=SimpleNamespace(person_id=joined["person_id"]),
        part=np.zeros(len(shard), dtype=np.uint8),
        shard=shard,
        facts=_joined(cohort.facts),
        windows=_joined(cohort.windows),
        policy=POLICY,
    )
    inputs: Any = SimpleNamespace(snapshot=cohort.snapshot, vocabulary=_vocabulary(cohort), guard={})
    # A cohort of a hundred persons has no concept with the 50 events that the default asks for.
    settings = LabelingSettings(k=cohort.num_tasks, min_events=min(50, len(shard) // 20 + 1))
    start = time.perf_counter()
    choice = choose_tasks(prepared, inputs, settings, allow_fewer=True)
    return {
        "selection_s": round(time.perf_counter() - start, 2),
        "selection_candidates": choice.tasks.removed["candidates"],
        "selected_tasks": len(choice.tasks.concept_id),
    }


def peak_rss_mb() -> int:
    """Return the peak memory of this process and its workers together, each at its own peak."""
    processes = [Path("/proc/self")]
    for children in Path("/proc/self/task").glob("*/children"):
        processes += [Path("/proc") / pid for pid in children.read_text().split()]
    kib = 0
    for process in processes:
        status = (process / "status").read_text() if (process / "status").exists() else ""
        kib += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return kib // 1024


def _one_core(cohort: Cohort, numbers: Any) -> tuple[float, int]:
    seconds, events = 0.0, 0
    for number in numbers:
        shard = cohort.snapshot.shard(number)
        start = time.perf_counter()
        label_shard(shard, cohort.facts[number], cohort.windows[number], cohort.ontology, same_day="exclude")
        seconds += time.perf_counter() - start
        events += len(shard.time)
    return seconds, events


def _job(cohort: Cohort, number: int) -> ShardJob:
    return ShardJob(number, cohort.snapshot.path, cohort.facts[number], cohort.windows[number], cohort.ontology, POLICY)


def _joined(items: list[Any]) -> Any:
    kind = type(items[0])
    return kind(*(np.concatenate([getattr(item, name) for item in items]) for name in kind.__slots__))


def _of_present(ontology: ConceptTasks, present: Any) -> ConceptTasks:
    low, high = ontology.indptr[present], ontology.indptr[present + 1]
    task = np.concatenate([ontology.task[a:b] for a, b in zip(low, high, strict=True)])
    return ConceptTasks(np.concatenate([[0], np.cumsum(high - low)]).astype(np.int32), task, ontology.num_tasks)


def _vocabulary(cohort: Cohort) -> Vocabulary:
    """Return the hierarchy as a vocabulary: leaves 1 …, tasks `TASK_IDS` …, each its own ancestor."""
    leaves = dag(NUM_CONCEPTS, cohort.num_tasks, 6.0, cohort.seed)
    above = above_tasks(cohort.num_tasks, cohort.seed)
    tasks = np.arange(cohort.num_tasks) + TASK_IDS
    leaf = np.arange(NUM_CONCEPTS) + 1
    ids = np.concatenate([leaf, tasks])
    below = np.concatenate(
        [np.repeat(leaf, np.diff(leaves.indptr)), np.repeat(tasks, [len(one) for one in above]), leaf]
    )
    ancestor = np.concatenate(
        [leaves.task + TASK_IDS, np.array([task for one in above for task in sorted(one)]) + TASK_IDS, leaf]
    )
    text = {"domain_id": "Condition", "vocabulary_id": "Bench", "concept_class_id": "Disorder", "standard_concept": "S"}
    pair = pa.table({"concept_id_1": pa.array([], pa.int64()), "concept_id_2": pa.array([], pa.int64())})
    return Vocabulary(
        concepts=pa.table(
            {
                "concept_id": ids,
                "concept_name": [str(number) for number in ids.tolist()],
                "concept_code": [str(number) for number in ids.tolist()],
                **{name: [value] * len(ids) for name, value in text.items()},
            }
        ),
        ancestor=pa.table(
            {
                "ancestor_concept_id": ancestor,
                "descendant_concept_id": below,
                "min_levels_of_separation": (ancestor != below).astype(np.int64),
            }
        ),
        maps_to=pair,
        replaced_by=pair,
        version="",
    )
