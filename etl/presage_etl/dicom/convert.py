"""Candidates to volumes: decode once, apply every recipe, stage the result beside the shards.

Series are converted in any order by any number of processes; the store's writer puts them in order. A series whose
volume is there already, made from the same headers, is not opened at all.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from presage_etl.dicom.candidate import Candidate
from presage_etl.dicom.decode import NativeVolume, read_native
from presage_etl.dicom.resample import ProcessedVolume, apply_recipe
from presage_platform.errors import StaleSeriesError
from presage_platform.parallel import map_partitions
from presage_platform.settings import SeriesSettings
from presage_platform.volumes.catalogue import Verdict
from presage_platform.volumes.recipe import VolumeRecipe
from presage_platform.volumes.record import SliceOrigin, VolumeRecord, make_volume_id
from presage_platform.volumes.store import StoreWriter, store_folder
from presage_platform.volumes.writer import stage_record

FINAL = "pixels"
"""`verdict_stage` of a candidate whose pixels were read."""


@dataclass(frozen=True, slots=True)
class Target:
    """A recipe, and where its volumes are staged."""

    recipe: VolumeRecipe
    staging: Path
    codec: str


@dataclass(frozen=True, slots=True)
class Conversion:
    """One candidate for one worker, and what it needs to know."""

    candidate: Candidate
    study_id: int
    roots: Mapping[int, Path]
    policy: SeriesSettings
    targets: tuple[Target, ...]


@dataclass(slots=True)
class Converted:
    """What became of a candidate; `native` carries the final verdict and no voxels."""

    series_key: str
    native: NativeVolume | None  # None: its files changed since the scan
    volume_ids: dict[str, str] = field(default_factory=dict)  # recipe hash → volume id
    num_bytes: int = 0
    seconds: float = 0.0


class Stores:
    """The stores that a run writes, one a recipe, open together."""

    def __init__(self, writers: Sequence[StoreWriter]) -> None:
        self.writers = list(writers)

    def known(self, candidate: Candidate) -> dict[str, str]:
        """Volumes of a candidate that need not be made again: recipe hash → volume id.

        A volume counts when the candidate's final verdict is known too: from the ledger, or, where a killed run did
        not come so far, from what it left beside the staged volume.
        """
        hashes = [ref.header_hash for ref in candidate.slices]
        found: dict[str, str] = {}
        for writer in self.writers:
            is_final = candidate.verdict_stage == FINAL
            volume_id = writer.find(candidate.series_key, hashes, some_unused=is_final)
            if volume_id is not None and (is_final or _restore(candidate, writer.staged_row(volume_id))):
                found[writer.recipe.recipe_hash] = volume_id
        return found

    def keep(self, volume_ids: Mapping[str, str]) -> None:
        """Declare staged volumes wanted."""
        for writer in self.writers:
            if writer.recipe.recipe_hash in volume_ids:
                writer.keep(volume_ids[writer.recipe.recipe_hash])

    def targets(self, done: Iterable[str]) -> tuple[Target, ...]:
        """The recipes that are still to be applied."""
        finished = set(done)
        return tuple(
            Target(writer.recipe, writer.staging, writer.codec)
            for writer in self.writers
            if writer.recipe.recipe_hash not in finished
        )

    def refresh(self, changes: Mapping[str, Mapping[str, object]]) -> None:
        """Bring rank, verdict and times of volumes up to date in every store."""
        for writer in self.writers:
            writer.refresh(changes)


@contextmanager
def open_stores(volumes_dir: Path, recipes: Sequence[VolumeRecipe], *, codec: str, shard_gb: float) -> Iterator[Stores]:
    """Open a writer for each recipe; all commit when the block ends without an error."""
    with ExitStack() as stack:
        yield Stores(
            [
                stack.enter_context(
                    StoreWriter(store_folder(volumes_dir, recipe), recipe, codec=codec, shard_gb=shard_gb)
                )
                for recipe in recipes
            ]
        )


def _restore(candidate: Candidate, staged: Mapping[str, Any] | None) -> bool:
    """Give a candidate the verdict that a killed run reached; False when it left none."""
    if staged is None:
        return False
    candidate.verdict, candidate.verdict_stage = Verdict(staged["verdict"]), FINAL
    candidate.reasons, candidate.actions = list(staged["reasons"]), list(staged["actions"])
    return True


def convert(conversions: Iterable[Conversion], *, workers: int | None = None) -> Iterator[Converted]:
    """Convert candidates in parallel; results come as they finish."""
    yield from map_partitions(convert_one, conversions, workers=workers)


def convert_one(conversion: Conversion) -> Converted:
    """Decode one candidate and stage its volume for each target."""
    started = time.monotonic()
    candidate = conversion.candidate
    try:
        native = read_native(candidate, conversion.roots, conversion.policy)
    except StaleSeriesError:
        return Converted(candidate.series_key, None, seconds=time.monotonic() - started)
    result = Converted(candidate.series_key, native)
    if native.array is not None:
        for target in conversion.targets:
            processed = apply_recipe(native, target.recipe)
            record = volume_record(conversion, native, processed, target.recipe)
            native.reasons.extend(reason for reason in processed.reasons if reason not in native.reasons)
            stage_record(target.staging, record, target.recipe, codec=target.codec, reasons=native.reasons)
            result.volume_ids[target.recipe.recipe_hash] = record.volume_id
            result.num_bytes += record.array.nbytes
    native.array = native.valid = None  # voxels stay in this process
    result.seconds = time.monotonic() - started
    return result


def volume_record(
    conversion: Conversion, native: NativeVolume, processed: ProcessedVolume, recipe: VolumeRecipe
) -> VolumeRecord:
    """The processed volume with its provenance."""
    assert native.array is not None
    candidate = conversion.candidate
    identity = [
        (ref.sop_uid, ref.frame, ref.header_hash, pixel_hash)
        for ref, pixel_hash in zip(native.slices, native.pixel_hashes, strict=True)
    ]
    z, y, x = native.array.shape
    return VolumeRecord(
        volume_id=make_volume_id(recipe.recipe_hash, identity),
        study_id=conversion.study_id,
        array=processed.array,
        affine_ras=processed.affine_ras,
        rank=candidate.rank or 0,
        series_key=candidate.series_key,
        study_uid=candidate.study_uid,
        series_uid=candidate.series_uid,
        image_dt=candidate.image_dt,
        native_shape=(z, y, x),
        native_affine=native.affine_ras,
        source_min=native.source_min,
        source_max=native.source_max,
        verdict=native.verdict.value,
        actions=tuple(native.actions),
        sops=tuple(SliceOrigin(ref.sop_uid, ref.frame, ref.header_hash, ref.d_mm) for ref in native.slices),
        mask=processed.mask,
        body_cut_fraction=processed.body_cut_fraction,
        hu_p01=native.hu_p01,
        hu_p50=native.hu_p50,
        hu_p99=native.hu_p99,
    )
