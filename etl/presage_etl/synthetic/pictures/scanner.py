"""How a study was acquired: scanner, kernel, contrast, field of view, and the form in which it is stored.

All of it is drawn without regard to any latent, unless the parameters plant a shortcut (`[scanner] confound`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from presage_etl.synthetic.lives.latents import gaussian_of
from presage_etl.synthetic.parameters import SCANNER_NAMES, Parameters, parse_confound
from presage_etl.synthetic.pictures.anatomy import PLAIN, Anatomy, Contrast, draw_anatomy
from presage_etl.synthetic.pictures.detector import Detector, expose, field_of_view
from presage_etl.synthetic.pictures.grid import Grid, Vector, centred
from presage_etl.synthetic.pictures.phantom import Phantom
from presage_etl.synthetic.pictures.syntaxes import EXPLICIT, JPEG_LS, drawn_syntax, is_writable
from presage_etl.synthetic.streams import Stage, stream

AIR_HU = -1024  # what a right reader makes of padding
ORDERS = ("ascending", "descending", "shuffled", "absent")


@dataclass(frozen=True)
class Kernel:
    """A reconstruction kernel; sharp ones show more noise and less blur."""

    name: str
    sharp: bool = False


# Manufacturer, invented model, kernels: two soft ones and a sharp one; the order is that of SCANNER_NAMES.
SCANNERS = (
    ("SIEMENS", "Aspen 64", (Kernel("B30f"), Kernel("B40f"), Kernel("B60f", sharp=True))),
    ("GE MEDICAL SYSTEMS", "Birch CT", (Kernel("STANDARD"), Kernel("SOFT"), Kernel("LUNG", sharp=True))),
    ("TOSHIBA", "Cypress ONE", (Kernel("FC08"), Kernel("FC18"), Kernel("FC52", sharp=True))),
    ("Philips", "Dogwood", (Kernel("B"), Kernel("C"), Kernel("L", sharp=True))),
)
UPPER_QUARTER = 0.6744897501960817  # of a normal distribution: each scanner makes a quarter of the studies
KERNEL_SHARES = (0.6, 0.25, 0.15)
# Phase, then HU of venous and of arterial blood: between 150 and 400 in every phase.
PHASES = (
    ("pulmonary", (280.0, 400.0), (150.0, 260.0)),
    ("arterial", (150.0, 220.0), (250.0, 400.0)),
    ("portal", (150.0, 180.0), (150.0, 190.0)),
)
CHARACTER_SETS = ("ISO_IR 100", "", "ISO_IR 192", "\\ISO 2022 IR 87", "\\ISO 2022 IR 149")
CHARACTER_SHARES = (0.55, 0.15, 0.15, 0.1, 0.05)


@dataclass(frozen=True)
class Stored:
    """How values are stored: stored value = HU - intercept, outside the circle perhaps the padding value."""

    signed: bool
    bits: int
    intercept: int
    padded: bool


# No signed form of 12 bits: tools that mask it without extending its sign are common, so that is a trap to plant.
FORMS = (
    (Stored(signed=True, bits=16, intercept=0, padded=False), 0.28),
    (Stored(signed=True, bits=16, intercept=0, padded=True), 0.17),
    (Stored(signed=True, bits=16, intercept=-1024, padded=False), 0.05),
    (Stored(signed=True, bits=16, intercept=-1024, padded=True), 0.05),
    (Stored(signed=False, bits=12, intercept=-1024, padded=False), 0.30),
    (Stored(signed=False, bits=16, intercept=-1024, padded=False), 0.15),
)


@dataclass(frozen=True)
class Acquisition:
    """One series as the scanner made it."""

    manufacturer: str
    model: str
    kernel: str
    sharp: bool
    syntax: str  # transfer syntax, a key of `syntaxes.SYNTAXES`
    wanted_syntax: str  # the one that was drawn; another than `syntax` where its encoder is not installed
    stored: Stored
    feet_first: bool
    thickness_mm: float
    instance_order: str
    has_offset: bool  # whether the header names its offset from UTC
    has_fraction: bool  # whether times carry fractions of a second
    num_windows: int
    character_set: str
    kvp: int
    exposure_mas: int
    grid: Grid
    anatomy: Anatomy
    detector: Detector

    @property
    def contrast(self) -> bool:
        """Whether contrast was given."""
        return self.anatomy.contrast.phase != PLAIN.phase


def draw_acquisition(
    parameters: Parameters, person: int, scan: int, *, male: bool, biomarkers: NDArray[np.float64] | None = None
) -> Acquisition:
    """Draw scanner, grid and anatomy of one study; the biomarkers that it shows matter to a planted shortcut only.

    Raises
    ------
    ValueError
        A shortcut is planted and the biomarkers are not given.
    """
    rng = stream(parameters.seed, person, Stage.SCANNER, scan)
    form = stream(parameters.seed, person, Stage.STORAGE, scan)
    manufacturer, model, kernels = SCANNERS[_scanner(parameters, rng, person, scan, biomarkers)]
    kernel = kernels[int(rng.choice(3, p=KERNEL_SHARES))]
    contrast = _contrast(rng) if rng.random() < parameters.image.contrast else PLAIN
    feet_first = bool(rng.random() < 0.2)
    grid = _grid(parameters, rng, feet_first=feet_first)
    step = grid.spacing[2]
    wanted = drawn_syntax(float(form.random()))
    syntax = wanted if is_writable(wanted) else EXPLICIT
    return Acquisition(
        manufacturer=manufacturer,
        model=model,
        kernel=kernel.name,
        sharp=kernel.sharp,
        syntax=syntax,
        wanted_syntax=wanted,
        stored=_stored(form, unsigned_only=wanted == JPEG_LS),
        feet_first=feet_first,
        thickness_mm=round(step * 0.75, 2) if rng.random() < 0.3 else step,
        instance_order=ORDERS[int(rng.choice(4, p=[0.5, 0.25, 0.15, 0.1]))],
        has_offset=bool(rng.random() < 0.5),
        has_fraction=bool(form.random() < 0.3),
        num_windows=1 + int(form.random() < 0.4),
        character_set=CHARACTER_SETS[int(form.choice(len(CHARACTER_SETS), p=CHARACTER_SHARES))],
        kvp=int(rng.choice([100, 120, 140])),
        exposure_mas=int(rng.integers(60, 250)),
        grid=grid,
        anatomy=draw_anatomy(stream(parameters.seed, person, Stage.GEOMETRY, scan), male=male, contrast=contrast),
        detector=_detector(parameters, stream(parameters.seed, person, Stage.DETECTOR, scan), kernel, grid),
    )


def scan(phantom: Phantom, made: Acquisition, rng: np.random.Generator) -> NDArray[np.int16]:
    """Return the picture in HU as a right reader of the scanner's files sees it, shape [z, y, x]."""
    volume = expose(phantom.volume, made.detector, made.anatomy, made.grid, rng)
    if made.stored.padded:
        volume[:, ~field_of_view(made.grid)] = AIR_HU
    return volume


def _scanner(
    parameters: Parameters,
    rng: np.random.Generator,
    person: int,
    scan: int,
    biomarkers: NDArray[np.float64] | None,
) -> int:
    """One of the scanners with equal shares; a planted shortcut ties one of them to a latent."""
    drawn = int(rng.integers(len(SCANNERS)))
    planted = parse_confound(parameters.scanner.confound)
    if planted is None:
        return drawn
    if biomarkers is None:
        raise ValueError("a planted shortcut needs the biomarkers of the study")
    name, latent, correlation = planted
    own = stream(parameters.seed, person, Stage.SHORTCUT, scan)
    shown = gaussian_of(biomarkers, within=float(own.random()))[latent]
    propensity = correlation * shown + np.sqrt(1 - correlation**2) * own.standard_normal()
    place = SCANNER_NAMES.index(name)
    if propensity > UPPER_QUARTER:
        return place
    others = [other for other in range(len(SCANNERS)) if other != place]
    return others[int(own.integers(len(others)))]


def _contrast(rng: np.random.Generator) -> Contrast:
    phase, venous, arterial = PHASES[int(rng.integers(len(PHASES)))]
    return Contrast(
        phase, float(rng.uniform(*venous)), float(rng.uniform(*arterial)), muscle=100.0, liver=110.0, spleen=120.0
    )


def _stored(rng: np.random.Generator, *, unsigned_only: bool) -> Stored:
    """JPEG-LS knows no sign: such series are stored unsigned."""
    forms = [(form, share) for form, share in FORMS if not (unsigned_only and form.signed)]
    shares = np.array([share for _, share in forms])
    return forms[int(rng.choice(len(forms), p=shares / shares.sum()))][0]


def _detector(parameters: Parameters, rng: np.random.Generator, kernel: Kernel, grid: Grid) -> Detector:
    scanner = parameters.scanner
    noise = scanner.sharp_noise_hu if kernel.sharp else scanner.soft_noise_hu
    blur_mm = scanner.sharp_blur_mm if kernel.sharp else scanner.soft_blur_mm
    pixels = scanner.sharp_blur_pixels if kernel.sharp else scanner.soft_blur_pixels
    return Detector(
        noise_hu=float(rng.uniform(*noise)),
        blur_mm=max(blur_mm, pixels * grid.spacing[0]),
        cup_hu=float(rng.uniform(*scanner.cup_hu)),
        ring_share=scanner.ring_share,
        ring_seed=int(rng.integers(2**32)),
    )


def _grid(parameters: Parameters, rng: np.random.Generator, *, feet_first: bool) -> Grid:
    """A field of view and a length; one series in ten has pixels that are not square.

    Feet first, rows run to the patient's right and slices towards the feet.
    """
    columns, rows, slices = parameters.grid
    field, length = rng.uniform(*parameters.image.field_mm), rng.uniform(*parameters.image.length_mm)
    across = round(field / columns, 4)
    down = round(across * (1.04 if rng.random() < 0.1 else 1.0) * columns / rows, 4)
    step = round(length / slices, 2)
    row: Vector = (-1.0, 0.0, 0.0) if feet_first else (1.0, 0.0, 0.0)
    return centred((across, down, step), (columns, rows, slices), row, (0.0, 1.0, 0.0))
