"""Native volume to recipe grid: orientation, one interpolation, crop, clip. Pure functions, the same bytes everywhere.

Linear interpolation, and the Gaussian that precedes it where an axis shrinks, are both linear maps along one axis:
their product is one small sparse matrix an axis, so that the volume is interpolated once. Arithmetic is float64; what
is kept between the axes is float32; the result is rounded half to even.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from presage_etl.dicom.body import find_body
from presage_platform.volumes.catalogue import Reason
from presage_platform.volumes.recipe import VolumeRecipe
from presage_platform.volumes.record import Affine, BoolArray, Int16Array

BODY_CUT_LIMIT = 0.05
_GAUSSIAN_REACH = 4.0  # standard deviations; beyond it weights are below 4e-4 of the centre's
_VALID_SHARE = 0.5

FloatArray = npt.NDArray[np.float32]
Shape = tuple[int, int, int]


class SourceVolume(Protocol):
    """What is resampled: int16 HU with axes z, y, x, its affine, its valid voxels (None = all)."""

    @property
    def array(self) -> Int16Array | None: ...
    @property
    def affine_ras(self) -> Affine: ...
    @property
    def valid(self) -> BoolArray | None: ...


@dataclass(frozen=True, slots=True, eq=False)
class ProcessedVolume:
    """A volume on the recipe's grid; `mask` is None when every voxel is valid."""

    array: Int16Array
    affine_ras: Affine
    mask: BoolArray | None
    body_cut_fraction: float | None
    reasons: tuple[str, ...]


def apply_recipe(native: SourceVolume, recipe: VolumeRecipe) -> ProcessedVolume:
    """Bring a native volume to the orientation, grid, window and range of a recipe.

    The grid keeps the directions of the acquisition, permuted and flipped to the closest right-anterior-superior order:
    an oblique stack is not rotated, so that interpolation stays separable.
    """
    if native.array is None:
        raise ValueError("a rejected series has no voxels to resample")
    array, valid, affine = orient_to_ras(native.array, native.valid, native.affine_ras)
    voxels: npt.NDArray[Any] = array
    if recipe.spacing_mm is not None:
        voxels, valid, affine = _resample(array, valid, affine, recipe)
    start, fraction, reasons = _window(voxels, valid, affine, recipe)
    voxels, valid, affine = _cut(voxels, valid, affine, start, recipe)
    if recipe.clip_hu is not None:
        voxels = np.clip(voxels, *recipe.clip_hu)
    result = np.ascontiguousarray(np.rint(voxels) if voxels.dtype != np.int16 else voxels, dtype=np.int16)
    mask = None if valid is None or valid.all() else np.ascontiguousarray(valid)
    return ProcessedVolume(result, affine, mask, fraction, reasons)


def orient_to_ras(
    array: Int16Array, valid: BoolArray | None, affine_ras: Affine
) -> tuple[Int16Array, BoolArray | None, Affine]:
    """Permute and flip axes, nothing else, so that x, y, z run closest to right, anterior, superior."""
    directions = affine_ras[:3, :3] / np.linalg.norm(affine_ras[:3, :3], axis=0)
    order = max(permutations(range(3)), key=lambda p: sum(abs(directions[world, p[world]]) for world in range(3)))
    transform = np.zeros((4, 4))  # new index (x, y, z) → old index
    transform[3, 3] = 1.0
    shape_xyz = array.shape[::-1]
    flips = []
    for world, axis in enumerate(order):
        flipped = directions[world, axis] < 0
        flips.append(slice(None, None, -1) if flipped else slice(None))
        transform[axis, world] = -1.0 if flipped else 1.0
        transform[axis, 3] = shape_xyz[axis] - 1 if flipped else 0
    axes_zyx = [2 - order[world] for world in (2, 1, 0)]
    cut = tuple(flips[::-1])
    moved = array.transpose(axes_zyx)[cut]
    return moved, None if valid is None else valid.transpose(axes_zyx)[cut], affine_ras @ transform


def axis_weights(num_source: int, source_mm: float, target_mm: float, *, antialias: bool) -> Any:
    """Return the sparse matrix, shape (num_target, num_source), that resamples one axis; None when nothing changes.

    The target grid has `round(extent / target_mm)` voxels around the same centre. Within half a voxel beyond the last
    centre the last voxel counts; the grid never reaches further.
    """
    from scipy.sparse import csr_array

    num_target = max(1, int(np.floor(num_source * source_mm / target_mm + 0.5)))
    factor = target_mm / source_mm
    if num_target == num_source and abs(factor - 1.0) < 1e-9:
        return None
    centres = (num_source - 1) / 2 + (np.arange(num_target) - (num_target - 1) / 2) * factor
    centres = np.clip(centres, 0.0, num_source - 1.0)
    low = np.minimum(np.floor(centres).astype(np.int64), max(0, num_source - 2))
    share = centres - low
    rows = np.arange(num_target)
    values = np.concatenate([1.0 - share, share])
    columns = np.concatenate([low, np.minimum(low + 1, num_source - 1)])
    linear = csr_array((values, (np.concatenate([rows, rows]), columns)), shape=(num_target, num_source))
    if antialias and factor > 1.0:
        linear = linear @ _gaussian(num_source, 0.5 * np.sqrt(factor**2 - 1.0))
    linear.sum_duplicates()
    linear.sort_indices()
    return linear


def _gaussian(num: int, sigma: float) -> Any:
    """Smoothing along an axis of `num` voxels; weights that fall outside go to the border voxel."""
    from scipy.sparse import csr_array

    reach = int(np.ceil(_GAUSSIAN_REACH * sigma))
    offsets = np.arange(-reach, reach + 1)
    kernel = np.array([math.exp(-0.5 * (offset / sigma) ** 2) for offset in offsets])
    kernel /= kernel.sum()
    rows = np.repeat(np.arange(num), len(offsets))
    columns = np.clip(rows + np.tile(offsets, num), 0, num - 1)
    return csr_array((np.tile(kernel, num), (rows, columns)), shape=(num, num))


def _resample(
    array: Int16Array, valid: BoolArray | None, affine: Affine, recipe: VolumeRecipe
) -> tuple[FloatArray, BoolArray | None, Affine]:
    assert recipe.spacing_mm is not None
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    sizes = array.shape[::-1]
    weights = [
        axis_weights(sizes[axis], float(edges[axis]), recipe.spacing_mm[axis], antialias=recipe.antialias)
        for axis in range(3)
    ]
    voxels = _apply(array, weights)
    if valid is not None:
        plain = [
            axis_weights(sizes[axis], float(edges[axis]), recipe.spacing_mm[axis], antialias=False) for axis in range(3)
        ]
        valid = _apply(valid, plain) >= _VALID_SHARE
    new_edges = np.array([recipe.spacing_mm[axis] if weights[axis] is not None else edges[axis] for axis in range(3)])
    new_affine = affine.copy()
    new_affine[:3, :3] = affine[:3, :3] / edges * new_edges
    old_centre = affine[:3, :3] @ ((np.array(sizes) - 1) / 2)
    new_centre = new_affine[:3, :3] @ ((np.array(voxels.shape[::-1]) - 1) / 2)
    new_affine[:3, 3] = affine[:3, 3] + old_centre - new_centre
    return voxels, valid, new_affine


def _apply(array: npt.NDArray[Any], weights: list[Any]) -> FloatArray:
    """Multiply each axis with its matrix: x and y slice by slice, then z row by row, so that memory stays small."""
    along_x, along_y, along_z = weights
    planes = np.stack([_apply_plane(plane, along_x, along_y) for plane in array])
    if along_z is None:
        return planes
    result = np.empty((along_z.shape[0], *planes.shape[1:]), dtype=np.float32)
    for y in range(planes.shape[1]):
        result[:, y] = along_z @ planes[:, y].astype(np.float64)
    return result


def _apply_plane(plane: npt.NDArray[Any], along_x: Any, along_y: Any) -> FloatArray:
    values = np.ascontiguousarray(plane, dtype=np.float64)
    if along_y is not None:
        values = along_y @ values
    if along_x is not None:
        values = (along_x @ np.ascontiguousarray(values.T)).T
    return values.astype(np.float32)


def _window(
    voxels: npt.NDArray[Any], valid: BoolArray | None, affine: Affine, recipe: VolumeRecipe
) -> tuple[Shape, float | None, tuple[str, ...]]:
    """Where the fixed-size window begins (z, y, x; may be negative), and what it cuts off the body."""
    if recipe.shape_zyx is None:
        return (0, 0, 0), None, ()
    size = np.array(recipe.shape_zyx)
    centre = np.array(voxels.shape) / 2
    body = None
    reasons: list[str] = []
    if recipe.crop == "body":
        body = find_body(voxels, valid, float(np.linalg.norm(affine[:3, 1])))
        if body is None:
            reasons.append(Reason.NO_BODY)
        else:
            centre = body.centre_zyx
    z, y, x = (int(value) for value in np.floor(centre - size / 2 + 0.5))
    fraction = None
    if body is not None:
        fraction = body.share_outside((z, y, x), recipe.shape_zyx)
        if fraction > BODY_CUT_LIMIT:
            reasons.append(f"{Reason.BODY_CUT}: {100 * fraction:.1f} % of the body lies outside the window")
    return (z, y, x), fraction, tuple(reasons)


def _cut(
    voxels: npt.NDArray[Any], valid: BoolArray | None, affine: Affine, start: Shape, recipe: VolumeRecipe
) -> tuple[npt.NDArray[Any], BoolArray | None, Affine]:
    """Take the window; what lies outside the source is the pad value and not valid."""
    if recipe.shape_zyx is None:
        return voxels, valid, affine
    size = recipe.shape_zyx
    result = np.full(size, recipe.pad_value, dtype=voxels.dtype)
    mask = np.zeros(size, dtype=np.bool_)
    low = [max(0, s) for s in start]
    high = [min(n, s + length) for n, s, length in zip(voxels.shape, start, size, strict=True)]
    if all(a < b for a, b in zip(low, high, strict=True)):
        source = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        target = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
        result[target] = voxels[source]
        mask[target] = True if valid is None else valid[source]
    moved = affine.copy()
    moved[:3, 3] = affine[:3, 3] + affine[:3, :3] @ np.array(start[::-1], dtype=np.float64)
    return result, mask, moved
