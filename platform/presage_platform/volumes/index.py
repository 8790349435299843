"""The index and the manifest of a volume store: the two small files that make its shards readable and provable."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from presage_platform.errors import DiskFullError, VolumeStoreError
from presage_platform.volumes.record import FORMAT_VERSION

INDEX_NAME = "index.parquet"
MANIFEST_NAME = "MANIFEST.json"
RECIPE_NAME = "recipe.toml"

SHARD_MAGIC = b"PRESVOL1"
SHARD_HEADER_NBYTES = 64

_SOP = pa.struct(
    [("sop_uid", pa.string()), ("frame", pa.int32()), ("header_hash", pa.string()), ("d_mm", pa.float64())]
)

INDEX_SCHEMA = pa.schema(
    [
        ("volume_id", pa.string()),
        ("study_id", pa.int64()),
        ("rank", pa.int32()),
        ("series_key", pa.string()),
        ("study_uid", pa.string()),
        ("series_uid", pa.string()),
        ("image_dt", pa.timestamp("us")),
        ("shard", pa.int32()),
        ("offset", pa.int64()),  # of the payload; its header stands 128 bytes before
        ("nbytes", pa.int64()),
        ("raw_nbytes", pa.int64()),
        ("codec", pa.string()),
        ("shape_zyx", pa.list_(pa.int32(), 3)),
        ("affine_ras", pa.list_(pa.float64(), 16)),
        ("spacing_mm", pa.list_(pa.float64(), 3)),
        ("native_shape", pa.list_(pa.int32(), 3)),
        ("native_affine", pa.list_(pa.float64(), 16)),
        ("source_min", pa.int32()),
        ("source_max", pa.int32()),
        ("sha256", pa.string()),
        ("recipe_hash", pa.string()),
        ("verdict", pa.string()),
        ("actions", pa.list_(pa.string())),
        ("sops", pa.list_(_SOP)),
        ("mask_offset", pa.int64()),
        ("mask_nbytes", pa.int64()),
        ("body_cut_fraction", pa.float64()),
        ("hu_p01", pa.float64()),
        ("hu_p50", pa.float64()),
        ("hu_p99", pa.float64()),
        ("thumbnails_ref", pa.string()),
    ]
)
"""One row a volume, sorted by `volume_id`; the only file that a reader needs beside the shards."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Format version, counts, and the sha256 of recipe file, shards and index.

    `replaces` is the hash of the index that this one supersedes: after a crash between the two renames the store is
    still provable in its earlier state.
    """

    recipe_hash: str
    recipe_sha256: str
    codec: str
    num_volumes: int
    shards: dict[str, str]
    index_sha256: str
    replaces: str | None
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Canonical text of the manifest file, closed by a hash of itself."""
        content = {name: getattr(self, name) for name in _MANIFEST_KEYS}
        return json.dumps({**content, "check": _check_of(content)}, indent=1, sort_keys=True) + "\n"


_MANIFEST_KEYS = tuple(Manifest.__dataclass_fields__)


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.bin"


def shard_header(recipe_hash: str) -> bytes:
    """The 64 bytes at the head of every shard."""
    head = SHARD_MAGIC + FORMAT_VERSION.to_bytes(4, "little") + bytes(4) + bytes.fromhex(recipe_hash)
    return head + bytes(SHARD_HEADER_NBYTES - len(head))


def index_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """The index of `rows` (keys as in `INDEX_SCHEMA`), sorted by volume id."""
    return pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["volume_id"])), schema=INDEX_SCHEMA)


def read_index(folder: Path) -> pa.Table:
    """Read and check the index of a store."""
    path = folder / INDEX_NAME
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise VolumeStoreError(
            f"no volume store at {folder.name}: expected {INDEX_NAME}; convert with `platform etl dicom`"
        ) from error
    except (OSError, pa.ArrowInvalid) as error:
        raise VolumeStoreError(f"{INDEX_NAME} is damaged: rebuild it with `platform volumes reindex`") from error
    if not table.schema.equals(INDEX_SCHEMA):
        raise VolumeStoreError(f"{INDEX_NAME} has other columns than this release writes: `platform volumes reindex`")
    return table


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest; a newer format is refused with the version needed."""
    try:
        text = (folder / MANIFEST_NAME).read_text(encoding="utf-8")
        content = json.loads(text)
        version = int(content["format_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VolumeStoreError(f"{MANIFEST_NAME} is missing or damaged: `platform volumes reindex`") from error
    if version > FORMAT_VERSION:
        raise VolumeStoreError(f"the store has format {version}, this release reads {FORMAT_VERSION}: use a newer one")
    if set(content) == {*_MANIFEST_KEYS, "check"}:
        manifest = Manifest(**{name: content[name] for name in _MANIFEST_KEYS})
        if manifest.to_json() == text:
            return manifest
    raise VolumeStoreError(f"{MANIFEST_NAME} does not agree with its own hash: `platform volumes reindex`")


def index_bytes(table: pa.Table) -> bytes:
    """The index as the Parquet bytes that are written and hashed."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def write_durably(path: Path, data: bytes) -> None:
    """Write `data` under a temporary name, force it to disk, rename it into place, force the folder."""
    temporary = path.with_name(path.name + ".tmp")
    with disk_errors(), temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turn "no space left" into the error with its own exit code; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFullError("no space left for the volume store: free space and run again; it is intact") from error


def _check_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
