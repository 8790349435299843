"""A thorax of analytic shapes whose picture shows the eight latents, and the noise of a scanner over it.

Anatomy (size, tilt, rotation, breathing) comes from a stream of its own, independent of every latent. The left side is
marked by heart, aortic arch and stomach, the right side by the liver: a flip or a swap cannot go unseen.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from presage_etl.synthetic.painting import (
    LUNG,
    TISSUE,
    Numbers,
    Volume,
    nearest_squared,
    paint_columns,
    paint_ellipsoids,
    paint_segments,
)

AIR, FAT, MUSCLE, LIVER, BONE, CALCIUM, EMPHYSEMA, MEDIASTINUM = (
    -1000.0,
    -105.0,
    55.0,
    60.0,
    450.0,
    900.0,
    -980.0,
    -95.0,
)
LUNG_BASE, EMPHYSEMA_SHIFT = -830.0, -95.0  # the whole lung darkens with emphysema: visible on coarse grids too
LUNG_HALF_WIDTH, LUNG_CENTRE = 62.0, 72.0
MIN_HU, MAX_HU = -1024, 3071
MAX_EMPHYSEMA, MAX_LOG_CALCIUM = 45.0, 8.0


@dataclass(frozen=True)
class Grid:
    """Where the voxels are: centre of the first voxel, spacing, size; LPS millimetres, axes x, y, z."""

    origin: tuple[float, float, float]
    spacing: tuple[float, float, float]
    size: tuple[int, int, int]

    def numbers(self) -> Numbers:
        """Origin and spacing as one array, as the kernels want it."""
        return np.array([*self.origin, *self.spacing])


@dataclass(frozen=True)
class Anatomy:
    """How one body differs from another, whatever its latents."""

    width: float  # scale of the thorax, left to right
    depth: float
    tilt: float  # of the heart, radians
    rotation: float  # of the body on the table, radians
    offset: tuple[float, float]
    breath: float  # height of the diaphragm, mm
    lung_hu: float
    fat: float  # thickness, mm
    male: bool
    arms_down: bool
    blood: float  # HU
    effusion_left: float  # share of the effusion on the left
    noise: float  # sd, HU


@dataclass(frozen=True)
class Phantom:
    """A picture without noise, and what was put into it."""

    volume: Volume
    lung: NDArray[np.bool_]  # all lung, with whatever lies in its place
    num_effusion: int
    num_consolidation: int
    num_emphysema: int


def draw_anatomy(rng: np.random.Generator, *, male: bool, blood: float, noise: float) -> Anatomy:
    """Draw the variation of one body; sex is known, everything else is independent of the person."""
    return Anatomy(
        width=float(np.clip(rng.normal(1.0, 0.03), 0.92, 1.08)),
        depth=float(np.clip(rng.normal(1.0, 0.04), 0.9, 1.1)),
        tilt=float(rng.uniform(0.2, 0.6)),
        rotation=float(rng.uniform(-0.087, 0.087)),
        offset=(float(rng.uniform(-10, 10)), float(rng.uniform(-10, 10))),
        breath=float(rng.normal(0, 7)),
        lung_hu=float(np.clip(rng.normal(LUNG_BASE, 7), LUNG_BASE - 25, LUNG_BASE + 25)),
        fat=float(rng.uniform(8, 20)),
        male=male,
        arms_down=bool(rng.random() < 0.1),
        blood=blood,
        effusion_left=float(rng.uniform(0.3, 0.7)),
        noise=noise,
    )


def paint_phantom(biomarkers: Numbers, anatomy: Anatomy, grid: Grid, rng: np.random.Generator) -> Phantom:
    """Paint one thorax.

    Parameters
    ----------
    biomarkers
        The eight latents in natural units (`latents.natural`), shape (8,).
    anatomy, grid
        The body and the voxels.
    rng
        Places of nodules, vessels, emphysema and consolidation.
    """
    ctr, effusion_ml, emphysema, calcium, artery_mm, num_nodules, consolidation_ml, muscle = biomarkers
    numbers = grid.numbers()
    volume = np.full(grid.size[::-1], AIR, dtype=np.float32)
    lung = np.zeros_like(volume)
    body = Body(anatomy)
    _paint_wall(volume, numbers, body, float(muscle))
    paint_segments(volume, lung, numbers, body.segments(_skeleton(anatomy)))
    paint_ellipsoids(volume, lung, numbers, body.ellipsoids(_soft_outside(anatomy, body)))
    dark = anatomy.lung_hu + EMPHYSEMA_SHIFT * float(np.log1p(emphysema) / np.log1p(MAX_EMPHYSEMA))
    lungs = _lungs(anatomy, dark)
    paint_ellipsoids(volume, lung, numbers, body.ellipsoids(lungs))
    paint_segments(volume, lung, numbers, body.segments(_vessels(anatomy, rng)))
    heart = _heart(anatomy, float(ctr))
    domes = _domes(anatomy)
    paint_ellipsoids(volume, lung, numbers, body.ellipsoids(domes + heart))
    paint_segments(volume, lung, numbers, body.segments(_great_vessels(anatomy, float(artery_mm))))
    air_filled = lung > 0.5  # before anything that a disease puts into it
    if calcium > 0:
        paint_segments(volume, lung, numbers, body.segments(_calcium(heart[0], float(calcium))))
    nodules = _nodules(lungs, domes + heart, int(num_nodules), grid, rng)
    if nodules:
        paint_ellipsoids(volume, lung, numbers, body.ellipsoids(nodules))
    counts = _fill_lung(volume, lung, grid, anatomy, (effusion_ml, consolidation_ml, emphysema), rng)
    return Phantom(volume, air_filled, *counts)


def scan(phantom: Phantom, anatomy: Anatomy, rng: np.random.Generator) -> NDArray[np.int16]:
    """Return the picture as the scanner gives it: int16 HU with noise."""
    noise = rng.standard_normal(phantom.volume.shape, dtype=np.float32) * np.float32(anatomy.noise)
    return np.clip(np.rint(phantom.volume + noise), MIN_HU, MAX_HU).astype(np.int16)


class Body:
    """Moves shapes from the body's own axes to the scanner's: rotation about z, then an offset on the table."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._angle = anatomy.rotation
        self._cosine, self._sine = np.cos(anatomy.rotation), np.sin(anatomy.rotation)
        self.centre = np.array([*anatomy.offset, 0.0])
        self.angle = anatomy.rotation
        self.half = np.array([(LUNG_CENTRE + LUNG_HALF_WIDTH) * anatomy.width + 4.0, 88.0 * anatomy.depth])

    def ellipsoids(self, shapes: list[tuple[float, ...]]) -> Numbers:
        """Place ellipsoids."""
        rows = np.array(shapes, dtype=np.float64).reshape(-1, 9)
        rows[:, 0], rows[:, 1] = self._place(rows[:, 0], rows[:, 1])
        rows[:, 6] += self._angle
        return rows

    def segments(self, shapes: list[tuple[float, ...]]) -> Numbers:
        """Place segments."""
        rows = np.array(shapes, dtype=np.float64).reshape(-1, 10)
        for first in (0, 3):
            rows[:, first], rows[:, first + 1] = self._place(rows[:, first], rows[:, first + 1])
        return rows

    def _place(self, x: Numbers, y: Numbers) -> tuple[Numbers, Numbers]:
        return (
            self._cosine * x - self._sine * y + self.centre[0],
            self._sine * x + self._cosine * y + self.centre[1],
        )


def _paint_wall(volume: Volume, grid: Numbers, body: Body, muscle: float) -> None:
    """Skin and fat, then muscle, whose thickness and density are z8, then the fat of the mediastinum."""
    thickness = 22.0 * muscle
    outer = body.half + thickness
    fat = 14.0
    paint_columns(volume, grid, body.centre, outer + fat, body.angle, FAT, 105.0)
    paint_columns(volume, grid, body.centre, outer, body.angle, 15.0 + 40.0 * muscle, 105.0)
    paint_columns(volume, grid, body.centre, body.half - 6.0, body.angle, MEDIASTINUM, 105.0)


def _skeleton(anatomy: Anatomy) -> list[tuple[float, ...]]:
    """Spine, sternum, ten pairs of ribs as arcs; arms where they are down."""
    wide, deep = (LUNG_CENTRE + LUNG_HALF_WIDTH) * anatomy.width, 86.0 * anatomy.depth
    shapes: list[tuple[float, ...]] = [
        (0.0, deep - 8.0, -200.0, 0.0, deep - 8.0, 200.0, 17.0, 17.0, 230.0, TISSUE),
        (0.0, -deep - 2.0, -35.0, 0.0, -deep + 4.0, 75.0, 7.0, 9.0, 260.0, TISSUE),
    ]
    angles = np.linspace(np.pi / 2, -np.pi / 2 + 0.35, 8)  # from the spine round to the front
    for side in (-1.0, 1.0):
        for rib in range(10):
            top = 110.0 - 24.0 * rib
            points = [(side * wide * np.cos(a), deep * np.sin(a), top - 22.0 * (1 - np.sin(a)) / 2) for a in angles]
            shapes += [(*first, *last, 4.5, 4.5, BONE, TISSUE) for first, last in pairwise(points)]
    if anatomy.arms_down:
        shapes += [
            (side * 182.0, 20.0, -200.0, side * 178.0, 15.0, 120.0, 22.0, 26.0, MUSCLE, TISSUE) for side in (-1.0, 1.0)
        ]
    return shapes


def _soft_outside(anatomy: Anatomy, body: Body) -> list[tuple[float, ...]]:
    """Shoulder blades, the table, breasts."""
    deep = float(body.half[1])
    shapes: list[tuple[float, ...]] = [
        (side * 100.0, deep + 4.0, 65.0, 34.0, 6.0, 42.0, side * -0.35, 350.0, TISSUE) for side in (-1.0, 1.0)
    ]
    shapes.append((0.0, 168.0, 0.0, 185.0, 8.0, 400.0, 0.0, -250.0, TISSUE))
    if not anatomy.male:
        shapes += [(side * 68.0, -deep - 30.0, -5.0, 46.0, 26.0, 48.0, 0.0, -70.0, TISSUE) for side in (-1.0, 1.0)]
    return shapes


def _lungs(anatomy: Anatomy, hu: float) -> list[tuple[float, ...]]:
    half, centre = LUNG_HALF_WIDTH * anatomy.width, LUNG_CENTRE * anatomy.width
    return [(side * centre, 4.0, 5.0, half, 80.0 * anatomy.depth, 125.0, 0.0, hu, LUNG) for side in (-1.0, 1.0)]


def _heart(anatomy: Anatomy, ctr: float) -> list[tuple[float, ...]]:
    """The heart's shadow is `ctr` times as wide as the inner thorax, whatever the tilt of its axis."""
    width = ctr * 2 * (LUNG_CENTRE + LUNG_HALF_WIDTH) * anatomy.width
    ratio = 0.75
    half = width / 2 / np.sqrt(np.cos(anatomy.tilt) ** 2 + (ratio * np.sin(anatomy.tilt)) ** 2)
    return [(0.13 * width, -20.0, -42.0, half, ratio * half, 55.0, anatomy.tilt, anatomy.blood, TISSUE)]


def _domes(anatomy: Anatomy) -> list[tuple[float, ...]]:
    """Liver under the right dome, spleen and the stomach's air under the left one."""
    wide = anatomy.width
    return [
        (-70.0 * wide, 0.0, -128.0 + anatomy.breath, 78.0 * wide, 86.0, 62.0, 0.0, LIVER, TISSUE),
        (74.0 * wide, 8.0, -138.0 + anatomy.breath, 72.0 * wide, 82.0, 58.0, 0.0, 45.0, TISSUE),
        (62.0 * wide, -30.0, -112.0 + anatomy.breath, 24.0, 22.0, 16.0, 0.0, AIR, TISSUE),
    ]


def _great_vessels(anatomy: Anatomy, artery_mm: float) -> list[tuple[float, ...]]:
    """Aorta with its arch to the left, pulmonary trunk and its branches (z5), superior vena cava, airways."""
    radius, hu = artery_mm / 2, anatomy.blood
    return [
        (-12.0, -18.0, -5.0, -12.0, -14.0, 58.0, 15.0, 15.0, hu, TISSUE),
        (-12.0, -14.0, 58.0, 8.0, 8.0, 74.0, 14.5, 14.0, hu, TISSUE),
        (8.0, 8.0, 74.0, 30.0, 36.0, 62.0, 14.0, 13.0, hu, TISSUE),
        (30.0, 38.0, 62.0, 24.0, 44.0, -170.0, 12.5, 11.0, hu, TISSUE),
        (-32.0, -10.0, 20.0, -30.0, -8.0, 120.0, 8.0, 8.0, hu, TISSUE),
        (16.0, -34.0, -6.0, 14.0, -18.0, 34.0, radius, radius, hu, TISSUE),
        (14.0, -14.0, 32.0, -62.0, 2.0, 22.0, 0.85 * radius, 0.6 * radius, hu, TISSUE),
        (14.0, -14.0, 34.0, 66.0, 12.0, 28.0, 0.85 * radius, 0.6 * radius, hu, TISSUE),
        (0.0, 18.0, 160.0, 0.0, 20.0, 55.0, 8.5, 8.5, AIR, TISSUE),
        (0.0, 20.0, 55.0, -38.0, 16.0, 34.0, 6.5, 5.5, AIR, TISSUE),
        (0.0, 20.0, 55.0, 38.0, 18.0, 36.0, 6.0, 5.0, AIR, TISSUE),
    ]


def _calcium(heart: tuple[float, ...], agatston: float) -> list[tuple[float, ...]]:
    """Calcified walls: the longer the higher the score, along the aorta from the arch down and along the heart."""
    share = min(np.log1p(agatston) / MAX_LOG_CALCIUM, 1.0) ** 1.5
    shapes: list[tuple[float, ...]] = []
    length = 190.0 * share
    shapes.append((41.0, 40.0, 58.0, 36.0, 46.0, 58.0 - length, 4.2, 4.2, CALCIUM, TISSUE))
    if share > 0.3:
        shapes.append((-12.0, -27.0, 55.0, -12.0, -31.0, 55.0 - 60.0 * share, 3.6, 3.6, CALCIUM, TISSUE))
    cx, cy, cz, half, deep = heart[:5]
    arc = np.linspace(-2.3, -2.3 + 2.2 * share, 6)  # over the front of the heart
    points = [
        (cx + 0.93 * half * np.cos(a), cy + 0.93 * deep * np.sin(a), cz + 22.0 - 18.0 * n) for n, a in enumerate(arc)
    ]
    shapes += [(*first, *last, 3.4, 3.4, CALCIUM, TISSUE) for first, last in pairwise(points)]
    return shapes


def _vessels(anatomy: Anatomy, rng: np.random.Generator) -> list[tuple[float, ...]]:
    """Forty tapered vessels from the hila outwards."""
    shapes: list[tuple[float, ...]] = []
    for side in (-1.0, 1.0):
        for _ in range(20):
            height, azimuth, reach = rng.uniform(-1.0, 1.0), rng.uniform(-1.2, 1.2), rng.uniform(40, 85)
            start = (side * 45.0 * anatomy.width, 8.0, 25.0)
            end = (
                start[0] + side * reach * np.cos(azimuth) * 0.8,
                start[1] + reach * np.sin(azimuth) * 0.8,
                start[2] + reach * height,
            )
            shapes.append((*start, *end, 2.6, 1.0, 40.0, LUNG))
    return shapes


def _nodules(
    lungs: list[tuple[float, ...]], others: list[tuple[float, ...]], number: int, grid: Grid, rng: np.random.Generator
) -> list[tuple[float, ...]]:
    """Spheres in the lung, clear of heart and diaphragm, on coarse grids at least three voxels across."""
    smallest = max(6.0, min(3.0 * grid.spacing[0], 19.0))
    found: list[tuple[float, ...]] = []
    while len(found) < number:
        lung = lungs[int(rng.integers(2))]
        direction = rng.standard_normal(3)
        spot = np.array(lung[:3]) + np.array(lung[3:6]) * direction / np.linalg.norm(direction) * rng.uniform(0, 0.78)
        diameter, hu = smallest + rng.uniform(0, 5.0), rng.uniform(20, 60)
        if all(_outside(spot, shape, 1.25) for shape in others) and all(
            np.linalg.norm(spot - np.array(other[:3])) > 27.0 for other in found
        ):
            found.append((*spot, diameter / 2, diameter / 2, max(diameter / 2, 0.6 * grid.spacing[2]), 0.0, hu, TISSUE))
    return found


def _outside(spot: Numbers, shape: tuple[float, ...], margin: float) -> bool:
    return bool(np.sum(((spot - np.array(shape[:3])) / np.array(shape[3:6])) ** 2) > margin)


def _fill_lung(
    volume: Volume,
    lung: Volume,
    grid: Grid,
    anatomy: Anatomy,
    burden: tuple[float, float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int]:
    """Fill whole voxels of lung with fluid, consolidation and emphysema, so that measured volumes are the true ones."""
    effusion_ml, consolidation_ml, emphysema = burden
    voxel_ml = grid.spacing[0] * grid.spacing[1] * grid.spacing[2] / 1000.0
    k, j, i = np.nonzero(lung > 0.5)
    x, y, z = (grid.origin[a] + index * grid.spacing[a] for a, index in enumerate((i, j, k)))
    total = len(k)
    free = np.ones(total, dtype=np.bool_)
    flat_volume = volume[k, j, i]
    # Fluid lies at the back and below; each side has its share.
    depth = y - 0.3 * z
    wanted = round(effusion_ml / voxel_ml)
    left = min(round(wanted * anatomy.effusion_left), int(0.7 * np.count_nonzero(x > anatomy.offset[0])))
    fluid = np.concatenate(
        [
            _deepest(np.flatnonzero(x > anatomy.offset[0]), depth, left),
            _deepest(np.flatnonzero(x <= anatomy.offset[0]), depth, wanted - left),
        ]
    )
    flat_volume[fluid] = rng.uniform(10, 20)
    free[fluid] = False
    # One segment is filled around a spot, with some air left in its bronchi.
    spot = int(rng.integers(total))
    distance = (x - x[spot]) ** 2 + (y - y[spot]) ** 2 + 0.6 * (z - z[spot]) ** 2
    solid = _deepest(np.flatnonzero(free), -distance, round(consolidation_ml / voxel_ml))
    flat_volume[solid] = rng.uniform(-40, 40, len(solid))
    flat_volume[solid[::40]] = -600.0
    free[solid] = False
    # Blobs around centres, more of them in the upper lobes.
    centres = rng.choice(total, size=24, p=_weights(z))
    nearest = nearest_squared(x, y, z, centres)
    dark = _deepest(np.flatnonzero(free), -nearest, round(emphysema / 100.0 * np.count_nonzero(free)))
    flat_volume[dark] = EMPHYSEMA
    volume[k, j, i] = flat_volume
    return len(fluid), len(solid), len(dark)


def _deepest(candidates: NDArray[np.int64], key: Numbers, number: int) -> NDArray[np.int64]:
    """The `number` candidates with the largest key; ties fall to the lowest index."""
    if number <= 0:
        return candidates[:0]
    order = np.argsort(-key[candidates], kind="stable")
    return candidates[order[:number]]


def _weights(z: NDArray[np.floating[Any]]) -> Numbers:
    weight = np.clip(z - z.min() + 20.0, 1.0, None)
    return np.asarray(weight / weight.sum())
