"""Writing a label store: checked, hashed, written to `….partial`, made durable, renamed."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from presage_platform.errors import DiskFullError, IntegrityError
from presage_platform.labeling.event import State
from presage_platform.labeling.hashing import NAME_DIGITS, hash_file, hash_json, hash_table

if TYPE_CHECKING:
    import pyarrow as pa

    from presage_platform.labeling.bins import Bins

LAYOUT_VERSION = 2
SPLITS = ("train", "valid", "test")
SHARD_ARRAYS = ("indptr", "task", "time", "prevalent", "visit_indptr", "visit_task")
SCALARS: dict[str, type[np.generic]] = {
    "entry": np.int32,
    "end": np.int32,
    "end_cause": np.uint8,
    "death": np.int32,
    "death_end": np.int32,
    "mask": np.uint16,
}
SCALAR_COLUMN = {
    "entry": "entry_s",
    "end": "end_s",
    "end_cause": "end_cause",
    "death": "death_s",
    "death_end": "death_end_s",
    "mask": "mask",
}
NO_SPACE = errno.ENOSPC
ROWS_AT_ONCE = 512


@dataclass(frozen=True, slots=True, eq=False)
class ShardLabels:
    """Labels of the studies of one person shard: events as CSR, history as bits. n = studies, K = tasks.

    Attributes
    ----------
    indptr : int64, shape = (n + 1,)
    task : uint16 (uint32 when K > 65,536), shape = (nnz,)
        Ascending within a row.
    time : int32, shape = (nnz,)
        Seconds from t0, never 0.
    prevalent : uint8, shape = (n, ceil(K / 8))
        Bit k & 7 of byte k >> 3.
    visit_indptr, visit_task
        The same for the tasks recorded in the visit that holds t0.
    """

    indptr: NDArray[np.int64]
    task: NDArray[Any]
    time: NDArray[np.int32]
    prevalent: NDArray[np.uint8]
    visit_indptr: NDArray[np.int64]
    visit_task: NDArray[Any]


def write_label_store(
    labels_dir: Path,
    *,
    studies: pa.Table,
    tasks: pa.Table,
    bins: Bins,
    shards: Sequence[ShardLabels],
    covariates: pa.Table,
    inputs: Mapping[str, Any],
    attrition: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
    extra_files: Mapping[str, bytes] | None = None,
) -> str:
    """Write `labels_dir/<label_hash>` and return the hash; a store of that hash is left as it is.

    Parameters
    ----------
    studies
        Columns of labeling L1, one row a study, ordered as the rows of `shards` one after the other.
    tasks
        Row k describes task k; column `task` holds its name.
    inputs
        What the labels were made from: `snapshot_id`, `task_set_hash`, `ontology_hash`, `semantics`; with the hash of
        studies and covariates they make the label hash.
    attrition, manifest, extra_files
        Written beside; not part of the hash. `extra_files` maps names to content.

    Raises
    ------
    IntegrityError
        If an event lies outside its study's follow-up, a row is unsorted, or shapes disagree.
    """
    for number, (shard, rows) in enumerate(zip(shards, _row_ranges(shards), strict=True)):
        check_shard(shard, studies.slice(rows[0], rows[1] - rows[0]), tasks.num_rows, number)
    sha256 = label_sha256(studies, covariates, inputs)
    label_hash = sha256[:NAME_DIGITS]
    final = labels_dir / label_hash
    if (final / "manifest.json").is_file():
        return label_hash
    partial = labels_dir / f"{label_hash}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        files = _write_files(partial, studies, tasks, bins, shards, covariates, attrition or {}, extra_files or {})
        document = {
            "layout": LAYOUT_VERSION,
            "label_hash": label_hash,
            "label_sha256": sha256,
            "inputs": dict(inputs),
            "num_studies": studies.num_rows,
            "num_tasks": tasks.num_rows,
            "shards": [
                {"name": shard_name(number), "num_studies": len(shard.indptr) - 1, "num_events": len(shard.task)}
                for number, shard in enumerate(shards)
            ],
            "states": count_states(studies, shards, tasks.num_rows),
            "files": files,
            **(manifest or {}),
        }
        write_json(partial / "manifest.json", document)
        sync_folder(partial)
        partial.rename(final)
        sync_folder(labels_dir)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno == NO_SPACE:
            raise DiskFullError("disk: no space left while labels were written; free some and run again") from None
        raise
    return label_hash


def label_sha256(studies: pa.Table, covariates: pa.Table, inputs: Mapping[str, Any]) -> str:
    """Return the hash of everything that the labels depend on."""
    index_hash = hash_json([hash_table(studies), hash_table(covariates)])
    return hash_json({"layout": LAYOUT_VERSION, "index_hash": index_hash, **inputs})


def shard_name(number: int) -> str:
    """Return the folder name of a shard."""
    return f"shard-{number:05d}"


def task_dtype(num_tasks: int) -> type[np.unsignedinteger[Any]]:
    """Return the type of a task number: uint16 while it fits."""
    return np.uint16 if num_tasks <= 1 << 16 else np.uint32


def check_shard(shard: ShardLabels, studies: pa.Table, num_tasks: int, number: int) -> None:
    """Refuse labels that break the contract; the error names shard and rule, never a person."""
    where = f"integrity: labels of {shard_name(number)}: "
    rows = len(shard.indptr) - 1
    if shard.prevalent.shape != (rows, -(-num_tasks // 8)) or len(shard.task) != shard.indptr[-1]:
        raise IntegrityError(f"{where}array shapes disagree with {rows} studies × {num_tasks} tasks")
    if len(shard.task) == 0:
        return
    row = np.repeat(np.arange(rows), np.diff(shard.indptr))
    entry = np.asarray(studies.column("entry_s"))[row]
    end = np.asarray(studies.column("end_s"))[row]
    if (shard.time <= 0).any():
        raise IntegrityError(f"{where}an event at or before its scan (time 0 is impossible), expected time > 0")
    if (shard.time <= entry).any() or (shard.time > end).any():
        raise IntegrityError(f"{where}an event outside entry < time <= end")
    if int(shard.task.max()) >= num_tasks:
        raise IntegrityError(f"{where}task number {int(shard.task.max())}, expected less than {num_tasks}")
    same_row = row[1:] == row[:-1]
    if (np.diff(shard.task.astype(np.int64))[same_row] <= 0).any():
        raise IntegrityError(f"{where}tasks of a row are not strictly ascending")


def count_states(studies: pa.Table, shards: Sequence[ShardLabels], num_tasks: int) -> dict[str, dict[str, Any]]:
    """Return, for each split, the number of studies in each state (incident view) a task.

    The five states of a task add up to the studies of the split; `next_event` counts stored times of the next view.
    """
    split = np.asarray(studies.column("split"))
    mask = np.asarray(studies.column("mask"))
    death = np.asarray(studies.column("end_cause")) == 2
    counts = {name: _SplitCounts(num_tasks) for name in SPLITS}
    for shard, (first, last) in zip(shards, _row_ranges(shards), strict=True):
        for low in range(first, last, ROWS_AT_ONCE):
            high = min(low + ROWS_AT_ONCE, last)
            event, prevalent = _dense(shard, low - first, high - first, num_tasks)
            for number, name in enumerate(SPLITS):
                chosen = split[low:high] == number
                counts[name].add(event[chosen], prevalent[chosen], mask[low:high][chosen], death[low:high][chosen])
    return {name: count.to_json() for name, count in counts.items()}


class _SplitCounts:
    def __init__(self, num_tasks: int) -> None:
        self.masked = self.studies = 0
        self.state = {state: np.zeros(num_tasks, dtype=np.int64) for state in State if state != State.MASKED}
        self.next_event = np.zeros(num_tasks, dtype=np.int64)

    def add(
        self, event: NDArray[np.bool_], prevalent: NDArray[np.bool_], mask: NDArray[Any], death: NDArray[np.bool_]
    ) -> None:
        open_, open_next = mask == 0, (mask & ~np.uint16(8)) == 0
        self.studies += len(mask)
        self.masked += int((~open_).sum())
        self.next_event += event[open_next].sum(axis=0)
        event, prevalent, death = event[open_], prevalent[open_], death[open_][:, None]
        without = ~event & ~prevalent
        self.state[State.PREVALENT] += prevalent.sum(axis=0)
        self.state[State.EVENT] += (event & ~prevalent).sum(axis=0)
        self.state[State.COMPETING] += (without & death).sum(axis=0)
        self.state[State.CENSORED] += (without & ~death).sum(axis=0)

    def to_json(self) -> dict[str, Any]:
        return {
            "studies": self.studies,
            "masked": self.masked,
            **{state.word: count.tolist() for state, count in self.state.items()},
            "next_event": self.next_event.tolist(),
        }


def _dense(shard: ShardLabels, low: int, high: int, num_tasks: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    event = np.zeros((high - low, num_tasks), dtype=np.bool_)
    start, stop = int(shard.indptr[low]), int(shard.indptr[high])
    event[np.repeat(np.arange(high - low), np.diff(shard.indptr[low : high + 1])), shard.task[start:stop]] = True
    bits = np.unpackbits(shard.prevalent[low:high], axis=1, bitorder="little")[:, :num_tasks]
    return event, bits.astype(np.bool_)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys and make it durable."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file, sort_keys=True, ensure_ascii=False, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())


def _write_files(
    folder: Path,
    studies: pa.Table,
    tasks: pa.Table,
    bins: Bins,
    shards: Sequence[ShardLabels],
    covariates: pa.Table,
    attrition: Mapping[str, Any],
    extra_files: Mapping[str, bytes],
) -> dict[str, str]:
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, mode=0o700)
    (folder / "outcomes").mkdir()
    pq.write_table(studies, folder / "studies.parquet", compression="zstd")
    pq.write_table(tasks, folder / "tasks.parquet", compression="zstd")
    pq.write_table(covariates, folder / "covariates.parquet", compression="zstd")
    write_json(folder / "bins.json", bins.to_json())
    write_json(folder / "attrition.json", attrition)
    write_json(folder / "outcomes.json", {})
    for name, content in extra_files.items():
        (folder / name).write_bytes(content)
    for number, (shard, (first, last)) in enumerate(zip(shards, _row_ranges(shards), strict=True)):
        inside = folder / shard_name(number)
        inside.mkdir()
        for name in SHARD_ARRAYS:
            np.save(inside / f"{name}.npy", getattr(shard, name))
        for name, dtype in SCALARS.items():
            np.save(inside / f"{name}.npy", np.asarray(studies.column(SCALAR_COLUMN[name]))[first:last].astype(dtype))
    written = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "outcomes.json")
    for path in written:
        sync_file(path)
    return {str(path.relative_to(folder)): hash_file(path) for path in written}


def _row_ranges(shards: Sequence[ShardLabels]) -> list[tuple[int, int]]:
    ends = np.cumsum([len(shard.indptr) - 1 for shard in shards]).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
