"""The wall of the chest and what lies around it, as analytic shapes: bones, breasts, arms, the table."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from presage_etl.synthetic.pictures.anatomy import Anatomy, Body, Shape
from presage_etl.synthetic.pictures.painting import TISSUE, Numbers, Volume, paint_columns

SKIN, FAT, MUSCLE, MEDIASTINUM = 40.0, -105.0, 55.0, -95.0
CORTEX, CANCELLOUS, BREASTBONE, BLADE, DISC, CORD = 450.0, 250.0, 260.0, 350.0, 90.0, 30.0
GLAND, CARBON, FOAM = -70.0, -200.0, -900.0
SKIN_MM, NECK_Z = 2.5, 105.0
TABLE_Y = 174.0
RIB_PITCH, FIRST_RIB, RIB_MM = 24.0, 110.0, 4.5


def paint_skin(volume: Volume, frame: Numbers, anatomy: Anatomy, body: Body, muscle: float) -> None:
    """The outline of the trunk; breasts come next, then what lies below."""
    half = _muscle_half(body, muscle) + anatomy.fat + SKIN_MM
    paint_columns(volume, frame, body.centre, half, body.angle, SKIN, NECK_Z)


def paint_wall(volume: Volume, frame: Numbers, anatomy: Anatomy, body: Body, muscle: float) -> None:
    """Fat, then muscle, whose thickness and density are z8, then the fat of the mediastinum."""
    outer = _muscle_half(body, muscle)
    paint_columns(volume, frame, body.centre, outer + anatomy.fat, body.angle, FAT, NECK_Z)
    paint_columns(volume, frame, body.centre, outer, body.angle, MUSCLE + 40.0 * (muscle - 1.0), NECK_Z)
    paint_columns(volume, frame, body.centre, body.half - 6.0, body.angle, MEDIASTINUM, NECK_Z)


def table() -> list[Shape]:
    """Foam in a shell of carbon fibre; it belongs to the scanner and does not turn with the body."""
    return [
        (0.0, TABLE_Y, 0.0, 205.0, 14.0, 400.0, 0.0, 0.0, CARBON, TISSUE),
        (0.0, TABLE_Y, 0.0, 198.0, 9.0, 400.0, 0.0, 0.0, FOAM, TISSUE),
    ]


def breasts(anatomy: Anatomy, body: Body) -> list[Shape]:
    """Skin over gland and fat, before the wall of women."""
    if anatomy.male:
        return []
    front = -float(body.half[1]) - anatomy.fat - 18.0
    shapes: list[Shape] = []
    for grow, hu in ((SKIN_MM, SKIN), (0.0, FAT), (-14.0, GLAND)):
        shapes += [
            (side * 68.0, front, -5.0, 46.0 + grow, 30.0 + grow, 48.0 + grow, 0.0, 0.0, hu, TISSUE)
            for side in (-1.0, 1.0)
        ]
    return shapes


def limbs(anatomy: Anatomy) -> list[Shape]:
    """Arms: beside the chest where they are down, otherwise raised past the head from the shoulders."""
    shapes: list[Shape] = []
    for side in (-1.0, 1.0):
        if anatomy.arms_down:
            ends = (side * 186.0, 20.0, -200.0, side * 180.0, 15.0, 120.0)
            shapes += [(*ends, 24.0, 28.0, MUSCLE, TISSUE), (*ends, 9.0, 10.0, CORTEX, TISSUE)]
        else:
            ends = (side * 148.0 * anatomy.width, 18.0, 135.0, side * 128.0, -5.0, 260.0)
            shapes += [(*ends, 40.0, 34.0, MUSCLE, TISSUE), (*ends, 15.0, 11.0, CORTEX, TISSUE)]
    return shapes


def bones(anatomy: Anatomy) -> list[Shape]:
    """Segments: breastbone, collarbones, ribs as arcs, the discs and the canal of the spine, spinous processes."""
    wide, deep = anatomy.inner_half_width + RIB_MM, anatomy.inner_half_depth
    spine = spine_y(anatomy)
    shapes: list[Shape] = [
        (0.0, -deep - 2.0, -35.0, 0.0, -deep + 4.0, 75.0, 7.0, 9.0, BREASTBONE, TISSUE),
        (0.0, spine, -200.0, 0.0, spine, 200.0, 15.0, 15.0, DISC, TISSUE),
    ]
    for side in (-1.0, 1.0):
        outer = (side * 0.9 * wide, -0.35 * deep, 138.0)
        shapes.append((side * 14.0, -deep + 6.0, 88.0, *outer, 6.0, 6.0, CORTEX, TISSUE))
    for level in _levels():
        shapes.append((0.0, spine + 30.0, level, 0.0, spine + 43.0, level - 14.0, 5.0, 3.5, CORTEX, TISSUE))
    angles = np.linspace(np.pi / 2, -np.pi / 2 + 0.35, 8)  # from the spine round to the front
    for rib in range(anatomy.num_ribs):
        scale = (0.74, 0.9)[rib] if rib < 2 else 1.0
        top = FIRST_RIB - RIB_PITCH * rib
        arc = [(wide * scale * np.cos(a), deep * scale * np.sin(a), top - 11.0 * (1 - np.sin(a))) for a in angles]
        for side in (-1.0, 1.0):
            points = [(side * x, y, z) for x, y, z in arc]
            shapes += [(*first, *last, RIB_MM, RIB_MM, CORTEX, TISSUE) for first, last in pairwise(points)]
    return shapes


def vertebrae(anatomy: Anatomy) -> list[Shape]:
    """Ellipsoids: bodies of the spine with their arches, shoulder blades."""
    spine, deep = spine_y(anatomy), anatomy.inner_half_depth
    shapes: list[Shape] = []
    for level in _levels():
        shapes.append((0.0, spine + 20.0, level, 21.0, 15.0, 8.0, 0.0, 0.0, CORTEX, TISSUE))
        shapes.append((0.0, spine, level, 19.0, 16.0, 11.0, 0.0, 0.0, CANCELLOUS, TISSUE))
    for side in (-1.0, 1.0):
        shapes.append((side * 100.0, deep + 4.0, 62.0, 36.0, 5.0, 48.0, side * -0.4, 0.0, BLADE, TISSUE))
    return shapes


def canal(anatomy: Anatomy) -> list[Shape]:
    """The spinal canal, painted after the arches of the vertebrae."""
    spine = spine_y(anatomy) + 21.0
    return [(0.0, spine, -200.0, 0.0, spine, 200.0, 8.5, 8.5, CORD, TISSUE)]


def spine_y(anatomy: Anatomy) -> float:
    """Middle of the bodies of the vertebrae."""
    return anatomy.inner_half_depth - 20.0


def _levels() -> list[float]:
    return [140.0 - RIB_PITCH * place for place in range(13)]


def _muscle_half(body: Body, muscle: float) -> Numbers:
    return np.asarray(body.half + 22.0 * muscle)
