"""The label store: who had which task's event when after a scan, as sparse arrays that are mapped, not loaded.

The contract between labeling and modeling. Times are seconds from t0 (int32); presence in a row *is* the event, so no
sentinel and no zero time exists. Horizons are applied here, by the reader, and never on disk.

    labels/<label_hash>/  manifest.json  studies.parquet  tasks.parquet  bins.json  attrition.json  covariates.parquet
                          outcomes.json  outcomes/<task>.parquet  shard-00000/<array>.npy
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from presage_platform.errors import LabelStoreError
from presage_platform.labeling.bins import Bins
from presage_platform.labeling.store_writer import (
    LAYOUT_VERSION,
    SCALARS,
    ShardLabels,
    task_dtype,
    write_label_store,
)
from presage_platform.labeling.views import (
    LabelBatch,
    Risk,
    TaskView,
    clip_view,
    outcome_view,
    set_view,
    view_mask,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from presage_platform.settings import Settings

__all__ = ["LabelBatch", "LabelStore", "Risk", "ShardLabels", "TaskView", "open_labels", "write_label_store"]

Rows = NDArray[np.int64] | slice | list[int] | range


class LabelStore:
    """Reader of one label store; opening maps nothing but the manifest."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.label_hash: str = manifest["label_hash"]
        self.num_studies: int = manifest["num_studies"]
        self.num_tasks: int = manifest["num_tasks"]
        self._first_row = np.concatenate([[0], np.cumsum([shard["num_studies"] for shard in manifest["shards"]])])
        self._maps: dict[tuple[int, str], NDArray[Any]] = {}

    @classmethod
    def open(cls, path: Path) -> LabelStore:
        """Open a store.

        Raises
        ------
        LabelStoreError
            If there is no store, or another layout wrote it.
        """
        try:
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise LabelStoreError(f"no label store at {path.name}: make one with `platform label`") from None
        except ValueError:
            raise LabelStoreError(f"label store {path.name}: manifest.json is not JSON; make the store again") from None
        if manifest.get("layout") != LAYOUT_VERSION:
            raise LabelStoreError(
                f"label store {path.name} has layout {manifest.get('layout')}, expected {LAYOUT_VERSION}: "
                "make it again with `platform label`"
            )
        return cls(path, manifest)

    @cached_property
    def studies(self) -> pa.Table:
        """The index: one row a study (columns of labeling L1), in row order."""
        return _read_parquet(self.path / "studies.parquet")

    @cached_property
    def tasks(self) -> pa.Table:
        """The registry of tasks, row k = task k."""
        return _read_parquet(self.path / "tasks.parquet")

    @cached_property
    def covariates(self) -> pa.Table:
        """Age, sex, scanner, site and the like at t0, one row a study, in row order."""
        return _read_parquet(self.path / "covariates.parquet")

    @cached_property
    def bins(self) -> Bins:
        """Time bins and base rates."""
        return Bins.read(self.path / "bins.json")

    @property
    def outcomes(self) -> list[str]:
        """Names of the outcome tasks that `task_view` serves beside the task set."""
        return sorted(file.stem for file in (self.path / "outcomes").glob("*.parquet"))

    @property
    def outcome_hashes(self) -> dict[str, str]:
        """The hash of each outcome: what `label_hash` does not cover."""
        document = json.loads((self.path / "outcomes.json").read_text(encoding="utf-8"))
        return {name: document[name]["outcome_hash"] for name in self.outcomes}

    def outcome_cautions(self, name: str) -> list[str]:
        """Return what every report on an outcome must print: tests that were not run, an overlap with the
        task set, and the task's own warnings."""
        note = json.loads((self.path / "outcomes.json").read_text(encoding="utf-8")).get(name, {})
        cautions = ["its own tests were not run (--skip-tests)"] if note.get("tests_skipped") else []
        if note.get("overlap"):
            cautions.append(
                f"{note['overlap']} tasks of the task set lie at, above or below its concepts: a model pretrained on "
                "them has been told of it; leave them out with --guard"
            )
        return [f"task {name}: {text}" for text in [*cautions, *note.get("warnings", [])]]

    @property
    def outcome_states(self) -> dict[str, dict[str, dict[str, int]]]:
        """How many studies of each split were in each state when an outcome was written (incident view)."""
        document = json.loads((self.path / "outcomes.json").read_text(encoding="utf-8"))
        return {name: document[name]["states"] for name in self.outcomes}

    @cached_property
    def task_names(self) -> list[str]:
        """Names of the tasks of the set, `concept:<concept_id>`, in task order."""
        names: list[str] = self.tasks.column("task").to_pylist()
        return names

    def rows(self, rows: Rows, risk: Risk = "next") -> LabelBatch:
        """Return the labels of some rows; a contiguous slice within one shard is not copied."""
        if isinstance(rows, slice | range):
            start, stop, step = rows.indices(self.num_studies) if isinstance(rows, slice) else _bounds(rows)
            shard = self._shard_of(start)
            if step == 1 and start < stop and stop <= self._first_row[shard + 1]:
                return self._slice(shard, start, stop, risk)
            rows = np.arange(start, stop, step)
        return self._gather(np.asarray(rows, dtype=np.int64), risk)

    def task_view(self, name: str, risk: Risk = "incident", horizon_days: float | None = None) -> TaskView:
        """Return one task of the set (`concept:<concept_id>`) or one outcome (its file name) over all studies.

        Raises
        ------
        LabelStoreError
            If the store holds no such task.
        """
        if name in self._task_number:
            view = set_view(self, self._task_number[name], risk)
        elif (self.path / "outcomes" / f"{name}.parquet").is_file():
            view = outcome_view(_read_parquet(self.path / "outcomes" / f"{name}.parquet"), risk)
        else:
            known = ", ".join(self.outcomes) or "none"
            raise LabelStoreError(
                f"label store {self.label_hash} has no task `{name}`: expected one of the {self.num_tasks} tasks of "
                f"its set (concept:<id>) or an outcome ({known})"
            )
        return view if horizon_days is None else clip_view(view, horizon_days)

    def array(self, shard: int, name: str) -> NDArray[Any]:
        """Return one memory-mapped array of a shard (names: `SHARD_ARRAYS`, `SCALARS`)."""
        key = (shard, name)
        if key not in self._maps:
            path = self.path / self.manifest["shards"][shard]["name"] / f"{name}.npy"
            try:
                # A plain array over the map: slicing np.memmap itself is ten times slower.
                self._maps[key] = np.asarray(np.load(path, mmap_mode="r"))
            except (OSError, ValueError):
                raise LabelStoreError(
                    f"label store {self.label_hash}: {path.parent.name}/{path.name} is missing or damaged; make the "
                    "store again with `platform label`"
                ) from None
        return self._maps[key]

    def scalar(self, name: str) -> NDArray[Any]:
        """Return one scalar of every study (names: `SCALARS`), in row order."""
        return np.concatenate([self.array(shard, name) for shard in range(self.num_shards)])

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return len(self.manifest["shards"])

    def shard_rows(self, shard: int) -> tuple[int, int]:
        """Return the first and one past the last row of a shard."""
        return int(self._first_row[shard]), int(self._first_row[shard + 1])

    @cached_property
    def _task_number(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.task_names)}

    def _shard_of(self, row: int) -> int:
        return min(max(int(np.searchsorted(self._first_row, row, side="right")) - 1, 0), max(self.num_shards - 1, 0))

    def _slice(self, shard: int, start: int, stop: int, risk: Risk) -> LabelBatch:
        low, high = start - int(self._first_row[shard]), stop - int(self._first_row[shard])
        indptr, visit_indptr = self.array(shard, "indptr"), self.array(shard, "visit_indptr")
        mask = self.array(shard, "mask")[low:high]
        return LabelBatch(
            indptr=indptr[low : high + 1] - indptr[low],
            task=self.array(shard, "task")[indptr[low] : indptr[high]],
            time=self.array(shard, "time")[indptr[low] : indptr[high]],
            prevalent=self.array(shard, "prevalent")[low:high],
            entry=self.array(shard, "entry")[low:high],
            end=self.array(shard, "end")[low:high],
            end_cause=self.array(shard, "end_cause")[low:high],
            death=self.array(shard, "death")[low:high],
            mask=view_mask(mask, risk),
            visit_indptr=visit_indptr[low : high + 1] - visit_indptr[low],
            visit_task=self.array(shard, "visit_task")[visit_indptr[low] : visit_indptr[high]],
            risk=risk,
        )

    def _gather(self, rows: NDArray[np.int64], risk: Risk) -> LabelBatch:
        if len(rows) and (rows.min() < 0 or rows.max() >= self.num_studies):
            raise IndexError(f"rows must lie in 0 … {self.num_studies - 1}")
        shards = np.searchsorted(self._first_row, rows, side="right") - 1
        local = rows - self._first_row[shards]
        batch = _empty_batch(self, risk, len(rows))
        parts: dict[str, list[NDArray[Any]]] = {"task": [], "time": [], "visit_task": []}
        for shard in np.unique(shards).tolist():
            here = shards == shard
            for name in _DENSE:
                getattr(batch, name)[here] = self.array(shard, name)[local[here]]
        for shard, row in zip(shards.tolist(), local.tolist(), strict=True):
            for name, pointer in (("task", "indptr"), ("time", "indptr"), ("visit_task", "visit_indptr")):
                bounds = self.array(shard, pointer)
                parts[name].append(self.array(shard, name)[bounds[row] : bounds[row + 1]])
        joined = {name: np.concatenate([getattr(batch, name), *found]) for name, found in parts.items()}
        return replace(
            batch,
            task=joined["task"],
            time=joined["time"],
            visit_task=joined["visit_task"],
            indptr=_indptr([len(part) for part in parts["task"]]),
            visit_indptr=_indptr([len(part) for part in parts["visit_task"]]),
            mask=view_mask(batch.mask, risk),
        )


_DENSE = ("prevalent", "entry", "end", "end_cause", "death", "mask")


def open_labels(settings: Settings, label_hash: str | None = None) -> LabelStore:
    """Open the label store of a workspace: the one named (any unique beginning of its hash), else the only one.

    Raises
    ------
    LabelStoreError
        If none fits, or several do; they are listed.
    """
    stores = sorted(manifest.parent.name for manifest in settings.labels_dir.glob("*/manifest.json"))
    fitting = [name for name in stores if label_hash is None or name.startswith(label_hash)]
    if len(fitting) == 1:
        return LabelStore.open(settings.labels_dir / fitting[0])
    if not fitting:
        found = ", ".join(stores) or "none"
        raise LabelStoreError(
            f"no label store{f' begins with {label_hash}' if label_hash else ''} (found: {found}): "
            "make one with `platform label`"
        )
    raise LabelStoreError(f"{len(fitting)} label stores fit ({', '.join(fitting)}): name one with --labels")


def _empty_batch(store: LabelStore, risk: Risk, rows: int) -> LabelBatch:
    """Return a batch of studies without events, its scalars to be filled."""
    task = np.empty(0, dtype=task_dtype(store.num_tasks))
    scalars = {name: np.empty(rows, dtype=SCALARS[name]) for name in _DENSE if name in SCALARS}
    return LabelBatch(
        indptr=np.zeros(rows + 1, dtype=np.int64),
        task=task,
        time=np.empty(0, dtype=np.int32),
        prevalent=np.empty((rows, -(-store.num_tasks // 8)), dtype=np.uint8),
        visit_indptr=np.zeros(rows + 1, dtype=np.int64),
        visit_task=task,
        risk=risk,
        **scalars,
    )


def _indptr(lengths: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _bounds(rows: range) -> tuple[int, int, int]:
    return rows.start, rows.stop, rows.step


def _read_parquet(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except (OSError, ValueError):
        raise LabelStoreError(
            f"label store: {path.name} is missing or damaged; make the store again with `platform label`"
        ) from None
