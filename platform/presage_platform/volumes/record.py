"""One volume as bytes in a shard: a 128-byte header, then payload, mask and facts, each aligned to 64 bytes.

The facts (affine, provenance, percentiles) travel with the pixels, so that a lost index can be rebuilt. What may change
without touching a pixel (study id, rank, verdict, times) is not in the shard: linking and ranking never rewrite it.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from presage_platform.errors import VolumeStoreError

Int16Array = npt.NDArray[np.int16]
BoolArray = npt.NDArray[np.bool_]
Affine = npt.NDArray[np.float64]

ALIGNMENT = 64
CODECS = {"raw": 0}
DTYPES = {"int16": 1}
FORMAT_VERSION = 1

_MAGIC = b"PRESVREC"
# magic, codec, dtype, version, shape z y x, reserved, payload, mask and facts lengths, sha256 of the payload,
# volume id, blake2b-128 of mask and facts
_HEADER = struct.Struct("<8sHHI3IIQII32s32s16s")
HEADER_NBYTES = _HEADER.size  # 128

FACTS = (
    "series_key",
    "affine_ras",
    "spacing_mm",
    "native_shape",
    "native_affine",
    "source_min",
    "source_max",
    "actions",
    "sops",
    "body_cut_fraction",
    "hu_p01",
    "hu_p50",
    "hu_p99",
)
"""Columns of the index that a shard repeats beside the pixels."""


@dataclass(frozen=True, slots=True)
class SliceOrigin:
    """Where one native slice of a volume came from: instance, frame, hash of its header, position along the normal."""

    sop_uid: str
    frame: int
    header_hash: str
    d_mm: float


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """A converted volume with its provenance, ready to be stored.

    `array` is int16 HU, shape (z, y, x), x fastest; `mask` marks valid voxels and is absent when all are valid.
    """

    volume_id: str
    study_id: int
    array: Int16Array
    affine_ras: Affine
    rank: int = 1
    series_key: str = ""
    study_uid: str = ""
    series_uid: str = ""
    image_dt: datetime | None = None
    native_shape: tuple[int, int, int] | None = None
    native_affine: Affine | None = None
    source_min: int | None = None
    source_max: int | None = None
    verdict: str = "ok"
    actions: tuple[str, ...] = ()
    sops: tuple[SliceOrigin, ...] = ()
    mask: BoolArray | None = None
    body_cut_fraction: float | None = None
    hu_p01: float | None = None
    hu_p50: float | None = None
    hu_p99: float | None = None
    thumbnails_ref: str | None = field(default=None)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edge along x, y, z."""
        edges = np.linalg.norm(np.asarray(self.affine_ras, dtype=np.float64)[:3, :3], axis=0)
        return float(edges[0]), float(edges[1]), float(edges[2])


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """What the 128 bytes before a payload say."""

    codec: str
    shape_zyx: tuple[int, int, int]
    payload_nbytes: int
    mask_nbytes: int
    facts_nbytes: int
    sha256: str
    volume_id: str
    side_digest: str

    @property
    def mask_start(self) -> int:
        """Bytes from the start of the record to the mask."""
        return HEADER_NBYTES + aligned(self.payload_nbytes)

    @property
    def facts_start(self) -> int:
        """Bytes from the start of the record to the facts."""
        return self.mask_start + aligned(self.mask_nbytes)

    @property
    def total_nbytes(self) -> int:
        """Length of the whole record, padding included."""
        return self.facts_start + aligned(self.facts_nbytes)

    def pack(self) -> bytes:
        """The header's bytes."""
        return _HEADER.pack(
            _MAGIC,
            CODECS[self.codec],
            DTYPES["int16"],
            FORMAT_VERSION,
            *self.shape_zyx,
            0,
            self.payload_nbytes,
            self.mask_nbytes,
            self.facts_nbytes,
            bytes.fromhex(self.sha256),
            bytes.fromhex(self.volume_id),
            bytes.fromhex(self.side_digest),
        )


def make_volume_id(recipe_hash: str, slices: Sequence[tuple[str, int, str, str]]) -> str:
    """sha256 over the recipe and the ordered (sop uid, frame, header hash, pixel hash) of the slices, 64 hex digits."""
    content = json.dumps([recipe_hash, [list(item) for item in slices]], separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def aligned(nbytes: int) -> int:
    """`nbytes` rounded up to the alignment of records."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def parse_header(data: bytes | bytearray | memoryview, *, where: str) -> RecordHeader:
    """Read a record header; `where` names the place in errors."""
    if len(data) < HEADER_NBYTES:
        raise VolumeStoreError(f"{where}: {len(data)} bytes where a record header of {HEADER_NBYTES} was expected")
    magic, codec, dtype, version, z, y, x, _, payload, mask, facts, sha, volume_id, side = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise VolumeStoreError(f"{where}: no volume record begins here; run `platform volumes verify`")
    if version > FORMAT_VERSION:
        raise VolumeStoreError(f"{where}: record format {version}, this release reads up to {FORMAT_VERSION}")
    names = {number: name for name, number in CODECS.items()}
    if codec not in names or dtype != DTYPES["int16"]:
        raise VolumeStoreError(f"{where}: unknown codec {codec} or data type {dtype}; a newer release wrote this")
    return RecordHeader(names[codec], (z, y, x), payload, mask, facts, sha.hex(), volume_id.hex(), side.hex())


def encode_record(record: VolumeRecord, *, codec: str) -> tuple[RecordHeader, list[bytes]]:
    """Return the header and the byte blocks of a whole record, padding included."""
    if codec not in CODECS:
        raise VolumeStoreError(f"codec {codec!r} cannot be written: this release writes {', '.join(CODECS)}")
    array = np.ascontiguousarray(record.array)
    if array.dtype != np.int16 or array.ndim != 3:
        raise VolumeStoreError(f"a volume is int16 with axes z, y, x; found {array.dtype} with {array.ndim} axes")
    payload = array.astype("<i2", copy=False).tobytes()
    mask = b"" if record.mask is None or record.mask.all() else _pack_mask(record.mask, array.shape)
    facts = json.dumps(facts_of(record), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    header = RecordHeader(
        codec=codec,
        shape_zyx=(array.shape[0], array.shape[1], array.shape[2]),
        payload_nbytes=len(payload),
        mask_nbytes=len(mask),
        facts_nbytes=len(facts),
        sha256=hashlib.sha256(payload).hexdigest(),
        volume_id=record.volume_id,
        side_digest=side_digest(mask, facts),
    )
    return header, [header.pack(), _padded(payload), _padded(mask), _padded(facts)]


def facts_of(record: VolumeRecord) -> dict[str, Any]:
    """The record's own facts as plain JSON values, keys as in `FACTS`."""
    native_affine = record.affine_ras if record.native_affine is None else record.native_affine
    return {
        "series_key": record.series_key,
        "affine_ras": _floats(record.affine_ras),
        "spacing_mm": list(record.spacing_mm),
        "native_shape": list(record.native_shape or record.array.shape),
        "native_affine": _floats(native_affine),
        "source_min": record.source_min,
        "source_max": record.source_max,
        "actions": list(record.actions),
        "sops": [
            {"sop_uid": s.sop_uid, "frame": s.frame, "header_hash": s.header_hash, "d_mm": float(s.d_mm)}
            for s in record.sops
        ],
        "body_cut_fraction": record.body_cut_fraction,
        "hu_p01": record.hu_p01,
        "hu_p50": record.hu_p50,
        "hu_p99": record.hu_p99,
    }


def unpack_mask(data: bytes, shape_zyx: tuple[int, int, int]) -> BoolArray:
    """The boolean valid mask of a record, shape (z, y, x)."""
    count = shape_zyx[0] * shape_zyx[1] * shape_zyx[2]
    bits = np.frombuffer(zlib.decompress(data), dtype=np.uint8)
    return np.unpackbits(bits, count=count, bitorder="little").view(np.bool_).reshape(shape_zyx)


def side_digest(mask: bytes, facts: bytes) -> str:
    """blake2b-128 over the blocks that the payload's sha256 does not cover."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(len(mask).to_bytes(8, "little"))
    digest.update(mask)
    digest.update(facts)
    return digest.hexdigest()


def _pack_mask(mask: BoolArray, shape: tuple[int, ...]) -> bytes:
    if mask.shape != shape:
        raise VolumeStoreError(f"the mask has shape {mask.shape}, its volume {shape}")
    return zlib.compress(np.packbits(mask, axis=None, bitorder="little").tobytes(), 6)


def _padded(block: bytes) -> bytes:
    return block + bytes(aligned(len(block)) - len(block))


def _floats(affine: Affine) -> list[float]:
    return [float(value) for value in np.asarray(affine, dtype=np.float64).reshape(-1)]
