"""How a study was acquired: scanner, kernel, field of view, stored form; drawn without regard to any latent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.phantom import Anatomy, Grid, draw_anatomy
from presage_etl.synthetic.streams import Stage, stream

# Manufacturer, invented model, kernels and the sd of their noise relative to a soft kernel.
SCANNERS = (
    ("SIEMENS", "Aspen 64", (("B30f", 1.0), ("B40f", 1.15), ("B60f", 1.6))),
    ("GE MEDICAL SYSTEMS", "Birch CT", (("STANDARD", 1.0), ("SOFT", 0.9), ("LUNG", 1.7))),
    ("TOSHIBA", "Cypress ONE", (("FC08", 1.0), ("FC18", 1.2), ("FC52", 1.7))),
    ("Philips", "Dogwood", (("B", 1.0), ("C", 1.1), ("L", 1.5))),
)
CONTRAST_HU = (150.0, 260.0)
PLAIN_BLOOD_HU = 40.0
ORDERS = ("ascending", "descending", "shuffled", "absent")


@dataclass(frozen=True)
class Acquisition:
    """One series as the scanner made it."""

    manufacturer: str
    model: str
    kernel: str
    contrast: bool
    implicit: bool  # transfer syntax: implicit or explicit little endian
    signed: bool  # stored values are HU; otherwise HU + 1024
    bits_stored: int
    feet_first: bool
    thickness_mm: float
    instance_order: str
    has_offset: bool  # whether the header names its offset from UTC
    kvp: int
    exposure_mas: int
    grid: Grid
    anatomy: Anatomy


def draw_acquisition(parameters: Parameters, person: int, scan: int, *, male: bool) -> Acquisition:
    """Draw scanner, grid and anatomy of one study."""
    rng = stream(parameters.seed, person, Stage.SCANNER, scan)
    manufacturer, model, kernels = SCANNERS[int(rng.integers(len(SCANNERS)))]
    kernel, sharpness = kernels[int(rng.choice(3, p=[0.6, 0.25, 0.15]))]
    contrast = bool(rng.random() < parameters.image.contrast)
    blood = float(rng.uniform(*CONTRAST_HU)) if contrast else PLAIN_BLOOD_HU
    noise = float(rng.uniform(*parameters.image.noise_hu)) * sharpness
    grid = _grid(parameters, rng)
    signed = bool(rng.random() < 0.5)
    step = grid.spacing[2]
    return Acquisition(
        manufacturer=manufacturer,
        model=model,
        kernel=kernel,
        contrast=contrast,
        implicit=bool(rng.random() < 0.25),
        signed=signed,
        bits_stored=16 if signed or rng.random() < 0.3 else 12,
        feet_first=bool(rng.random() < 0.2),
        thickness_mm=round(step * 0.75, 2) if rng.random() < 0.3 else step,
        instance_order=ORDERS[int(rng.choice(4, p=[0.5, 0.25, 0.15, 0.1]))],
        has_offset=bool(rng.random() < 0.5),
        kvp=int(rng.choice([100, 120, 140])),
        exposure_mas=int(rng.integers(60, 250)),
        grid=grid,
        anatomy=draw_anatomy(
            stream(parameters.seed, person, Stage.GEOMETRY, scan), male=male, blood=blood, noise=noise
        ),
    )


def _grid(parameters: Parameters, rng: np.random.Generator) -> Grid:
    """A field of view and a length; one series in ten has pixels that are not square."""
    columns, rows, slices = parameters.grid
    field, length = rng.uniform(*parameters.image.field_mm), rng.uniform(*parameters.image.length_mm)
    across = round(field / columns, 4)
    down = round(across * (1.04 if rng.random() < 0.1 else 1.0) * columns / rows, 4)
    step = round(length / slices, 2)
    origin = (
        round(-across * (columns - 1) / 2, 4),
        round(-down * (rows - 1) / 2, 4),
        round(-step * (slices - 1) / 2, 2),
    )
    return Grid(origin, (across, down, step), (columns, rows, slices))
