"""Slice positions to an affine: pure functions on float64, LPS in, RAS out.

Index (i, j, k): i along a row (column number), j down a column (row number), k the sorted slice; a voxel's
coordinate is its centre. Nothing here reads SliceThickness, SpacingBetweenSlices or PatientPosition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

LPS_TO_RAS: Float64 = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Where a regular stack lies."""

    affine_ras: Float64  # (4, 4), index (i, j, k) → RAS mm
    spacing_mm: tuple[float, float, float]  # along i (column step), j (row step), k
    shape_zyx: tuple[int, int, int]
    extent_mm: float  # along k, first to last centre plus one step
    tilt_degrees: float  # angle of the stack vector to the normal
    residual_mm: float  # largest distance of a position from the regular grid along the normal
    gaps_mm: tuple[tuple[int, float], ...] = ()  # (index of the slice before, size) of each step that is not regular
