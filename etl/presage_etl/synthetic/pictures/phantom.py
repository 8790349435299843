"""A thorax of analytic shapes whose picture shows the eight latents, on any grid, without noise.

Anatomy (size, tilt, rotation, breathing) comes from a stream of its own, independent of every latent; what the scanner
adds to the picture is `detector`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from presage_etl.synthetic.pictures import disease, organs, thorax
from presage_etl.synthetic.pictures.anatomy import Anatomy, Body, as_rows
from presage_etl.synthetic.pictures.grid import Grid
from presage_etl.synthetic.pictures.painting import Numbers, Volume, paint_ellipsoids, paint_segments

AIR = -1000.0


@dataclass(frozen=True)
class Phantom:
    """A picture without noise, and what was put into it."""

    volume: Volume
    lung: NDArray[np.bool_]  # all lung, with whatever lies in its place
    num_effusion: int
    num_consolidation: int
    num_emphysema: int


def paint_phantom(biomarkers: Numbers, anatomy: Anatomy, grid: Grid, rng: np.random.Generator) -> Phantom:
    """Paint one thorax.

    Parameters
    ----------
    biomarkers
        The eight latents in natural units (`latents.natural`), shape (8,).
    anatomy, grid
        The body and the voxels.
    rng
        Places of nodules, emphysema and consolidation.
    """
    ratio, effusion_ml, emphysema, agatston, artery_mm, num_nodules, consolidation_ml, muscle = biomarkers
    frame, body = grid.frame(), Body(anatomy)
    volume = np.full(grid.size[::-1], AIR, dtype=np.float32)
    lung = np.zeros_like(volume)

    def ellipsoids(shapes: list[tuple[float, ...]]) -> None:
        paint_ellipsoids(volume, lung, frame, body.ellipsoids(shapes))

    def segments(shapes: list[tuple[float, ...]]) -> None:
        paint_segments(volume, lung, frame, body.segments(shapes))

    paint_ellipsoids(volume, lung, frame, as_rows(thorax.table()))
    segments(thorax.limbs(anatomy))
    thorax.paint_skin(volume, frame, anatomy, body, float(muscle))
    ellipsoids(thorax.breasts(anatomy, body))
    thorax.paint_wall(volume, frame, anatomy, body, float(muscle))
    segments(thorax.bones(anatomy))
    ellipsoids(thorax.vertebrae(anatomy))
    segments(thorax.canal(anatomy))
    lungs = organs.lungs(anatomy, anatomy.lung_hu + disease.lung_shift(float(emphysema)))
    ellipsoids(lungs)
    ellipsoids(organs.fissures(anatomy))
    segments(organs.vessels(anatomy))
    heart, domes = organs.heart(anatomy, float(ratio)), organs.domes(anatomy)
    ellipsoids(domes + heart)
    segments(organs.great_vessels(anatomy, float(artery_mm)))
    air_filled = lung > 0.5  # before anything that a disease puts into it
    if agatston > 0:
        segments(disease.calcium(heart[0], float(agatston)))
    hidden = [*domes, heart[0]]
    ellipsoids(disease.nodules(lungs[:2], hidden, int(num_nodules), grid, rng))
    centres = body.points(disease.draw_centres(lungs[:2], hidden, rng))
    burden = disease.Burden(float(effusion_ml), float(consolidation_ml), float(emphysema))
    fluid_hu = float(rng.uniform(*disease.FLUID_HU))
    filled = disease.fill_lung(volume, lung, grid, anatomy, burden, centres, fluid_hu)
    return Phantom(volume, air_filled, filled.effusion, filled.consolidation, filled.emphysema)
