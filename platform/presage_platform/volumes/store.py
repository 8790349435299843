"""Reading a volume store: whole volumes, batches and crops of int16 HU, straight from the shards.

Reads go through `preadv` at known offsets: no mapping of files (network file systems), no shared file position
(threads), files opened anew in a forked process, and nothing but the index and the shards.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa

from presage_platform.errors import VolumeStoreError
from presage_platform.volumes.index import INDEX_NAME, read_index, shard_name
from presage_platform.volumes.recipe import VolumeRecipe, read_recipe
from presage_platform.volumes.record import (
    HEADER_NBYTES,
    Affine,
    BoolArray,
    Int16Array,
    RecordHeader,
    VolumeRecord,
    parse_header,
    unpack_mask,
)
from presage_platform.volumes.writer import StoreWriter

if TYPE_CHECKING:
    from presage_platform.settings import Settings
    from presage_platform.volumes.verify import StoreReport

__all__ = ["Store", "StoreWriter", "Volume", "VolumeRecord", "open_store", "store_folder"]

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Volume:
    """One volume as it is used: int16 HU with axes z, y, x; `affine` takes voxel (x, y, z) to RAS millimetres."""

    array: Int16Array
    affine: Affine
    spacing: tuple[float, float, float]
    mask: BoolArray | None


class Store:
    """A volume store open for reading; safe to share between threads and to carry through a fork."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index: pa.Table = read_index(path)
        self.recipe: VolumeRecipe = read_recipe(path / "recipe.toml")
        self.ids: list[str] = self.index.column("volume_id").to_pylist()
        self._row = {volume_id: number for number, volume_id in enumerate(self.ids)}
        self._shard = self._column("shard")
        self._offset = self._column("offset")
        self._shape = self._column("shape_zyx").reshape(-1, 3)
        self._affine = self._column("affine_ras").reshape(-1, 4, 4)
        self._files: dict[tuple[int, int], int] = {}

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the store in folder `path`."""
        return cls(Path(path))

    def close(self) -> None:
        """Close the shards that this process opened."""
        for key in [key for key in self._files if key[0] == os.getpid()]:
            os.close(self._files.pop(key))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, volume_id: str) -> bool:
        return volume_id in self._row

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.path,)  # another process opens the store for itself

    def __getitem__(self, volume_id: str) -> Volume:
        """Read one whole volume with its affine and mask."""
        row = self._find(volume_id)
        shape = self._shape_of(row)
        array = np.empty(shape, dtype=np.int16)
        header = self._read_payload(row, array)
        mask = None
        if header.mask_nbytes:
            data = bytearray(header.mask_nbytes)
            self._pread(row, int(self._offset[row]) - HEADER_NBYTES + header.mask_start, [memoryview(data)])
            mask = unpack_mask(bytes(data), shape)
        affine = self._affine[row].copy()
        edges = np.linalg.norm(affine[:3, :3], axis=0)
        return Volume(array, affine, (float(edges[0]), float(edges[1]), float(edges[2])), mask)

    def shape_zyx(self, volume_id: str) -> Shape:
        """Array shape of a volume, without reading it."""
        return self._shape_of(self._find(volume_id))

    def read_batch(
        self, ids: Sequence[str], out: Int16Array | None = None, threads: int = 1, *, verify: bool = False
    ) -> Int16Array:
        """Read whole volumes of one shape into one contiguous array.

        Parameters
        ----------
        ids
            Volume ids, in the order of the result.
        out : array, shape = (num_ids, z, y, x), int16, C-contiguous
            Where to read into, for example a pinned buffer; made when absent.
        threads
            Reads at once; the shards are visited in offset order.
        verify
            Also compare the sha256 of every payload.
        """
        rows = [self._find(volume_id) for volume_id in ids]
        shapes = {self._shape_of(row) for row in rows}
        if len(shapes) > 1:
            raise VolumeStoreError(f"a batch needs one shape, these volumes have {sorted(shapes)}: use crop_batch")
        shape = (len(rows), *(shapes.pop() if shapes else (0, 0, 0)))
        batch = _check_out(out, shape)

        def read(slot: int) -> None:
            self._read_payload(rows[slot], batch[slot], verify=verify)

        _for_each(read, self._in_offset_order(rows), threads)
        return batch

    def crop(self, volume_id: str, start_zyx: Sequence[int], size_zyx: Sequence[int]) -> Int16Array:
        """Read a box of `size_zyx` voxels from `start_zyx`; what lies outside the volume is the recipe's pad value."""
        result = np.full(_triple(size_zyx), self.recipe.pad_value, dtype=np.int16)
        self._read_crop(self._find(volume_id), _triple(start_zyx), result)
        return result

    def crop_batch(
        self,
        ids: Sequence[str],
        starts_zyx: Sequence[Sequence[int]],
        size_zyx: Sequence[int],
        out: Int16Array | None = None,
        threads: int = 1,
    ) -> Int16Array:
        """Read one box of the same size from each volume, shape (num_ids, z, y, x)."""
        rows = [self._find(volume_id) for volume_id in ids]
        if len(rows) != len(starts_zyx):
            raise VolumeStoreError(f"{len(rows)} volumes but {len(starts_zyx)} crop positions: give one each")
        batch = _check_out(out, (len(rows), *_triple(size_zyx)))
        batch.fill(self.recipe.pad_value)

        def read(slot: int) -> None:
            self._read_crop(rows[slot], _triple(starts_zyx[slot]), batch[slot])

        _for_each(read, self._in_offset_order(rows), threads)
        return batch

    def verify(self, sample: int | None = None) -> StoreReport:
        """Prove the store against its hashes; see `presage_platform.volumes.verify`."""
        from presage_platform.volumes.verify import verify_store

        return verify_store(self.path, sample=sample)

    def _column(self, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        column = self.index.column(name).combine_chunks()
        values = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
        return np.asarray(values.to_numpy(zero_copy_only=False))

    def _find(self, volume_id: str) -> int:
        try:
            return self._row[volume_id]
        except KeyError:
            raise VolumeStoreError(
                f"volume {volume_id[:16]} is not in the store {self.path.name}, which holds {len(self.ids)}"
            ) from None

    def _shape_of(self, row: int) -> Shape:
        z, y, x = self._shape[row]
        return int(z), int(y), int(x)

    def _in_offset_order(self, rows: Sequence[int]) -> list[int]:
        return sorted(range(len(rows)), key=lambda slot: (self._shard[rows[slot]], self._offset[rows[slot]]))

    def _read_payload(self, row: int, into: Int16Array, *, verify: bool = False) -> RecordHeader:
        head = bytearray(HEADER_NBYTES)
        payload = into.data.cast("B") if into.size else memoryview(b"")
        self._pread(row, int(self._offset[row]) - HEADER_NBYTES, [memoryview(head), payload])
        header = parse_header(head, where=self._where(row))
        if header.shape_zyx != into.shape or header.payload_nbytes != into.nbytes:
            raise VolumeStoreError(f"{self._where(row)}: the record has another shape than the index says")
        if header.volume_id != self.ids[row]:
            raise VolumeStoreError(f"{self._where(row)}: another volume stands here; run `platform volumes verify`")
        if verify and sha256(payload).hexdigest() != header.sha256:
            raise VolumeStoreError(f"{self._where(row)}: the voxels do not agree with their sha256")
        return header

    def _read_crop(self, row: int, start: Shape, result: Int16Array) -> None:
        """Fill the part of `result` that lies inside the volume, reading only the rows it needs."""
        shape = self._shape_of(row)
        low = [max(0, s) for s in start]
        high = [min(n, s + size) for n, s, size in zip(shape, start, result.shape, strict=True)]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            return
        rows_yx = np.empty((high[1] - low[1], shape[2]), dtype=np.int16)
        target = result[tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))]
        for z in range(low[0], high[0]):
            first = int(self._offset[row]) + 2 * shape[2] * (z * shape[1] + low[1])
            self._pread(row, first, [rows_yx.data.cast("B")])
            target[z - low[0]] = rows_yx[:, low[2] : high[2]]

    def _pread(self, row: int, position: int, buffers: list[memoryview]) -> None:
        """Fill all buffers from `position` of the row's shard, however short single reads are."""
        descriptor = self._descriptor(int(self._shard[row]))
        remaining = [buffer for buffer in buffers if len(buffer)]
        while remaining:
            count = os.preadv(descriptor, remaining, position)
            if count == 0:
                raise VolumeStoreError(f"{self._where(row)}: the shard ends before the record does")
            position += count
            while remaining and count >= len(remaining[0]):
                count -= len(remaining.pop(0))
            if remaining:
                remaining[0] = remaining[0][count:]

    def _descriptor(self, shard: int) -> int:
        key = (os.getpid(), shard)  # a forked child opens its own
        descriptor = self._files.get(key)
        if descriptor is not None:
            return descriptor
        path = self.path / shard_name(shard)
        try:
            opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise VolumeStoreError(
                f"{path.name} cannot be opened ({error.strerror}): `platform volumes verify`"
            ) from None
        kept = self._files.setdefault(key, opened)
        if kept != opened:  # another thread was faster
            os.close(opened)
        return kept

    def _where(self, row: int) -> str:
        return f"volume {self.ids[row][:16]}, {shard_name(int(self._shard[row]))} at {int(self._offset[row])}"


def store_folder(volumes_dir: Path, recipe: VolumeRecipe) -> Path:
    """Where the volumes of a recipe lie."""
    return volumes_dir / recipe.short_hash


def open_store(settings: Settings, recipe_hash: str | None = None) -> Store:
    """Open the workspace's store; with several, `recipe_hash` (or its first digits) says which."""
    folders = sorted(path.parent for path in settings.volumes_dir.glob(f"*/{INDEX_NAME}"))
    if recipe_hash is not None:
        folders = [path for path in folders if recipe_hash.startswith(path.name) or path.name.startswith(recipe_hash)]
    if len(folders) == 1:
        return Store.open(folders[0])
    wanted = f"recipe {recipe_hash[:16]}" if recipe_hash else "one recipe"
    found = ", ".join(path.name for path in folders) or "none"
    raise VolumeStoreError(
        f"expected one volume store of {wanted}, found {found}: "
        + ("name one of them" if folders else "convert with `platform etl dicom`")
    )


def _check_out(out: Int16Array | None, shape: tuple[int, ...]) -> Int16Array:
    if out is None:
        return np.empty(shape, dtype=np.int16)
    if out.shape != shape or out.dtype != np.int16 or not out.flags.c_contiguous:
        raise VolumeStoreError(f"the buffer must be a contiguous int16 array of shape {shape}, found {out.shape}")
    return out


def _triple(values: Sequence[int]) -> Shape:
    z, y, x = (int(value) for value in values)
    return z, y, x


def _for_each(function: Callable[[int], None], slots: Sequence[int], threads: int) -> None:
    if threads <= 1 or len(slots) <= 1:
        for slot in slots:
            function(slot)
        return
    with ThreadPoolExecutor(max_workers=min(threads, len(slots))) as pool:
        for _ in pool.map(function, slots):
            pass
