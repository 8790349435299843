"""Slice positions to an affine: pure functions on float64, LPS in, RAS out.

Index (i, j, k): i along a row (column number), j down a column (row number), k the sorted slice; a voxel's
coordinate is its centre. Nothing here reads SliceThickness, SpacingBetweenSlices, SliceLocation or PatientPosition.
Shape suffixes: N = slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

SAME_DIRECTION = 1e-3  # largest difference of a direction cosine within one orientation
UNIT_TOLERANCE = 1e-3  # beyond it directions are refused
ORTHONORMAL_TOLERANCE = 1e-4  # beyond it they are orthonormalised
SAME_POSITION_MM = 0.01
STRICT_SHARE = 0.01  # of the step
LOOSE_MM, LOOSE_SHARE = 0.06, 0.1
REGULAR_STEPS = 0.8  # share of steps that must equal the reference for a gap to be a gap
TILT_SINE = 1e-3
DRIFT_MM = 0.1

_LPS_TO_RAS: Float64 = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Where a regular stack lies."""

    affine_ras: Float64  # (4, 4), index (i, j, k) → RAS mm
    spacing_mm: tuple[float, float, float]  # along i (column step), j (row step), k
    shape_zyx: tuple[int, int, int]
    extent_mm: float  # along k: slices times step
    tilt_degrees: float  # angle of the stack vector to the normal
    residual_mm: float  # largest distance of a position from the regular grid along the normal
    gaps_mm: tuple[tuple[int, float], ...] = ()  # (index of the slice before, size) of each filled gap


@dataclass(frozen=True, slots=True, eq=False)
class Orientation:
    """Directions of an image: `row` along a row, `column` down a column, `normal` = row × column."""

    row: Float64
    column: Float64
    normal: Float64
    orthonormalised: bool


class Spacing(StrEnum):
    """How the positions of a stack step."""

    REGULAR = "regular"
    ROUNDED = "rounded"
    MISSING = "missing"  # some steps are whole multiples of the others
    IRREGULAR = "irregular"


@dataclass(frozen=True, slots=True)
class Regularity:
    """What the steps of a sorted stack say."""

    spacing: Spacing
    step_mm: float  # mean step; with gaps the median step
    residual_mm: float
    min_step_mm: float
    max_step_mm: float
    gaps: tuple[tuple[int, int, float], ...]  # (index of the slice before, slices missing, gap in mm)


def orientation(iop: Sequence[float] | None) -> Orientation | None:
    """Return the directions of ImageOrientationPatient; None when they are no pair of orthogonal unit vectors."""
    if iop is None or len(iop) != 6 or not np.isfinite(iop).all():
        return None
    row, column = np.asarray(iop[:3], np.float64), np.asarray(iop[3:], np.float64)
    lengths = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    off = max(abs(lengths[0] - 1.0), abs(lengths[1] - 1.0), abs(float(row @ column)))
    if off > UNIT_TOLERANCE:
        return None
    if off > ORTHONORMAL_TOLERANCE:
        row = row / lengths[0]
        column = column - (column @ row) * row
        column = column / np.linalg.norm(column)
    return Orientation(row, column, np.cross(row, column), off > ORTHONORMAL_TOLERANCE)


def same_orientation(one: Sequence[float], other: Sequence[float]) -> bool:
    """Tell whether two ImageOrientationPatient differ by no more than rounding."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= SAME_DIRECTION


def distances(positions_N3: Float64, directions: Orientation) -> Float64:
    """Return the positions along the normal, in mm."""
    return positions_N3 @ directions.normal


def regularity(distances_N: Float64) -> Regularity:
    """Judge the steps of a stack of at least two slices, sorted ascending and without ties.

    `regular` within 1 % of the step, `rounded` within 0.06 mm and 10 %; otherwise `missing` when four steps in five
    agree and the others are whole multiples, else `irregular`.
    """
    steps = np.diff(distances_N)
    mean_step = float((distances_N[-1] - distances_N[0]) / (len(distances_N) - 1))
    grid = distances_N[0] + mean_step * np.arange(len(distances_N))
    residual = float(np.abs(distances_N - grid).max())
    extremes = (residual, float(steps.min()), float(steps.max()))
    if residual <= STRICT_SHARE * mean_step:
        return Regularity(Spacing.REGULAR, mean_step, *extremes, ())
    if residual <= min(LOOSE_MM, LOOSE_SHARE * mean_step):
        return Regularity(Spacing.ROUNDED, mean_step, *extremes, ())
    reference = float(np.median(steps))
    multiples = np.rint(steps / reference)
    fits = np.abs(steps - multiples * reference) <= max(LOOSE_MM, STRICT_SHARE * reference)
    regular = fits & (multiples == 1)
    if regular.mean() >= REGULAR_STEPS and (fits & (multiples >= 1)).all():
        gaps = [(int(at), int(multiples[at]) - 1, float(steps[at])) for at in np.flatnonzero(~regular)]
        return Regularity(Spacing.MISSING, reference, *extremes, tuple(gaps))
    return Regularity(Spacing.IRREGULAR, mean_step, *extremes, ())


def tilt_degrees(positions_N3: Float64, directions: Orientation) -> float:
    """Return the angle between the stack and the normal of its slices; 0 within the tolerance of the sine."""
    along = positions_N3[-1] - positions_N3[0]
    sine = float(np.linalg.norm(np.cross(along, directions.normal)) / np.linalg.norm(along))
    return float(np.degrees(np.arcsin(min(sine, 1.0)))) if sine > TILT_SINE else 0.0


def drift_mm(positions_N3: Float64, directions: Orientation) -> float:
    """Return the largest lateral distance of a position from the straight line from first to last."""
    along = distances(positions_N3, directions)
    share_N1 = ((along - along[0]) / (along[-1] - along[0]))[:, None]
    off = positions_N3 - (positions_N3[0] + share_N1 * (positions_N3[-1] - positions_N3[0]))
    lateral = off - (off @ directions.normal)[:, None] * directions.normal
    return float(np.linalg.norm(lateral, axis=1).max())


def stack_geometry(
    positions_N3: Float64,
    directions: Orientation,
    pixel_spacing_mm: Sequence[float],
    shape_yx: tuple[int, int],
    found: Regularity,
) -> Geometry:
    """Return the geometry of a sorted stack; missing slices count as slices.

    Parameters
    ----------
    positions_N3
        ImagePositionPatient of each slice, ascending along the normal, LPS mm.
    directions
        Directions of the first slice.
    pixel_spacing_mm
        As written: step between rows, then step between columns.
    shape_yx
        Rows, columns.
    found
        What `regularity` said.
    """
    num_slices = len(positions_N3) + sum(missing for _, missing, _ in found.gaps)
    row_step, column_step = (float(step) for step in pixel_spacing_mm)
    stack = (positions_N3[-1] - positions_N3[0]) / (num_slices - 1)
    affine_lps = np.eye(4)
    affine_lps[:3, 0] = directions.row * column_step
    affine_lps[:3, 1] = directions.column * row_step
    affine_lps[:3, 2] = stack
    affine_lps[:3, 3] = positions_N3[0]
    step = float(np.linalg.norm(stack))
    return Geometry(
        affine_ras=lps_to_ras(affine_lps),
        spacing_mm=(column_step, row_step, step),
        shape_zyx=(num_slices, *shape_yx),
        extent_mm=num_slices * step,
        tilt_degrees=tilt_degrees(positions_N3, directions),
        residual_mm=found.residual_mm,
        gaps_mm=tuple((at, gap) for at, _, gap in found.gaps),
    )


def lps_to_ras(affine_lps: Float64) -> Float64:
    """Turn an affine into patient LPS, DICOM's frame, into one into RAS: the one place where this is done."""
    return _LPS_TO_RAS @ affine_lps
