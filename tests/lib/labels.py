"""Small label stores from plain Python lists, for tests of everything that reads labels."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from presage_platform.labeling.bins import base_rates, explicit_edges, fit_bins
from presage_platform.labeling.covariates import COVARIATES_SCHEMA
from presage_platform.labeling.index import STUDIES_SCHEMA, persons_hash
from presage_platform.labeling.outcomes import OUTCOME_SCHEMA, add_outcomes
from presage_platform.labeling.store import ShardLabels, write_label_store
from presage_platform.labeling.store_writer import task_dtype

SPLIT = {"train": 0, "valid": 1, "test": 2}


@dataclass
class Study:
    """One study of a small store; times in seconds from t0."""

    study_id: int
    end_s: int
    events: Mapping[int, int] = field(default_factory=dict)  # task number → time_s
    prevalent: Sequence[int] = ()
    person_id: int | None = None  # default: the study's own
    split: str = "train"
    entry_s: int = 0
    dead: bool = False
    death_s: int = -1
    mask: int = 0
    visit: Sequence[int] = ()
    covariates: Mapping[str, Any] = field(default_factory=dict)


def small_store(
    labels_dir: Path,
    studies: Sequence[Study],
    *,
    num_tasks: int,
    edges_days: Sequence[float] = (30, 90, 365),
    num_shards: int = 1,
) -> Path:
    """Write a label store of these studies (in this order) and return its folder."""
    tables = [_index_row(study) for study in studies]
    index = pa.Table.from_pylist(tables, schema=STUDIES_SCHEMA)
    covariates = pa.Table.from_pylist(
        [{"study_id": study.study_id, **study.covariates} for study in studies], schema=COVARIATES_SCHEMA
    )
    cuts = np.linspace(0, len(studies), num_shards + 1).astype(int)
    shards = [shard_of(studies[a:b], num_tasks) for a, b in itertools.pairwise(cuts)]
    tasks = pa.table(
        {
            "task": [f"concept:{1000 + k}" for k in range(num_tasks)],
            "concept_id": pa.array([1000 + k for k in range(num_tasks)], pa.int64()),
            "name": [f"Condition {k}" for k in range(num_tasks)],
        }
    )
    label_hash = write_label_store(
        labels_dir,
        studies=index,
        tasks=tasks,
        bins=_bins(studies, num_tasks, edges_days),
        shards=shards,
        covariates=covariates,
        inputs={
            "snapshot_id": "0" * 16,
            "task_set_hash": "0",
            "ontology_hash": "0",
            "semantics": {"events": repr(studies)},
        },
    )
    return labels_dir / label_hash


def add_outcome(
    store: Path,
    name: str,
    times: Mapping[int, tuple[int | None, int]],
    window: Mapping[int, int | None] | None = None,
) -> None:
    """Add an outcome of which everybody is at risk: study id → (time of the event or None, end of follow-up)."""
    study_ids = pq.read_table(store / "studies.parquet", columns=["study_id"]).column("study_id").to_pylist()
    rows = [
        {
            "study_id": study,
            "state": "event" if times[study][0] is not None else "censored",
            "prevalent": False,
            "mask": 0,
            "entry_s": 0,
            "time_s": times[study][0],
            "end_s": times[study][1],
            "end_cause": 0,
            "window_label": None if window is None else window[study],
        }
        for study in study_ids
    ]
    add_outcomes(store, {name: pa.Table.from_pylist(rows, schema=OUTCOME_SCHEMA)}, {name: {"outcome_hash": name}})


def shard_of(studies: Sequence[Study], num_tasks: int) -> ShardLabels:
    """Return the arrays of these studies."""
    bits = np.zeros((len(studies), -(-num_tasks // 8) * 8), dtype=np.uint8)
    for row, study in enumerate(studies):
        bits[row, list(study.prevalent)] = 1
    tasks = [sorted(study.events) for study in studies]
    visits = [sorted(study.visit) for study in studies]
    dtype = task_dtype(num_tasks)
    return ShardLabels(
        indptr=np.cumsum([0, *map(len, tasks)]).astype(np.int64),
        task=np.array([task for row in tasks for task in row], dtype=dtype),
        time=np.array([s.events[t] for s, row in zip(studies, tasks, strict=True) for t in row], dtype=np.int32),
        prevalent=np.packbits(bits, axis=1, bitorder="little"),
        visit_indptr=np.cumsum([0, *map(len, visits)]).astype(np.int64),
        visit_task=np.array([task for row in visits for task in row], dtype=dtype),
    )


def _index_row(study: Study) -> dict[str, Any]:
    return {
        "study_id": study.study_id,
        "person_id": study.person_id if study.person_id is not None else study.study_id,
        "t0": 1_577_836_800,
        "t0_precision": 0,
        "t0_source": "AcquisitionDateTime",
        "scan_rank": 1,
        "n_scans": 1,
        "split": SPLIT[study.split],
        "prior_obs_days": 400,
        "entry_s": study.entry_s,
        "end_s": study.end_s,
        "end_cause": 2 if study.dead else 0,
        "death_s": study.death_s if study.death_s >= 0 or not study.dead else study.end_s,
        "death_end_s": study.end_s,
        "mask": study.mask,
    }


def _bins(studies: Sequence[Study], num_tasks: int, edges_days: Sequence[float]) -> Any:
    train = [s for s in studies if s.split == "train" and not s.mask & ~8]
    pairs = [(row, k, t) for row, s in enumerate(train) for k, t in sorted(s.events.items())]
    row, task, time = (np.array([p[i] for p in pairs], dtype=np.int64) for i in range(3))
    ends = np.array([s.end_s for s in train], dtype=np.int64)
    entries = np.array([s.entry_s for s in train], dtype=np.int64)
    events, exposure = base_rates(task, time, ends, entries, row, num_tasks)
    persons = sorted({s.person_id if s.person_id is not None else s.study_id for s in studies if s.split == "train"})
    fitted_on = persons_hash(np.array(persons, dtype=np.int64))
    return fit_bins(explicit_edges(edges_days), np.maximum(events, 1), np.maximum(exposure, 1), fitted_on=fitted_on)
