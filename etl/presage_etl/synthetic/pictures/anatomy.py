"""How one body differs from another whatever its latents, and where its parts lie on the table.

The stream of these draws is independent of every latent. Contrast comes with the acquisition and decides the HU of
blood, liver and spleen alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Shape = tuple[float, ...]
"""A row of `paint_ellipsoids` or `paint_segments`."""

LUNG_BASE = -830.0
LUNG_HALF_WIDTH, LUNG_CENTRE = 62.0, 72.0
INNER_HALF_DEPTH = 88.0
MAX_ROTATION = 0.087  # five degrees
MAX_OFFSET = 10.0  # along x and along y: 14.1 mm together
NUM_RIBS = (11, 12, 13)
RIB_SHARES = (0.05, 0.9, 0.05)


@dataclass(frozen=True)
class Contrast:
    """What flows in the vessels: HU of both circulations, and of what takes contrast up."""

    phase: str
    venous: float  # right heart, pulmonary trunk, caval veins
    arterial: float  # left heart, aorta
    muscle: float = 48.0  # of the heart
    liver: float = 60.0
    spleen: float = 45.0


PLAIN = Contrast("none", 40.0, 40.0)


@dataclass(frozen=True)
class Anatomy:
    """The variation of one body."""

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
    effusion_left: float  # share of the effusion on the left
    lung_height: float  # scale of the lungs along z
    num_ribs: int
    vessel_seed: int
    contrast: Contrast

    @property
    def inner_half_width(self) -> float:
        """Half the width of the inner thorax, in which the heart's share is z1."""
        return (LUNG_CENTRE + LUNG_HALF_WIDTH) * self.width

    @property
    def inner_half_depth(self) -> float:
        """From the middle to the breastbone's inner side."""
        return INNER_HALF_DEPTH * self.depth


def draw_anatomy(rng: np.random.Generator, *, male: bool, contrast: Contrast = PLAIN) -> Anatomy:
    """Draw the variation of one body; sex is known, everything else is independent of the person."""
    return Anatomy(
        width=float(np.clip(rng.normal(1.0, 0.03), 0.92, 1.08)),
        depth=float(np.clip(rng.normal(1.0, 0.04), 0.9, 1.1)),
        tilt=float(rng.uniform(0.2, 0.6)),
        rotation=float(rng.uniform(-MAX_ROTATION, MAX_ROTATION)),
        offset=(float(rng.uniform(-MAX_OFFSET, MAX_OFFSET)), float(rng.uniform(-MAX_OFFSET, MAX_OFFSET))),
        breath=float(rng.normal(0, 7)),
        lung_hu=float(np.clip(rng.normal(LUNG_BASE, 7), LUNG_BASE - 25, LUNG_BASE + 25)),
        fat=float(rng.uniform(8, 20)),
        male=male,
        arms_down=bool(rng.random() < 0.1),
        effusion_left=float(rng.uniform(0.3, 0.7)),
        lung_height=float(np.clip(rng.normal(1.0, 0.04), 0.9, 1.08)),
        num_ribs=int(rng.choice(NUM_RIBS, p=RIB_SHARES)),
        vessel_seed=int(rng.integers(2**32)),
        contrast=contrast,
    )


class Body:
    """Moves shapes from the body's own axes to the scanner's: rotation about z, then an offset on the table."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._cosine, self._sine = np.cos(anatomy.rotation), np.sin(anatomy.rotation)
        self.centre = np.array([*anatomy.offset, 0.0])
        self.angle = anatomy.rotation
        self.half = np.array([anatomy.inner_half_width + 4.0, anatomy.inner_half_depth])

    def ellipsoids(self, shapes: list[Shape]) -> Numbers:
        """Place ellipsoids."""
        rows = as_rows(shapes)
        rows[:, 0], rows[:, 1] = self._place(rows[:, 0], rows[:, 1])
        rows[:, 6] += self.angle
        return rows

    def segments(self, shapes: list[Shape]) -> Numbers:
        """Place segments."""
        rows = as_rows(shapes)
        for first in (0, 3):
            rows[:, first], rows[:, first + 1] = self._place(rows[:, first], rows[:, first + 1])
        return rows

    def points(self, spots: Numbers) -> Numbers:
        """Place points, shape (n, 3)."""
        x, y = self._place(spots[:, 0], spots[:, 1])
        return np.column_stack([x, y, spots[:, 2]])

    def _place(self, x: Numbers, y: Numbers) -> tuple[Numbers, Numbers]:
        return (
            self._cosine * x - self._sine * y + self.centre[0],
            self._sine * x + self._cosine * y + self.centre[1],
        )


def as_rows(shapes: list[Shape]) -> Numbers:
    """Shapes as the kernels take them, ten numbers each."""
    return np.array(shapes, dtype=np.float64).reshape(-1, 10)
