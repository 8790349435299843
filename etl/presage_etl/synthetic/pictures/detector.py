"""What a scanner adds to a picture: blur, noise that went through the same kernel, cupping, rings, and whole numbers.

None of it touches the truth of a phantom, which is measured on the picture without noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from presage_etl.synthetic.pictures.anatomy import Anatomy
from presage_etl.synthetic.pictures.grid import Grid
from presage_etl.synthetic.pictures.painting import Volume

MIN_HU, MAX_HU = -1024, 3071
CUP_HALF_MM = (170.0, 130.0)  # the cup is as wide as a chest
REACH_SD = 3.0
BLOCK = 16  # slices


@dataclass(frozen=True)
class Detector:
    """How a kernel and a scanner show a picture."""

    noise_hu: float  # sd in uniform tissue
    blur_mm: float  # sd of the point spread in the plane
    cup_hu: float  # how much too dark the middle of the body is
    ring_share: float  # sd of the channels' gain error, as share of the attenuation
    ring_seed: int


def expose(
    volume: Volume, detector: Detector, anatomy: Anatomy, grid: Grid, rng: np.random.Generator
) -> NDArray[np.int16]:
    """Return a picture as the scanner gives it: int16 HU, shape as `volume`.

    White noise is added before the blur, so that it is correlated as the kernel's noise is; its sd after the blur is
    the detector's.
    """
    across, down = (_taps(detector.blur_mm / grid.spacing[axis]) for axis in range(2))
    passed = float(np.sqrt((across**2).sum() * (down**2).sum()))  # share of the white noise that the blur lets through
    sd, gain = np.float32(detector.noise_hu / passed), _gain(detector, anatomy, grid)
    out = np.empty(volume.shape, dtype=np.int16)
    for first in range(0, len(volume), BLOCK):  # a native volume's noise would double its memory
        block = slice(first, first + BLOCK)
        noise = rng.standard_normal(volume[block].shape, dtype=np.float32)
        _detect(volume[block], noise, sd, across, down, gain, out[block])
    return out


def field_of_view(grid: Grid) -> NDArray[np.bool_]:
    """Pixels within the circle that is reconstructed, shape (rows, columns)."""
    columns, rows, _ = grid.size
    x = (np.arange(columns) - (columns - 1) / 2) * grid.spacing[0]
    y = (np.arange(rows) - (rows - 1) / 2) * grid.spacing[1]
    return np.asarray(x[None, :] ** 2 + y[:, None] ** 2 <= field_radius_mm(grid) ** 2)


def field_radius_mm(grid: Grid) -> float:
    """Radius of the circle that is reconstructed."""
    return min(grid.size[0] * grid.spacing[0], grid.size[1] * grid.spacing[1]) / 2


def _taps(sd: float) -> NDArray[np.float32]:
    """A Gaussian of `sd` pixels, its sum 1."""
    reach = max(int(np.ceil(REACH_SD * sd)), 1)
    weight = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sd) ** 2)
    return np.asarray(weight / weight.sum(), dtype=np.float32)


def _gain(detector: Detector, anatomy: Anatomy, grid: Grid) -> NDArray[np.float32]:
    """Relative error of the attenuation, the same in every slice: a cup within the body, rings about the axis."""
    columns, rows, slices = grid.size
    frame = grid.frame()
    i, j = np.arange(columns)[None, :], np.arange(rows)[:, None]
    x, y = (frame[axis, 3] + i * frame[axis, 0] + j * frame[axis, 1] + slices / 2 * frame[axis, 2] for axis in range(2))
    away = ((x - anatomy.offset[0]) / CUP_HALF_MM[0]) ** 2 + ((y - anatomy.offset[1]) / CUP_HALF_MM[1]) ** 2
    cup = -detector.cup_hu / 1000.0 * np.clip(1.0 - away, 0.0, None)
    channel = (np.hypot(x, y) / grid.spacing[0]).astype(np.int64)
    errors = np.random.Generator(np.random.Philox(detector.ring_seed)).standard_normal(int(channel.max()) + 1)
    return np.asarray(cup + detector.ring_share * errors[channel], dtype=np.float32)


@njit(cache=True)
def _detect(volume: Any, noise: Any, sd: Any, across: Any, down: Any, gain: Any, out: Any) -> None:
    """Blur picture and noise slice by slice, then apply the gain, round half to even and clip."""
    slices, rows, columns = volume.shape
    reach = len(down) // 2
    half = np.empty((rows, columns), dtype=np.float32)
    whole = np.empty(columns, dtype=np.float32)
    for k in range(slices):
        _blur_rows(volume[k], noise[k], sd, across, half)
        for j in range(rows):
            whole[:] = 0.0
            for tap in range(len(down)):
                weight = down[tap]
                source = min(max(j + tap - reach, 0), rows - 1)
                for i in range(columns):
                    whole[i] += weight * half[source, i]
            for i in range(columns):
                value = whole[i] + (whole[i] + np.float32(1000.0)) * gain[j, i]
                out[k, j, i] = np.int16(min(max(np.rint(value), np.float32(MIN_HU)), np.float32(MAX_HU)))


@njit(cache=True)
def _blur_rows(picture: Any, noise: Any, sd: Any, taps: Any, out: Any) -> None:
    """Blur one slice with its noise along its rows; beyond an edge its last pixel goes on."""
    rows, columns = picture.shape
    reach = len(taps) // 2
    line = np.empty(columns + 2 * reach, dtype=np.float32)
    for j in range(rows):
        for i in range(columns):
            line[reach + i] = picture[j, i] + sd * noise[j, i]
        line[:reach] = line[reach]
        line[reach + columns :] = line[reach + columns - 1]
        out[j, :] = 0.0
        for tap in range(len(taps)):
            weight = taps[tap]
            for i in range(columns):
                out[j, i] += weight * line[i + tap]
