"""What a disease puts into the chest: calcified walls and nodules as shapes, what fills the lung as voxels.

Fluid, consolidation and emphysema fill whole voxels of lung, so that their measured volumes are the true ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from presage_etl.synthetic.pictures.anatomy import Anatomy, Numbers, Shape
from presage_etl.synthetic.pictures.grid import Grid
from presage_etl.synthetic.pictures.painting import TISSUE, Volume

CALCIUM, EMPHYSEMA = 900.0, -980.0
FLUID_HU, SOLID_HU = (10.0, 20.0), (-50.0, 40.0)
EMPHYSEMA_SHIFT = -95.0  # the whole lung darkens with emphysema: visible on coarse grids too
MAX_EMPHYSEMA, MAX_LOG_CALCIUM = 45.0, 8.0
NUM_BLOBS, NUM_TRIED = 24, 96
MAX_NODULE_MM, NODULE_RANGE_MM = 25.0, 4.0
BRONCHUS_MM, BRONCHUS_HU = 2.0, -950.0
BRONCHI = ((0.8, 0.1, 0.6), (0.5, -0.7, -0.5), (0.3, 0.9, -0.2))


@dataclass(frozen=True)
class Burden:
    """What is to fill the lungs."""

    effusion_ml: float
    consolidation_ml: float
    emphysema_percent: float


@dataclass(frozen=True)
class Filled:
    """Voxels that were filled."""

    effusion: int
    consolidation: int
    emphysema: int


def lung_shift(emphysema_percent: float) -> float:
    """HU by which emphysema darkens the whole lung."""
    return EMPHYSEMA_SHIFT * float(np.log1p(emphysema_percent) / np.log1p(MAX_EMPHYSEMA))


def calcium(heart: Shape, agatston: float) -> list[Shape]:
    """Calcified walls: the longer the higher the score, along the aorta from the arch down and along the heart."""
    share = min(np.log1p(agatston) / MAX_LOG_CALCIUM, 1.0) ** 1.5
    length = 190.0 * share
    shapes: list[Shape] = [(41.0, 40.0, 58.0, 36.0, 46.0, 58.0 - length, 4.2, 4.2, CALCIUM, TISSUE)]
    if share > 0.3:
        shapes.append((-12.0, -27.0, 55.0, -12.0, -31.0, 55.0 - 60.0 * share, 3.6, 3.6, CALCIUM, TISSUE))
    x, y, z, half, deep = heart[:5]
    arc = np.linspace(-2.3, -2.3 + 2.2 * share, 6)  # over the front of the heart
    points = [
        (x + 0.93 * half * np.cos(a), y + 0.93 * deep * np.sin(a), z + 22.0 - 18.0 * place)
        for place, a in enumerate(arc)
    ]
    return shapes + [(*first, *last, 3.4, 3.4, CALCIUM, TISSUE) for first, last in pairwise(points)]


def nodules(lungs: list[Shape], others: list[Shape], number: int, grid: Grid, rng: np.random.Generator) -> list[Shape]:
    """Spheres in the lung, clear of heart and diaphragm, on coarse grids at least three and a half voxels across."""
    across, step = grid.spacing[0], grid.spacing[2]
    smallest = max(6.0, min(3.5 * across, MAX_NODULE_MM - NODULE_RANGE_MM))
    found: list[Shape] = []
    while len(found) < number:
        spot = _spot(lungs, rng, float(rng.uniform(0, 0.78)))
        diameter, hu = smallest + rng.uniform(0, NODULE_RANGE_MM), rng.uniform(20, 60)
        if all(_outside(spot, shape, 1.25) for shape in others) and all(
            np.linalg.norm(spot - np.array(other[:3])) > 27.0 for other in found
        ):
            tall = max(diameter / 2, 0.6 * step)
            found.append((*spot, diameter / 2, diameter / 2, tall, 0.0, 0.0, hu, TISSUE))
    return found


def draw_centres(lungs: list[Shape], others: list[Shape], rng: np.random.Generator) -> Numbers:
    """The middle of a consolidation, then of the blobs of emphysema, more of them high up; shape (1 + NUM_BLOBS, 3).

    In the body's own millimetres: a picture shows the same disease on every grid.
    """
    bulk = np.array(lungs)[:, :6]
    found = np.empty((0, 3))
    while len(found) <= NUM_BLOBS:
        lung = bulk[rng.integers(len(bulk), size=NUM_TRIED)]
        direction = rng.standard_normal((NUM_TRIED, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        place = 0.95 * rng.random((NUM_TRIED, 1)) ** (1 / 3) * direction  # in half axes of the lung
        spots = lung[:, :3] + lung[:, 3:] * place
        kept = rng.random(NUM_TRIED) < (1.1 + place[:, 2]) / 2.1
        for shape in others:
            kept &= (((spots - shape[:3]) / shape[3:6]) ** 2).sum(axis=1) > 1.0
        found = np.concatenate([found, spots[kept]])
    return found[: 1 + NUM_BLOBS]


def _spot(lungs: list[Shape], rng: np.random.Generator, radius: float) -> Numbers:
    """A place in one of the lungs, `radius` of the way from its middle to its rim."""
    lung = lungs[int(rng.integers(2))]
    direction = rng.standard_normal(3)
    return np.asarray(np.array(lung[:3]) + np.array(lung[3:6]) * direction / np.linalg.norm(direction) * radius)


def _outside(spot: Numbers, shape: Shape, margin: float) -> bool:
    return bool(np.sum(((spot - np.array(shape[:3])) / np.array(shape[3:6])) ** 2) > margin)


def fill_lung(
    volume: Volume, lung: Volume, grid: Grid, anatomy: Anatomy, burden: Burden, centres: Numbers, fluid_hu: float
) -> Filled:
    """Fill whole voxels of lung, `volume` in place; centres as of `draw_centres`, in the patient's millimetres."""
    places = np.flatnonzero(lung > 0.5)
    x, y, z = _coordinates(places, grid.frame(), *grid.size[:2])
    values = volume.reshape(-1)
    free = np.ones(len(places), dtype=np.bool_)
    fluid = _fluid(x, y, z, anatomy, round(burden.effusion_ml / grid.voxel_ml))
    values[places[fluid]] = fluid_hu
    free[fluid] = False
    if burden.consolidation_ml > 0:
        distance = _squared(x, y, z, centres[:1], 0.6)
        solid = _largest(np.flatnonzero(free), -distance, round(burden.consolidation_ml / grid.voxel_ml))
        values[places[solid]] = _consolidated(x[solid], y[solid], z[solid], distance[solid], grid)
        free[solid] = False
    else:
        solid = fluid[:0]
    nearest = _squared(x, y, z, centres[1:], 1.0)
    dark = _largest(np.flatnonzero(free), -nearest, round(burden.emphysema_percent / 100 * np.count_nonzero(free)))
    values[places[dark]] = EMPHYSEMA
    return Filled(len(fluid), len(solid), len(dark))


def _fluid(x: Any, y: Any, z: Any, anatomy: Anatomy, wanted: int) -> NDArray[np.int64]:
    """Fluid lies at the back and below; each side has its share."""
    if wanted == 0:
        return np.empty(0, dtype=np.int64)
    depth = y - np.float32(0.3) * z
    is_left = x > np.float32(anatomy.offset[0])
    left = min(round(wanted * anatomy.effusion_left), int(0.7 * np.count_nonzero(is_left)))
    return np.concatenate(
        [
            _largest(np.flatnonzero(is_left), depth, left),
            _largest(np.flatnonzero(~is_left), depth, wanted - left),
        ]
    )


def _consolidated(x: Any, y: Any, z: Any, distance: Any, grid: Grid) -> Any:
    """HU of consolidated voxels: thinner towards the rim, and air in three bronchi through the middle.

    A bronchus thinner than a voxel is fainter, as everywhere.
    """
    hu = SOLID_HU[1] + (SOLID_HU[0] - SOLID_HU[1]) * distance / max(float(distance.max()), 1.0)
    middle = int(np.argmin(distance))
    offsets = np.stack([x - x[middle], y - y[middle], z - z[middle]])
    filled = min(1.0, (2 * BRONCHUS_MM / grid.edge_mm) ** 2)
    for heading in BRONCHI:
        direction = np.array(heading) / np.linalg.norm(heading)
        away = (offsets**2).sum(axis=0) - (direction @ offsets) ** 2
        inside = away < max(BRONCHUS_MM, 0.5 * grid.edge_mm) ** 2
        hu[inside] += filled * (BRONCHUS_HU - hu[inside])
    return hu


def _largest(candidates: NDArray[np.int64], key: Any, number: int) -> NDArray[np.int64]:
    """The `number` candidates with the largest key, ascending; ties fall to the lowest index."""
    if number <= 0:
        return candidates[:0]
    values = key[candidates]
    if number >= len(values):
        return candidates
    threshold = np.partition(values, len(values) - number)[len(values) - number]
    chosen = values > threshold
    ties = np.flatnonzero(values == threshold)[: number - int(np.count_nonzero(chosen))]
    chosen[ties] = True
    return np.asarray(candidates[chosen])


@njit(cache=True)
def _coordinates(places: Any, frame: Any, columns: int, rows: int) -> Any:
    """Patient coordinates of voxels by their place in memory."""
    found = np.empty((3, len(places)), dtype=np.float32)
    for place in range(len(places)):
        rest, i = divmod(places[place], columns)
        k, j = divmod(rest, rows)
        for axis in range(3):
            found[axis, place] = frame[axis, 3] + i * frame[axis, 0] + j * frame[axis, 1] + k * frame[axis, 2]
    return found


@njit(cache=True)
def _squared(x: Any, y: Any, z: Any, centres: Any, along_z: float) -> Any:
    """Squared distance of each point to the nearest centre; z counts `along_z`."""
    found = np.empty(len(x), dtype=np.float32)
    near, weight = centres.astype(np.float32), np.float32(along_z)
    for place in range(len(x)):
        best = np.float32(np.inf)
        for centre in range(len(near)):
            dx, dy, dz = x[place] - near[centre, 0], y[place] - near[centre, 1], z[place] - near[centre, 2]
            best = min(best, dx * dx + dy * dy + weight * dz * dz)
        found[place] = best
    return found
