"""Slices to one int16 Hounsfield volume, bit for bit what the scanner stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from presage_etl.dicom.candidate import SliceRef, Unused
from presage_etl.dicom.geometry import Float64, Geometry
from presage_platform.volumes.catalogue import Verdict


@dataclass(slots=True, eq=False)
class NativeVolume:
    """A candidate's pixels; `array` is None when they made its verdict a rejection."""

    array: NDArray[np.int16] | None  # [z, y, x] Hounsfield units
    affine_ras: Float64  # (4, 4), index (x, y, z) → RAS mm
    valid: NDArray[np.bool_] | None  # [z, y, x], None = all voxels are valid
    geometry: Geometry
    slices: list[SliceRef]  # the ones used, in order of z (invented slices have none)
    unused: list[Unused]
    pixel_hashes: list[str]  # sha256 of the stored pixel bytes, one for each of `slices`
    source_min: int  # over all voxels, Hounsfield units
    source_max: int
    hu_p01: float  # percentiles over valid voxels
    hu_p50: float
    hu_p99: float
    invented: tuple[int, ...]  # z of interpolated slices
    verdict: Verdict
    reasons: list[str]
    actions: list[str]
    decoder: str  # plug-in name and version, for the run ledger
