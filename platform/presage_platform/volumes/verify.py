"""Proving a volume store: every byte of every file is covered by a hash or a rule, and a fault is named by its place.

Also the way back: an index rebuilt from the shards and from the series that the ledger knows.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from presage_platform.errors import PresageError, VolumeStoreError
from presage_platform.volumes.index import (
    INDEX_NAME,
    MANIFEST_NAME,
    RECIPE_NAME,
    SHARD_HEADER_NBYTES,
    Manifest,
    file_sha256,
    index_bytes,
    index_table,
    read_index,
    read_manifest,
    shard_header,
    shard_name,
    write_durably,
)
from presage_platform.volumes.recipe import read_recipe
from presage_platform.volumes.record import ALIGNMENT, HEADER_NBYTES, RecordHeader, parse_header, side_digest


@dataclass(frozen=True, slots=True)
class Fault:
    """One place where the store is not what it says it is."""

    what: str
    file: str
    offset: int | None = None
    volume_id: str | None = None

    def __str__(self) -> str:
        place = self.file if self.offset is None else f"{self.file} at {self.offset}"
        return f"{place}{f' (volume {self.volume_id[:16]})' if self.volume_id else ''}: {self.what}"


@dataclass(slots=True)
class StoreReport:
    """What a verification read and what it found."""

    num_volumes: int = 0
    num_checked: int = 0
    num_bytes: int = 0
    faults: list[Fault] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when nothing is wrong."""
        return not self.faults


def verify_store(folder: Path, *, sample: int | None = None) -> StoreReport:
    """Check manifest, recipe, index and shards; with `sample`, the payloads of so many volumes instead of all."""
    report = StoreReport()
    try:
        manifest, index = read_manifest(folder), read_index(folder)
        recipe_hash = read_recipe(folder / RECIPE_NAME).recipe_hash
    except PresageError as error:
        report.faults.append(Fault(str(error), folder.name))
        return report
    report.faults += _small_files(folder, manifest, recipe_hash)
    rows = index.drop_columns(["sops"]).to_pylist()
    report.num_volumes = len(rows)
    chosen = rows if sample is None else random.Random(0).sample(rows, min(sample, len(rows)))  # noqa: S311
    ids = {row["volume_id"] for row in chosen}
    for number in sorted({row["shard"] for row in rows}):
        in_shard = sorted((row for row in rows if row["shard"] == number), key=lambda row: int(row["offset"]))
        report.faults += _check_shard(folder, number, in_shard, ids, manifest if sample is None else None)
    report.num_checked = len(chosen)
    report.num_bytes = sum(int(row["nbytes"]) for row in chosen)
    return report


def rebuild_index(folder: Path, series: Mapping[str, Mapping[str, Any]]) -> pa.Table:
    """Read an index back from the shards.

    `series` maps a series key to what the ledger knows and a shard does not: study_id, rank, study_uid, series_uid,
    image_dt, verdict.
    """
    recipe_hash = read_recipe(folder / RECIPE_NAME).recipe_hash
    rows = []
    for path in sorted(folder.glob("shard-*.bin")):
        number = int(path.stem.removeprefix("shard-"))
        for position, header, facts in _records(path):
            known = series.get(facts["series_key"])
            if known is None:
                raise VolumeStoreError(
                    f"series {facts['series_key'][:12]} of {path.name} is not in image_series: "
                    "run `platform etl dicom --scan-only` over its source first"
                )
            rows.append(_index_row(number, position, header, facts, known, recipe_hash))
    return index_table(rows)


def reindex(folder: Path, series: Mapping[str, Mapping[str, Any]], *, codec: str = "raw") -> int:
    """Write index and manifest anew from the shards; returns the number of volumes."""
    data = index_bytes(table := rebuild_index(folder, series))
    manifest = Manifest(
        recipe_hash=read_recipe(folder / RECIPE_NAME).recipe_hash,
        recipe_sha256=file_sha256(folder / RECIPE_NAME),
        codec=codec,
        num_volumes=table.num_rows,
        shards={path.name: file_sha256(path) for path in sorted(folder.glob("shard-*.bin"))},
        index_sha256=hashlib.sha256(data).hexdigest(),
        replaces=file_sha256(folder / INDEX_NAME) if (folder / INDEX_NAME).exists() else None,
    )
    write_durably(folder / MANIFEST_NAME, manifest.to_json().encode())
    write_durably(folder / INDEX_NAME, data)
    return int(table.num_rows)


def _small_files(folder: Path, manifest: Manifest, recipe_hash: str) -> Iterator[Fault]:
    if file_sha256(folder / INDEX_NAME) not in (manifest.index_sha256, manifest.replaces):
        yield Fault("does not agree with the sha256 in the manifest", INDEX_NAME)
    if file_sha256(folder / RECIPE_NAME) != manifest.recipe_sha256 or recipe_hash != manifest.recipe_hash:
        yield Fault("does not agree with the manifest", RECIPE_NAME)


def _check_shard(
    folder: Path, number: int, rows: Sequence[dict[str, Any]], chosen: set[str], manifest: Manifest | None
) -> Iterator[Fault]:
    """Compare one shard with its index rows; the whole-file hash only when a manifest is given."""
    path = folder / shard_name(number)
    if not path.exists():
        yield Fault(f"is missing; {len(rows)} volumes are lost until it is restored", path.name)
        return
    faults = []
    with path.open("rb") as file:
        if file.read(SHARD_HEADER_NBYTES) != shard_header(rows[0]["recipe_hash"]):
            faults.append(Fault("shard header is damaged or of another recipe", path.name, 0))
        position = SHARD_HEADER_NBYTES
        starts = [int(row["offset"]) - HEADER_NBYTES for row in rows]
        for row, start, end in zip(rows, starts, [*starts[1:], path.stat().st_size], strict=True):
            if start != position or start % ALIGNMENT:
                faults.append(Fault(f"expected the record at {position}", path.name, start, row["volume_id"]))
            file.seek(start)
            length, found = _check_record(file.read(max(0, end - start)), row, row["volume_id"] in chosen)
            faults += [Fault(what, path.name, start + at, row["volume_id"]) for what, at in found]
            position = start + length
    if path.stat().st_size != position:
        faults.append(Fault(f"has {path.stat().st_size} bytes, its records end at {position}", path.name))
    if manifest is not None and not faults and file_sha256(path) != manifest.shards.get(path.name):
        faults.append(Fault("does not agree with the sha256 in the manifest", path.name))
    yield from faults


def _check_record(data: bytes, row: dict[str, Any], with_payload: bool) -> tuple[int, list[tuple[str, int]]]:
    """Return the record's length and what is wrong in it, each with its offset inside the record."""
    try:
        header = parse_header(data, where="record")
    except VolumeStoreError as error:
        return len(data), [(str(error), 0)]
    if header.total_nbytes != len(data):
        return len(data), [("record header gives another length than the index", 0)]
    faults = []
    stated = (header.volume_id, header.sha256, list(header.shape_zyx), header.payload_nbytes, header.mask_nbytes)
    if stated != tuple(row[key] for key in ("volume_id", "sha256", "shape_zyx", "nbytes", "mask_nbytes")):
        faults.append(("record header disagrees with the index", 0))
    payload = data[HEADER_NBYTES : HEADER_NBYTES + header.payload_nbytes]
    if with_payload and hashlib.sha256(payload).hexdigest() != header.sha256:
        faults.append(("voxels do not agree with their sha256", HEADER_NBYTES))
    mask = data[header.mask_start : header.mask_start + header.mask_nbytes]
    facts = data[header.facts_start : header.facts_start + header.facts_nbytes]
    if side_digest(mask, facts) != header.side_digest:
        faults.append(("mask or facts do not agree with their hash", header.mask_start))
    if header.pack() != data[:HEADER_NBYTES] or any(_gaps(data, header)):
        faults.append(("padding is not zero", HEADER_NBYTES + header.payload_nbytes))
    return header.total_nbytes, faults


def _gaps(data: bytes, header: RecordHeader) -> bytes:
    """All padding bytes of a record."""
    return (
        data[HEADER_NBYTES + header.payload_nbytes : header.mask_start]
        + data[header.mask_start + header.mask_nbytes : header.facts_start]
        + data[header.facts_start + header.facts_nbytes :]
    )


def _records(path: Path) -> Iterator[tuple[int, RecordHeader, dict[str, Any]]]:
    """Walk a shard: start, header and facts of each record."""
    size = path.stat().st_size
    with path.open("rb") as file:
        position = SHARD_HEADER_NBYTES
        while position < size:
            file.seek(position)
            header = parse_header(file.read(HEADER_NBYTES), where=f"{path.name} at {position}")
            file.seek(position + header.facts_start)
            yield position, header, json.loads(file.read(header.facts_nbytes))
            position += header.total_nbytes


def _index_row(
    shard: int, position: int, header: RecordHeader, facts: dict[str, Any], known: Mapping[str, Any], recipe_hash: str
) -> dict[str, Any]:
    z, y, x = header.shape_zyx
    return {
        **facts,
        **{name: known[name] for name in ("study_id", "rank", "study_uid", "series_uid", "image_dt", "verdict")},
        "volume_id": header.volume_id,
        "shard": shard,
        "offset": position + HEADER_NBYTES,
        "nbytes": header.payload_nbytes,
        "raw_nbytes": 2 * z * y * x,
        "codec": header.codec,
        "shape_zyx": [z, y, x],
        "sha256": header.sha256,
        "recipe_hash": recipe_hash,
        "mask_offset": position + header.mask_start if header.mask_nbytes else None,
        "mask_nbytes": header.mask_nbytes,
        "thumbnails_ref": None,
    }
