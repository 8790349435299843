"""Writing a volume store so that a kill at any point leaves a store that opens, verifies and continues.

Each converted volume is first staged as a file of its own; when all are there, they are moved into shards in the order
of their ids. The order of conversion, the number of workers and a run that died in the middle therefore never show in
the bytes. A shard, the manifest and the index appear by rename, the index last.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from presage_platform.errors import LockedError, VolumeRecipeError, VolumeStoreError
from presage_platform.volumes.index import (
    INDEX_NAME,
    INDEX_SCHEMA,
    MANIFEST_NAME,
    RECIPE_NAME,
    SHARD_HEADER_NBYTES,
    Manifest,
    disk_errors,
    file_sha256,
    index_bytes,
    index_table,
    read_index,
    read_manifest,
    shard_header,
    shard_name,
    sync_folder,
    write_durably,
)
from presage_platform.volumes.recipe import VolumeRecipe, read_recipe
from presage_platform.volumes.record import CODECS, HEADER_NBYTES, VolumeRecord, encode_record, facts_of

STAGING_NAME = "staging"
_STAGED_SUFFIX = ".volume"
_LENGTH_NBYTES = 8

REFRESHED = ("study_id", "rank", "series_key", "study_uid", "series_uid", "image_dt", "verdict")
"""Columns of the index that may change while the pixels stay."""


class StoreWriter:
    """The one writer of a store folder; a context manager that commits when its block ends without an error."""

    def __init__(self, path: Path, recipe: VolumeRecipe, *, codec: str = "raw", shard_gb: float = 2.0) -> None:
        if codec not in CODECS:
            raise VolumeStoreError(f"codec {codec!r} cannot be written: this release writes {', '.join(CODECS)}")
        self.path = path
        self.recipe = recipe
        self.codec = codec
        self._shard_limit_nbytes = int(shard_gb * 1e9)
        self._index = INDEX_SCHEMA.empty_table()
        self._shards: dict[str, str] = {}
        self._wanted: set[str] = set()
        self._present: set[str] = set()
        self._changes: dict[str, Mapping[str, Any]] = {}
        self._known_slices: dict[str, list[tuple[str, list[str]]]] | None = None
        self._lock: int | None = None

    def __enter__(self) -> Self:
        with disk_errors():
            self.staging.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.path)
        try:
            self._recover()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            self._release()

    @property
    def staging(self) -> Path:
        """Folder of the volumes that wait for their shard; workers may write into it with `stage_record`."""
        return self.path / STAGING_NAME

    def __contains__(self, volume_id: str) -> bool:
        return volume_id in self._present

    def add(self, record: VolumeRecord) -> bool:
        """Take a volume in; False when the store holds it already (nothing is written then)."""
        if record.volume_id in self._present:
            return False
        if not _staged_path(self.staging, record.volume_id).exists():
            stage_record(self.staging, record, self.recipe, codec=self.codec)
        self.keep(record.volume_id)
        return True

    def keep(self, volume_id: str) -> None:
        """Declare a staged volume wanted; those that nobody wants when the writer closes are removed."""
        if volume_id not in self._present:
            self._wanted.add(volume_id)

    def find(self, series_key: str, header_hashes: Sequence[str], *, some_unused: bool = False) -> str | None:
        """Id of the volume, stored or staged, that was made from exactly these slices; None when there is none.

        With `some_unused` a volume that leaves some of them out counts too: pixels of a slice may be unusable.
        """
        for volume_id, hashes in self._known().get(series_key, []):
            if hashes == list(header_hashes) or (some_unused and set(hashes) <= set(header_hashes)):
                return volume_id
        return None

    def staged_row(self, volume_id: str) -> dict[str, Any] | None:
        """What a killed run left about a volume that still waits for its shard, `reasons` included."""
        path = _staged_path(self.staging, volume_id)
        return read_staged_row(path) if path.exists() else None

    def refresh(self, changes: Mapping[str, Mapping[str, Any]]) -> int:
        """Bring the columns in `REFRESHED` of stored and staged volumes up to date; returns how many stored changed."""
        self._changes.update(changes)
        old = self._index.select(["volume_id", *REFRESHED]).to_pylist()
        new = [{**row, **changes.get(row["volume_id"], {})} for row in old]
        num_changed: int = sum(before != after for before, after in zip(old, new, strict=True))
        for name in REFRESHED if num_changed else ():
            values = pa.array([row[name] for row in new], type=INDEX_SCHEMA.field(name).type)
            self._index = self._index.set_column(INDEX_SCHEMA.get_field_index(name), name, values)
        return num_changed

    def _known(self) -> dict[str, list[tuple[str, list[str]]]]:
        if self._known_slices is None:
            known: dict[str, list[tuple[str, list[str]]]] = {}
            for key, volume_id, hashes in _slices(self._index):
                known.setdefault(key, []).append((volume_id, hashes))
            for path in sorted(self.staging.glob(f"*{_STAGED_SUFFIX}")):
                row = read_staged_row(path)
                hashes = [str(sop["header_hash"]) for sop in row["sops"]]
                known.setdefault(row["series_key"], []).append((row["volume_id"], hashes))
            self._known_slices = known
        return self._known_slices

    def _recover(self) -> None:
        """Bring the folder to the state of its last complete commit and read it."""
        for leftover in [*self.path.glob("*.tmp"), *self.staging.glob("*.tmp")]:
            leftover.unlink()
        if not (self.path / INDEX_NAME).exists():
            self._begin()
        stored = read_recipe(self.path / RECIPE_NAME)
        if stored.recipe_hash != self.recipe.recipe_hash:
            raise VolumeRecipeError(
                f"the store {self.path.name} was made by recipe {stored.short_hash}, not {self.recipe.short_hash}: "
                "each recipe has a folder of its own"
            )
        self._index = read_index(self.path)
        self._present = set(self._index.column("volume_id").to_pylist())
        numbers = sorted(set(self._index.column("shard").to_pylist()))
        manifest = read_manifest(self.path)
        self._shards = {name: manifest.shards[name] for name in map(shard_name, numbers)}
        for path in self.path.glob("shard-*.bin"):
            if path.name not in self._shards:
                path.unlink()

    def _begin(self) -> None:
        write_durably(self.path / RECIPE_NAME, self.recipe.to_toml().encode())
        self._publish(replaces=None)

    def _commit(self) -> None:
        old_index_sha256 = file_sha256(self.path / INDEX_NAME)
        staged = {path.name.removesuffix(_STAGED_SUFFIX): path for path in self.staging.glob(f"*{_STAGED_SUFFIX}")}
        missing = self._wanted - staged.keys()
        if missing:
            raise VolumeStoreError(f"{len(missing)} staged volumes have vanished from {STAGING_NAME}/: run again")
        for volume_id in staged.keys() - self._wanted:
            staged.pop(volume_id).unlink()
        for group in _groups([staged[volume_id] for volume_id in sorted(staged)], self._shard_limit_nbytes):
            rows = self._write_shard(group)
            merged = pa.concat_tables([self._index, index_table(rows)]).combine_chunks()
            self._index = merged.take(pc.sort_indices(merged, [("volume_id", "ascending")]))
            self._present |= {row["volume_id"] for row in rows}
            old_index_sha256 = self._publish(replaces=old_index_sha256)
            for path in group:
                path.unlink()
        if index_sha256(self._index) != old_index_sha256:  # refreshed rows, no new shard
            self._publish(replaces=old_index_sha256)
        shutil.rmtree(self.staging)

    def _write_shard(self, group: Sequence[Path]) -> list[dict[str, Any]]:
        number = 1 + max(self._index.column("shard").to_pylist(), default=-1)
        path = self.path / shard_name(number)
        temporary = path.with_name(path.name + ".tmp")
        digest = hashlib.sha256()
        rows = []
        position = SHARD_HEADER_NBYTES
        with disk_errors(), temporary.open("wb") as file:
            digest.update(shard_header(self.recipe.recipe_hash))
            file.write(shard_header(self.recipe.recipe_hash))
            for staged in group:
                row = _placed(read_staged_row(staged), number, position)
                rows.append({**row, **self._changes.get(row["volume_id"], {})})
                for block in _staged_blocks(staged):
                    digest.update(block)
                    file.write(block)
                    position += len(block)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(self.path)
        self._shards[path.name] = digest.hexdigest()
        return rows

    def _publish(self, *, replaces: str | None) -> str:
        data = index_bytes(self._index)
        manifest = Manifest(
            recipe_hash=self.recipe.recipe_hash,
            recipe_sha256=file_sha256(self.path / RECIPE_NAME),
            codec=self.codec,
            num_volumes=self._index.num_rows,
            shards=dict(sorted(self._shards.items())),
            index_sha256=hashlib.sha256(data).hexdigest(),
            replaces=replaces,
        )
        write_durably(self.path / MANIFEST_NAME, manifest.to_json().encode())
        write_durably(self.path / INDEX_NAME, data)
        return manifest.index_sha256

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def stage_record(
    staging: Path,
    record: VolumeRecord,
    recipe: VolumeRecipe,
    *,
    codec: str = "raw",
    reasons: Sequence[str] = (),
    durable: bool = True,
) -> None:
    """Write one volume beside the shards, durably; safe to call from many processes at once.

    `reasons` are kept until the volume has its shard, so that a run that continues a killed one need not decode again.
    Who makes a killed run anew from its beginning may leave `durable` out: nothing is then forced to disk until the
    volume has its shard.
    """
    header, blocks = encode_record(record, codec=codec)
    row = {
        **facts_of(record),
        "volume_id": record.volume_id,
        "study_id": record.study_id,
        "rank": record.rank,
        "study_uid": record.study_uid,
        "series_uid": record.series_uid,
        "image_dt": None if record.image_dt is None else record.image_dt.isoformat(),
        "nbytes": header.payload_nbytes,
        "raw_nbytes": record.array.nbytes,
        "codec": codec,
        "shape_zyx": list(header.shape_zyx),
        "sha256": header.sha256,
        "recipe_hash": recipe.recipe_hash,
        "verdict": record.verdict,
        "mask_offset": header.mask_start,
        "mask_nbytes": header.mask_nbytes,
        "thumbnails_ref": record.thumbnails_ref,
        "reasons": list(reasons),
    }
    text = json.dumps(row, allow_nan=False).encode()
    data = b"".join([len(text).to_bytes(_LENGTH_NBYTES, "little"), text, *blocks])
    path = _staged_path(staging, record.volume_id)
    if durable:
        write_durably(path, data)
        return
    with disk_errors():
        temporary = path.with_name(f"{path.name}.tmp")
        temporary.write_bytes(data)
        temporary.replace(path)


def read_staged_row(path: Path) -> dict[str, Any]:
    """The index row of a staged volume; shard and offset are not known yet."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_NBYTES), "little")
        row: dict[str, Any] = json.loads(file.read(length))
    return row


def index_sha256(index: pa.Table) -> str:
    """sha256 of the index as it would be written."""
    return hashlib.sha256(index_bytes(index)).hexdigest()


def _staged_path(staging: Path, volume_id: str) -> Path:
    return staging / f"{volume_id}{_STAGED_SUFFIX}"


def _staged_blocks(path: Path, block_nbytes: int = 1 << 22) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(_LENGTH_NBYTES + int.from_bytes(file.read(_LENGTH_NBYTES), "little"))
        while block := file.read(block_nbytes):
            yield block


def _record_nbytes(path: Path) -> int:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_NBYTES), "little")
    return path.stat().st_size - _LENGTH_NBYTES - length


def _groups(paths: Sequence[Path], limit_nbytes: int) -> Iterator[list[Path]]:
    """Cut the ordered records into shards by their sizes alone; a record larger than the limit has its own shard."""
    group: list[Path] = []
    total = SHARD_HEADER_NBYTES
    for path in paths:
        nbytes = _record_nbytes(path)
        if group and total + nbytes > limit_nbytes:
            yield group
            group, total = [], SHARD_HEADER_NBYTES
        group.append(path)
        total += nbytes
    if group:
        yield group


def _placed(row: dict[str, Any], shard: int, position: int) -> dict[str, Any]:
    """The staged row with its place: `position` is where the record's header begins."""
    has_mask = row["mask_nbytes"] > 0
    return {
        **{name: value for name, value in row.items() if name != "reasons"},
        "shard": shard,
        "offset": position + HEADER_NBYTES,
        "mask_offset": position + row["mask_offset"] if has_mask else None,
        "image_dt": None if row["image_dt"] is None else datetime.fromisoformat(row["image_dt"]),
    }


def _slices(index: pa.Table) -> Iterator[tuple[str, str, list[str]]]:
    """(series_key, volume_id, header hashes) of each stored volume."""
    sops = index.column("sops").combine_chunks() if index.num_rows else None
    if sops is None:
        return
    hashes, bounds = sops.flatten().field("header_hash"), sops.offsets.to_pylist()
    keys = zip(index.column("series_key").to_pylist(), index.column("volume_id").to_pylist(), strict=True)
    for number, (series_key, volume_id) in enumerate(keys):
        start, stop = bounds[number] - bounds[0], bounds[number + 1] - bounds[0]
        yield series_key, volume_id, hashes.slice(start, stop - start).to_pylist()


def _lock(folder: Path) -> int:
    """Hold the folder's lock until closed or dead; the kernel frees it when the process ends, however it ends."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise LockedError(f"another process is writing the volume store {folder.name}: wait for it to end") from None
    return descriptor
