"""The catalogue on disk: batches while a scan runs, sorted Parquet parts when it ends, nothing half-written ever.

    catalogue/roots.json              what root_id stands for
    catalogue/batches/00000001.parquet  committed by a running (or killed) scan
    catalogue/instances/part-00000.parquet  the compacted catalogue, sorted by SORT_KEY

Compaction is an external sort: rows are dealt into ranges of whole studies, each range is sorted in memory. Part
boundaries depend on the rows alone, hence the same bytes for any number of workers.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from presage_etl.dicom.walk import FoundFile, Source
from presage_platform.errors import InputError, LockedError
from presage_platform.volumes.catalogue import INSTANCE_SCHEMA, SORT_KEY, ReadStatus

PART_ROWS = 200_000
ROW_GROUP_ROWS = 65_536
_STATUSES = tuple(status.value for status in ReadStatus)
_FILE_COLUMNS = ["root_id", "rel_path", "size", "mtime_ns", "absent_since", "read_status"]


def file_key(root_id: int, rel_path: bytes) -> bytes:
    """Return 16 bytes that stand for a file's place; the last is never NUL, which numpy would cut off."""
    return blake2b(rel_path, digest_size=15, key=root_id.to_bytes(4, "little")).digest() + b"\xff"


@contextlib.contextmanager
def locked_catalogue(folder: Path) -> Iterator[None]:
    """Hold the catalogue for one writer, and mend what a killed one left.

    Raises
    ------
    LockedError
        When another scan is at work.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _recover(folder)
        yield
    except BlockingIOError:
        raise LockedError("another scan writes this catalogue: wait for it, or stop it") from None
    finally:
        os.close(descriptor)


def instance_parts(folder: Path) -> list[Path]:
    """Return the catalogue's Parquet files in order."""
    return sorted((folder / "instances").glob("part-*.parquet"))


def read_instances(folder: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the compacted catalogue.

    Raises
    ------
    InputError
        When nothing was scanned yet.
    """
    parts = instance_parts(folder)
    if not parts:
        raise InputError("the catalogue is empty: scan an archive first with `platform etl dicom`")
    return pa.concat_tables([pq.read_table(part, columns=columns) for part in parts])


class Known:
    """What earlier scans know of each file, in a few bytes each; `seen` is filled by the walk."""

    def __init__(self, folder: Path) -> None:
        tables = [pq.read_table(path, columns=_FILE_COLUMNS) for path in _sources(folder)]
        table = pa.concat_tables(tables) if tables else INSTANCE_SCHEMA.empty_table().select(_FILE_COLUMNS)
        keys = _keys(table)
        order = np.argsort(keys, kind="stable")
        last = np.append(keys[order][1:] != keys[order][:-1], True) if len(keys) else np.zeros(0, bool)
        rows = order[last]  # batches come after parts: the newest row of a file wins
        self.keys = keys[rows]
        self.size = table["size"].to_numpy()[rows]
        self.mtime_ns = table["mtime_ns"].to_numpy()[rows]
        self.absent = pc.is_valid(table["absent_since"]).to_numpy()[rows]
        statuses = pc.index_in(table["read_status"], pa.array(_STATUSES)).to_numpy()[rows]
        self.statuses = statuses.astype(np.int8)
        self.seen = np.zeros(len(rows), bool)

    def unchanged_status(self, file: FoundFile) -> ReadStatus | None:
        """Note that a file is there; return what it was when it need not be opened again."""
        if not len(self.keys):
            return None
        key = np.bytes_(file_key(file.root_id, file.rel_path))
        place = int(np.searchsorted(self.keys, key))
        if place == len(self.keys) or self.keys[place] != key:
            return None
        self.seen[place] = True
        if self.absent[place] or (self.size[place], self.mtime_ns[place]) != (file.size, file.mtime_ns):
            return None
        return ReadStatus(_STATUSES[self.statuses[place]])

    def vanished_keys(self) -> NDArray[np.bytes_]:
        """Return the keys of files that were there before and were not seen."""
        gone: NDArray[np.bytes_] = self.keys[~self.seen & ~self.absent]
        return gone


def next_batch_number(folder: Path) -> int:
    """Return the number of the next batch file."""
    return max((int(path.stem) for path in (folder / "batches").glob("*.parquet")), default=0) + 1


def write_batch(folder: Path, number: int, table: pa.Table) -> None:
    """Commit one batch of rows: after this a killed scan need not read its files again."""
    (folder / "batches").mkdir(mode=0o700, exist_ok=True)
    _write_parquet(folder / "batches" / f"{number:08d}.parquet", table)


def compact(folder: Path, known: Known, sources: Sequence[Source], run_no: int) -> int:
    """Merge batches into the catalogue and mark vanished files; return how many vanished.

    Does nothing, byte for byte, when there is nothing new and nothing vanished.
    """
    vanished = known.vanished_keys()
    paths = _sources(folder)
    has_batches = any(path.parent.name == "batches" for path in paths)
    if not has_batches and not len(vanished):
        return 0
    keep = _newest(paths)
    new = folder / "instances.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    bounds = _range_bounds(paths, keep)
    num_vanished = _deal(new, paths, keep, bounds, _Absences(vanished, sources, run_no))
    if not num_vanished and not has_batches:
        shutil.rmtree(new)
        return 0
    for number in range(len(bounds) + 1):
        _sort_range(new, number)
    _sync_folder(new)
    _publish(folder)
    return num_vanished


class _Absences:
    """Marks rows whose file lies within the scanned sources and was not found."""

    def __init__(self, vanished: NDArray[np.bytes_], sources: Sequence[Source], run_no: int) -> None:
        self.vanished, self.sources, self.run_no = vanished, sources, run_no

    def mark(self, table: pa.Table) -> tuple[pa.Table, int]:
        if not len(self.vanished):
            return table, 0
        gone = np.isin(_keys(table), self.vanished)
        roots, names = table["root_id"].to_numpy(), table["rel_path"].to_pylist()
        for place in np.flatnonzero(gone):
            gone[place] = any(source.covers(int(roots[place]), names[place]) for source in self.sources)
        since = pc.if_else(pa.array(gone), pa.scalar(self.run_no, pa.int64()), table["absent_since"])
        column = table.schema.get_field_index("absent_since")
        return table.set_column(column, table.schema.field(column), since), int(gone.sum())


def _sources(folder: Path) -> list[Path]:
    return instance_parts(folder) + sorted((folder / "batches").glob("*.parquet"))


def _keys(table: pa.Table) -> NDArray[np.bytes_]:
    pairs = zip(table["root_id"].to_pylist(), table["rel_path"].to_pylist(), strict=True)
    joined = b"".join(file_key(root_id, rel_path) for root_id, rel_path in pairs)
    return np.frombuffer(joined, dtype="S16")


def _newest(paths: list[Path]) -> list[NDArray[np.bool_]]:
    """Return for each file of rows which of them are the newest of their path."""
    keys = [_keys(pq.read_table(path, columns=["root_id", "rel_path"])) for path in paths]
    everything = np.concatenate(keys)[::-1]
    keep = np.zeros(len(everything), bool)
    keep[np.unique(everything, return_index=True)[1]] = True
    return np.split(keep[::-1], np.cumsum([len(part) for part in keys])[:-1])


def _range_bounds(paths: list[Path], keep: list[NDArray[np.bool_]]) -> list[str]:
    """Return the study UIDs that start a new range, so that a range holds about PART_ROWS rows."""
    counts: dict[str, int] = {}
    for path, mask in zip(paths, keep, strict=True):
        column = pq.read_table(path, columns=["study_uid"])["study_uid"].filter(pa.array(mask))
        for entry in column.value_counts().to_pylist():
            if entry["values"] is not None:
                counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
    bounds, rows = [], 0
    for study_uid in sorted(counts, key=str.encode):
        if rows and rows + counts[study_uid] > PART_ROWS:
            bounds.append(study_uid)
            rows = 0
        rows += counts[study_uid]
    return bounds


def _deal(new: Path, paths: list[Path], keep: list[NDArray[np.bool_]], bounds: list[str], absences: _Absences) -> int:
    """Deal all rows into one Arrow file a range; return how many were marked absent."""
    num_vanished = 0
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(pa.ipc.new_file(str(new / f"range-{number:05d}.arrow"), INSTANCE_SCHEMA))
            for number in range(len(bounds) + 1)
        ]
        encoded = [bound.encode() for bound in bounds]
        for path, mask in zip(paths, keep, strict=True):
            table, gone = absences.mark(pq.read_table(path, schema=INSTANCE_SCHEMA).filter(pa.array(mask)))
            num_vanished += gone
            uids = table["study_uid"].to_pylist()
            place = np.array([len(bounds) if uid is None else _place(encoded, uid.encode()) for uid in uids], int)
            for number in np.unique(place):
                writers[number].write_table(table.filter(pa.array(place == number)))
    return num_vanished


def _place(bounds: list[bytes], uid: bytes) -> int:
    from bisect import bisect_right

    return bisect_right(bounds, uid)


def _sort_range(new: Path, number: int) -> None:
    path = new / f"range-{number:05d}.arrow"
    table = pa.ipc.open_file(str(path)).read_all()
    table = table.sort_by([(name, "ascending") for name in SORT_KEY]).combine_chunks()
    _write_parquet(new / f"part-{number:05d}.parquet", table)
    path.unlink()


def _write_parquet(path: Path, table: pa.Table) -> None:
    """Write a file whole or not at all, readable by its owner only."""
    unfinished = path.with_suffix(".tmp")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        pq.write_table(table, file, compression="zstd", row_group_size=ROW_GROUP_ROWS)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    _sync_folder(path.parent)


def _publish(folder: Path) -> None:
    current, new, old = (folder / name for name in ("instances", "instances.new", "instances.old"))
    shutil.rmtree(old, ignore_errors=True)
    if current.exists():
        current.rename(old)
    new.rename(current)
    _sync_folder(folder)
    # batches go last: replaying one that is already merged changes nothing
    shutil.rmtree(folder / "batches", ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _recover(folder: Path) -> None:
    """Put back the catalogue of a writer that was killed between its two renames; drop unfinished files."""
    current, old = folder / "instances", folder / "instances.old"
    if not current.exists() and old.exists():
        old.rename(current)
    for unfinished in (folder / "batches").glob("*.tmp"):
        unfinished.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
