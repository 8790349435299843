"""What lies inside the chest, as analytic shapes: lungs, vessels and airways, the heart, liver, spleen and stomach.

Heart, aortic arch and stomach mark the left side, the liver the right one: a flip or a swap cannot go unseen.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from presage_etl.synthetic.pictures.anatomy import LUNG_CENTRE, LUNG_HALF_WIDTH, Anatomy, Shape
from presage_etl.synthetic.pictures.painting import LUNG, TISSUE, WITHIN

AIR, OESOPHAGUS, FISSURE = -1000.0, 35.0, -500.0
HEART_RATIO = 0.75  # depth to width
# Chambers in shares of the heart's half axes: centre, half axes, and whether their blood is arterial.
CHAMBERS = (
    ((0.38, 0.22, -0.12), (0.38, 0.42, 0.52), True),  # left ventricle
    ((-0.02, -0.48, -0.18), (0.46, 0.36, 0.54), False),  # right ventricle
    ((-0.02, 0.52, 0.42), (0.40, 0.32, 0.36), True),  # left atrium
    ((-0.58, -0.02, 0.10), (0.30, 0.40, 0.52), False),  # right atrium
)
VESSEL_RADII = (2.4, 1.7, 1.1)  # of a segment's artery and of what it forks into
VESSEL_SPREADS = (0.13, 0.29, 0.35)  # how far each turns from where it came
LOBE_HEIGHTS = (0.95, 0.25, -0.45, -1.0)
LOBE_AZIMUTHS = (0.1, -0.85, 0.9, 0.35)


def lungs(anatomy: Anatomy, hu: float) -> list[Shape]:
    """Two lungs; the first two ellipsoids are their bulk, the others widen their bases."""
    half, centre, tall = LUNG_HALF_WIDTH * anatomy.width, LUNG_CENTRE * anatomy.width, anatomy.lung_height
    deep = 80.0 * anatomy.depth
    bulk: list[Shape] = [
        (side * centre, 4.0, 5.0, half, deep, 125.0 * tall, 0.0, 0.0, hu, LUNG) for side in (-1.0, 1.0)
    ]
    base: list[Shape] = [
        (side * (centre + 3.0), 8.0, -40.0, half - 5.0, deep - 4.0, 85.0 * tall, 0.0, 0.0, hu, LUNG)
        for side in (-1.0, 1.0)
    ]
    return bulk + base


def fissures(anatomy: Anatomy) -> list[Shape]:
    """The oblique fissure of each lung, from high behind to low in front, and the horizontal one of the right."""
    centre = LUNG_CENTRE * anatomy.width
    shapes: list[Shape] = [
        (side * centre, 8.0, -8.0, 75.0, 125.0, 1.0, 0.0, 0.86, FISSURE, WITHIN) for side in (-1.0, 1.0)
    ]
    return [*shapes, (-centre, -44.0, 18.0, 70.0, 52.0, 1.0, 0.0, 0.08, FISSURE, WITHIN)]


def heart(anatomy: Anatomy, ratio: float) -> list[Shape]:
    """Muscle, then four chambers; the shadow is `ratio` times as wide as the inner thorax, whatever the tilt."""
    contrast = anatomy.contrast
    width = ratio * 2 * anatomy.inner_half_width
    half = width / 2 / np.sqrt(np.cos(anatomy.tilt) ** 2 + (HEART_RATIO * np.sin(anatomy.tilt)) ** 2)
    halves = np.array([half, HEART_RATIO * half, 55.0])
    middle = np.array([0.13 * width, -20.0, -42.0])
    shapes: list[Shape] = [(*middle, *halves, anatomy.tilt, 0.0, contrast.muscle, TISSUE)]
    cosine, sine = np.cos(anatomy.tilt), np.sin(anatomy.tilt)
    for place, size, is_arterial in CHAMBERS:
        x, y, z = np.array(place) * halves
        spot = middle + np.array([cosine * x - sine * y, sine * x + cosine * y, z])
        hu = contrast.arterial if is_arterial else contrast.venous
        shapes.append((*spot, *(np.array(size) * halves), anatomy.tilt, 0.0, hu, TISSUE))
    return shapes


def domes(anatomy: Anatomy) -> list[Shape]:
    """Liver under the right dome, spleen and the stomach's air under the left one."""
    wide, deep, contrast, breath = anatomy.width, anatomy.depth, anatomy.contrast, anatomy.breath
    return [
        (-62.0 * wide, 0.0, -128.0 + breath, 73.0 * wide, 84.0 * deep, 62.0, 0.0, 0.0, contrast.liver, TISSUE),
        (66.0 * wide, 6.0, -138.0 + breath, 69.0 * wide, 78.0 * deep, 58.0, 0.0, 0.0, contrast.spleen, TISSUE),
        (62.0 * wide, -30.0, -112.0 + breath, 24.0, 22.0, 16.0, 0.0, 0.0, AIR, TISSUE),
    ]


def great_vessels(anatomy: Anatomy, artery_mm: float) -> list[Shape]:
    """Aorta with its arch to the left, caval veins, pulmonary trunk and branches (z5), gullet, then the airways."""
    radius, venous, arterial = artery_mm / 2, anatomy.contrast.venous, anatomy.contrast.arterial
    return [
        *_aorta(arterial),
        (-32.0, -10.0, 20.0, -30.0, -8.0, 120.0, 8.0, 8.0, venous, TISSUE),
        (-22.0, 22.0, -170.0, -26.0, 2.0, -60.0, 11.0, 11.0, venous, TISSUE),
        (4.0, 36.0, 140.0, 4.0, 38.0, -110.0, 6.0, 6.0, OESOPHAGUS, TISSUE),
        (16.0, -36.0, -12.0, 13.0, -16.0, 40.0, radius, radius, venous, TISSUE),
        (13.0, -14.0, 36.0, -66.0, 2.0, 24.0, 0.95 * radius, 0.8 * radius, venous, TISSUE),
        (13.0, -14.0, 38.0, 70.0, 12.0, 30.0, 0.95 * radius, 0.8 * radius, venous, TISSUE),
        (0.0, 18.0, 160.0, 0.0, 20.0, 55.0, 8.5, 8.5, AIR, TISSUE),
        (0.0, 20.0, 55.0, -38.0, 16.0, 34.0, 6.5, 5.5, AIR, TISSUE),
        (0.0, 20.0, 55.0, 38.0, 18.0, 36.0, 6.0, 5.0, AIR, TISSUE),
        (-38.0, 16.0, 34.0, -58.0, 14.0, -10.0, 4.0, 2.5, AIR, TISSUE),
        (-38.0, 16.0, 34.0, -62.0, 6.0, 66.0, 3.5, 2.0, AIR, TISSUE),
        (38.0, 18.0, 36.0, 60.0, 24.0, -8.0, 4.0, 2.5, AIR, TISSUE),
        (38.0, 18.0, 36.0, 60.0, 4.0, 64.0, 3.5, 2.0, AIR, TISSUE),
    ]


def _aorta(hu: float) -> list[Shape]:
    points = [(-12.0, -18.0, -5.0), (-12.0, -14.0, 52.0), (-5.0, -4.0, 68.0), (8.0, 12.0, 74.0), (22.0, 28.0, 69.0),
              (30.0, 38.0, 54.0), (30.0, 42.0, 10.0), (24.0, 44.0, -170.0)]  # fmt: skip
    radii = np.linspace(15.0, 11.0, len(points))
    ends = zip(pairwise(points), pairwise(radii), strict=True)
    return [(*first, *last, wide, narrow, hu, TISSUE) for (first, last), (wide, narrow) in ends]


def vessels(anatomy: Anatomy) -> list[Shape]:
    """The tree of each lung: four vessels from the hilum, each forks twice; 56 tapered segments in all."""
    rng = np.random.Generator(np.random.Philox(anatomy.vessel_seed))
    side = np.repeat([-1.0, 1.0], len(LOBE_HEIGHTS))
    height, azimuth = np.tile(LOBE_HEIGHTS, 2), np.tile(LOBE_AZIMUTHS, 2)
    heading = np.column_stack([side * 0.75 * np.cos(azimuth), 0.9 * np.sin(azimuth), height])
    start = np.column_stack([side * 48.0 * anatomy.width, np.full(8, 10.0), np.full(8, 24.0)])
    shapes: list[Shape] = []
    for radius, spread in zip(VESSEL_RADII, VESSEL_SPREADS, strict=True):
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        heading = heading + spread * rng.standard_normal(heading.shape)
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        end = start + heading * rng.uniform(24.0, 36.0, (len(start), 1))
        ends = np.column_stack([start, end]).tolist()
        shapes += [(*both, radius, 0.75 * radius, anatomy.contrast.venous, WITHIN) for both in ends]
        start, heading = np.repeat(end, 2, axis=0), np.repeat(heading, 2, axis=0)
    return shapes
