"""Small volumes for tests: an asymmetric phantom, and stores filled with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from presage_platform.volumes.recipe import VolumeRecipe, parse_recipe
from presage_platform.volumes.record import SliceOrigin, VolumeRecord, make_volume_id
from presage_platform.volumes.store import Store, StoreWriter

Int16Array = npt.NDArray[np.int16]

SMALL_RECIPE = """
name = "small"
spacing_mm = [6.0, 6.0, 10.0]
crop = "centre"
shape = [6, 5, 4]
"""


@dataclass(frozen=True)
class Source:
    """A native volume as resampling reads it."""

    array: Int16Array
    affine_ras: npt.NDArray[np.float64]
    valid: npt.NDArray[np.bool_] | None = None


def small_recipe(**changes: object) -> VolumeRecipe:
    """A recipe of 4 x 5 x 6 voxels (z, y, x)."""
    return parse_recipe(SMALL_RECIPE, origin="small").model_copy(update=changes)


def record(
    number: int, recipe: VolumeRecipe, *, shape: tuple[int, int, int] = (4, 5, 6), masked: bool = False
) -> VolumeRecord:
    """The `number`-th of a series of different volumes; the same number always gives the same bytes."""
    rng = np.random.default_rng(number)
    array = rng.integers(-1024, 3072, shape).astype(np.int16)
    header_hash = f"{number:032x}"
    return VolumeRecord(
        volume_id=make_volume_id(recipe.recipe_hash, [(f"1.2.{number}", 0, header_hash, "p")]),
        study_id=number + 1,
        array=array,
        affine_ras=np.diag([6.0, 6.0, 10.0, 1.0]),
        series_key=f"{number:032x}",
        study_uid=f"1.{number}",
        series_uid=f"1.2.{number}",
        sops=(SliceOrigin(f"1.2.{number}", 0, header_hash, 0.5 * number),),
        mask=rng.random(shape) < 0.7 if masked else None,
        source_min=int(array.min()),
        source_max=int(array.max()),
        hu_p50=float(np.median(array)),
    )


def fill_store(folder: Path, recipe: VolumeRecipe, numbers: range | list[int], *, shard_gb: float = 2.0) -> Store:
    """Write volumes `numbers` in that order, every other one masked, and open the store."""
    with StoreWriter(folder, recipe, shard_gb=shard_gb) as writer:
        for number in numbers:
            writer.add(record(number, recipe, masked=number % 2 == 1))
    return Store.open(folder)


def store_bytes(folder: Path) -> dict[str, bytes]:
    """All files of a store by name, without the lock."""
    return {
        path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file() and path.name != ".lock"
    }


def phantom(shape: tuple[int, int, int] = (24, 40, 48)) -> Source:
    """A body of 40 HU in air with one different blob near each face, oblique origin, LPS-like axes."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    array = np.full(shape, -1000, dtype=np.int16)
    inside = ((y - shape[1] / 2) / (0.4 * shape[1])) ** 2 + ((x - shape[2] / 2) / (0.42 * shape[2])) ** 2 < 1
    array[np.broadcast_to(inside, shape)] = 40
    blobs = [
        (2, 20, 24, 300),
        (21, 20, 24, -200),
        (12, 7, 24, 500),
        (12, 32, 24, 700),
        (12, 20, 8, 900),
        (12, 20, 40, 1100),
    ]
    for bz, by, bx, value in blobs:
        near = (z - bz) ** 2 + (y - by) ** 2 + (x - bx) ** 2 <= 4
        array[near] = value
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])  # rows run left, columns run posterior: as a supine axial stack
    affine[:3, 3] = (47.0, 39.5, -100.25)
    return Source(array, affine)
