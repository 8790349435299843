"""`platform label`: index → snapshot → task set → kernel → label store; finished steps are found again by hash."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from presage_platform.labeling import selection
from presage_platform.labeling.anchors import anchor_parts, measure
from presage_platform.labeling.attrition import attrition, attrition_text
from presage_platform.labeling.bins import Bins, base_rates, edges_between, explicit_edges, fit_bins, quantile_edges
from presage_platform.labeling.covariates import covariates
from presage_platform.labeling.event import INCIDENT_ONLY
from presage_platform.labeling.first_occurrence import label_shard
from presage_platform.labeling.ontology import ConceptTasks
from presage_platform.labeling.paper_labels import PAPER_MODES, mask_without_events
from presage_platform.labeling.preparation import Prepared, prepare, studies_table
from presage_platform.labeling.semantics import IndexFacts, Policy, RiskWindows
from presage_platform.labeling.splits import keep_split, persons_hash, prove_no_overlap
from presage_platform.labeling.store import LabelStore
from presage_platform.labeling.store_writer import ShardLabels, label_sha256, write_label_store
from presage_platform.labeling.task_choice import choose_tasks
from presage_platform.labeling.timeline import Snapshot
from presage_platform.logs import get_logger
from presage_platform.parallel import map_partitions

if TYPE_CHECKING:
    from presage_platform.labeling.inputs import Inputs
    from presage_platform.settings import LabelingSettings, Settings

log = get_logger(__name__)


@dataclass
class LabelReport:
    """What a run made, in counts."""

    label_hash: str = ""
    snapshot_id: str = ""
    split_id: str = ""
    reused: bool = False
    numbers: dict[str, Any] = field(default_factory=dict)
    attrition: list[dict[str, Any]] = field(default_factory=list)
    attrition_table: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    difference: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        keys = (
            "label_hash",
            "snapshot_id",
            "split_id",
            "reused",
            "numbers",
            "attrition",
            "seconds",
            "warnings",
            "difference",
        )
        return {key: getattr(self, key) for key in keys}

    def text(self) -> str:
        """Return the report for people."""
        numbers = ", ".join(f"{value:,} {name}" for name, value in self.numbers.items() if isinstance(value, int))
        seconds = ", ".join(f"{name} {value:.1f} s" for name, value in self.seconds.items())
        state = "found" if self.reused else "written"
        warnings = "".join(f"\nwarning: {text}" for text in self.warnings)
        against = f"\n{self.difference}" if self.difference else ""
        return f"{self.attrition_table}\n{numbers}\nlabels/{self.label_hash} {state} ({seconds}){against}{warnings}"


def make_labels(
    settings: Settings, inputs: Inputs, *, allow_fewer: bool = False, new_split: bool = False
) -> tuple[LabelReport, Path]:
    """Make the label store of a workspace from what `inputs` holds; return the report and the store's folder.

    Raises
    ------
    SettingsError
        If the mode needs another snapshot than the one that was named.
    IntegrityError
        If nothing is at risk, too few concepts qualify, or a split shares a person or an image.
    """
    chosen = settings.labeling
    paper = chosen.mode in PAPER_MODES
    report = LabelReport(snapshot_id=inputs.snapshot.snapshot_id, seconds=dict(inputs.seconds))
    with _timed(report, "index"):
        prepared = prepare(inputs.rows, inputs.snapshot, chosen)
        overlap = prove_no_overlap(
            prepared.part, {"persons": _person_keys(prepared), **inputs.image_keys(prepared.rows)}
        )
        keep_split(settings.labels_dir / "splits", prepared.split, new_split=new_split)
    report.split_id = prepared.split.split_id
    with _timed(report, "tasks"):
        choice = choose_tasks(prepared, inputs, chosen, allow_fewer=allow_fewer)
    task_set, ontology = choice.tasks, choice.ontology
    shards = None
    if paper:  # which studies have no task event is part of the index, hence of the hash
        with _timed(report, "kernel"):
            shards = run_kernel(inputs.snapshot, prepared, ontology, settings)
        prepared = replace(prepared, windows=mask_without_events(prepared.windows, shards))
    studies = studies_table(prepared)
    known = covariates(prepared.rows, prepared.visit_id, inputs.snapshot, inputs.names)
    identity = {
        "snapshot_id": inputs.snapshot.snapshot_id,
        "task_set_hash": task_set.sha256,
        "ontology_hash": ontology.sha256,
        "semantics": semantics_json(prepared.policy, chosen),
    }
    label_hash = label_sha256(studies, known, identity)[:16]
    report.label_hash = label_hash
    folder = settings.labels_dir / label_hash
    if (folder / "manifest.json").is_file():
        report.reused = True
        _fill(report, LabelStore.open(folder))
        return report, folder
    if shards is None:
        with _timed(report, "kernel"):
            shards = run_kernel(inputs.snapshot, prepared, ontology, settings)
    with _timed(report, "rates"):
        bins, medians = _rates(inputs.snapshot, prepared, shards, ontology, chosen)
    tasks = selection.registry(task_set, choice.train_pairs, inputs.vocabulary, bins.rate_per_s, medians)
    steps = attrition(
        prepared.rows.num_linked,
        prepared.rows.num_usable,
        prepared.rows.person_id,
        prepared.windows.mask,
        np.concatenate([np.diff(shard.indptr) for shard in shards]),
        paper=paper,
    )
    document = {
        "steps": [step.to_json() for step in steps],
        "skipped_times": prepared.rows.skipped,
        "split_overlap": overlap,
        "faults": inputs.snapshot.manifest["counts"],
        "task_set": dict(task_set.removed),
    }
    with _timed(report, "write"):
        write_label_store(
            settings.labels_dir,
            studies=studies,
            tasks=tasks,
            bins=bins,
            shards=shards,
            covariates=known,
            inputs=identity,
            attrition=document,
            manifest={
                "split_id": prepared.split.split_id,
                "text": attrition_text(steps),
                "task_set": dict(task_set.removed),
                "removed": [{"concept_id": c, "by": why} for c, why in sorted(task_set.removed_by.items())],
                "guard": {"scope": chosen.guard_scope, "tasks": inputs.guard},
            },
            extra_files={
                "tasks.csv": selection.registry_csv(tasks, chosen.min_cell),
                "facts.parquet": _parquet_bytes(prepared.facts.to_table()),
            },
        )
    _fill(report, LabelStore.open(folder))
    log.info("labels written", extra={"fields": {"studies": studies.num_rows, "tasks": tasks.num_rows}})
    return report, folder


@dataclass(frozen=True, slots=True, eq=False)
class ShardJob:
    """One person shard for a worker."""

    number: int
    snapshot_path: Path
    facts: IndexFacts
    windows: RiskWindows
    ontology: ConceptTasks
    policy: Policy


def label_job(job: ShardJob) -> tuple[int, ShardLabels]:
    """Label one shard: pure, so that any worker may do it."""
    events = Snapshot.open(job.snapshot_path).shard(job.number)
    return job.number, label_shard(events, job.facts, job.windows, job.ontology, same_day=job.policy.same_day)


def run_kernel(snapshot: Snapshot, prepared: Prepared, ontology: ConceptTasks, settings: Settings) -> list[ShardLabels]:
    """Return the labels of every shard, in shard order, whatever the number of workers."""
    jobs = (
        ShardJob(
            number,
            snapshot.path,
            prepared.facts.take(prepared.shard == number),
            prepared.windows.take(prepared.shard == number),
            ontology,
            prepared.policy,
        )
        for number in range(snapshot.n_shards)
    )
    parallel = settings.parallel
    if snapshot.n_shards == 1:
        found = dict(map(label_job, jobs))
    else:
        found = dict(
            map_partitions(label_job, jobs, workers=parallel.workers, engine=parallel.engine, address=parallel.address)
        )
    return [found[number] for number in range(snapshot.n_shards)]


def semantics_json(policy: Policy, settings: LabelingSettings) -> dict[str, Any]:
    """Return every setting that the labels depend on beside their inputs."""
    names = ["bridge_days", "grace_days", "max_levels", "bins", "anchor", "mode", "k", "min_events"]
    names += ["anchors", "split_seed"] if settings.anchor == "paper" else []
    return {**policy.to_json(), **{name: getattr(settings, name) for name in names}}


def _rates(
    snapshot: Snapshot,
    prepared: Prepared,
    shards: list[ShardLabels],
    ontology: ConceptTasks,
    settings: LabelingSettings,
) -> tuple[Bins, NDArray[np.float64]]:
    """Fit edges and rates on the anchors of the train persons, in the next view; medians are those of the studies."""
    train = (prepared.part == 0) & ((prepared.windows.mask & ~np.uint16(INCIDENT_ONLY)) == 0)
    lengths = np.concatenate([np.diff(shard.indptr) for shard in shards])
    row = np.repeat(np.arange(len(lengths)), lengths)
    use = train[row]
    task = np.concatenate([shard.task for shard in shards])[use]
    time_s = np.concatenate([shard.time for shard in shards])[use]
    medians = selection.median_times(task, time_s, ontology.num_tasks)
    num_bins = settings.bins if isinstance(settings.bins, int) else None
    if settings.anchor == "paper":
        found = measure(lambda: anchor_parts(snapshot, prepared, settings), prepared, ontology, num_bins)
        inner, events, exposure = edges_between(found.edges_s), found.num_events, found.exposure_s
    else:
        entry, end = prepared.windows.entry_s[train], prepared.windows.end_s[train]
        compact = (np.cumsum(train) - 1)[row[use]]
        events, exposure = base_rates(task, time_s, end, entry, compact, ontology.num_tasks)
        inner = quantile_edges(time_s, num_bins=num_bins or 1)
    edges = inner if isinstance(settings.bins, int) else explicit_edges(settings.bins)
    fitted_on = persons_hash(prepared.rows.person_id[prepared.part == 0])
    return fit_bins(edges, events, exposure, fitted_on=fitted_on, anchor=settings.anchor), medians


def _person_keys(prepared: Prepared) -> tuple[NDArray[np.int64], list[Any]]:
    return np.arange(len(prepared.rows.person_id)), prepared.rows.person_id.tolist()


def _fill(report: LabelReport, store: LabelStore) -> None:
    states = store.manifest["states"]
    report.numbers = {
        "studies": store.num_studies,
        **{f"{name} studies": counts["studies"] for name, counts in states.items()},
        "tasks": store.num_tasks,
        "events": sum(shard["num_events"] for shard in store.manifest["shards"]),
        "bins": len(store.bins.edges_s) - 1,
    }
    report.attrition_table = store.manifest["text"]
    report.attrition = json.loads((store.path / "attrition.json").read_text(encoding="utf-8"))["steps"]


def _parquet_bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


@contextmanager
def _timed(report: LabelReport, step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    report.seconds[step] = round(time.perf_counter() - start, 3)
