"""The phantom, without noise and without files (rules S21 to S24)."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from presage_etl.synthetic.anatomy import Anatomy, draw_anatomy
from presage_etl.synthetic.grid import Grid
from presage_etl.synthetic.painting import TISSUE, paint_ellipsoids
from presage_etl.synthetic.phantom import Phantom, paint_phantom
from presage_etl.synthetic.streams import Stage, stream

HEALTHY = np.array([0.48, 0.0, 0.0, 0.0, 27.0, 0.0, 0.0, 1.0])
FINE = Grid((-190.0, -190.0, -155.0), (4.0, 4.0, 5.0), (96, 96, 62))
CTR, EFFUSION, EMPHYSEMA, CALCIUM, ARTERY, NODULES, CONSOLIDATION, MUSCLE = range(8)


@cache
def anatomy() -> Anatomy:
    from dataclasses import replace

    drawn = draw_anatomy(stream(1, 1, Stage.GEOMETRY), male=True)
    return replace(drawn, rotation=0.0, offset=(0.0, 0.0), arms_down=False)


def painted(grid: Grid = FINE, **changes: float) -> Phantom:
    biomarkers = HEALTHY.copy()
    for name, value in changes.items():
        biomarkers[globals()[name.upper()]] = value
    return paint_phantom(biomarkers, anatomy(), grid, stream(1, 1, Stage.NOISE))


def coordinates(grid: Grid, axis: int) -> NDArray[np.float64]:
    return grid.origin[axis] + grid.spacing[axis] * np.arange(grid.size[axis])


def test_s23_fluid_consolidation_and_emphysema_measure_what_the_truth_says() -> None:
    voxel_ml = np.prod(FINE.spacing) / 1000
    healthy = painted()
    assert painted(effusion=700.0).num_effusion * voxel_ml == pytest.approx(700, rel=0.05)
    fluid = painted(effusion=700.0)
    measured = np.count_nonzero(healthy.lung & (fluid.volume > 5) & (fluid.volume < 25) & (healthy.volume < -300))
    assert measured * voxel_ml == pytest.approx(700, rel=0.05)
    solid = painted(consolidation=300.0)
    assert solid.num_consolidation * voxel_ml == pytest.approx(300, rel=0.05)
    dark = painted(emphysema=30.0)
    share = np.count_nonzero(dark.volume[dark.lung] <= -975) / np.count_nonzero(dark.lung)
    assert share == pytest.approx(0.30, abs=0.015)


def test_s23_tissues_have_their_densities() -> None:
    phantom = painted()
    lung = phantom.volume[phantom.lung]
    assert -870 < np.median(lung) < -780
    z, y, x = (int(np.argmin(np.abs(coordinates(FINE, axis) - value))) for axis, value in ((2, -130), (1, 0), (0, -70)))
    assert phantom.volume[z, y, x] == pytest.approx(60, abs=2)  # liver
    assert phantom.volume[0, 0, 0] == -1000
    assert np.any(phantom.volume > 250)  # bone
    calcified = painted(calcium=2000.0)
    assert np.count_nonzero(calcified.volume > 500) > np.count_nonzero(phantom.volume > 500)


def test_s24_heart_stomach_and_liver_fix_the_side() -> None:
    """LPS: the patient's left is positive x."""
    phantom = painted()
    x = coordinates(FINE, 0)
    heart = int(np.argmin(np.abs(coordinates(FINE, 2) + 42)))
    level = phantom.volume[heart]
    soft = (level > 20) & (level < 70) & (np.abs(coordinates(FINE, 1)) < 60)[:, None] & (np.abs(x) < 95)[None, :]
    assert np.average(np.broadcast_to(x, level.shape)[soft]) > 3
    low = int(np.argmin(np.abs(coordinates(FINE, 2) + 112)))
    bubble = (
        (phantom.volume[low] < -900) & (np.abs(x) < 90)[None, :] & (np.abs(coordinates(FINE, 1) + 30) < 30)[:, None]
    )
    assert bubble.any()
    assert np.average(np.broadcast_to(x, bubble.shape)[bubble]) > 30


def test_s21_a_picture_lies_in_patient_coordinates_whatever_the_grid() -> None:
    """The same voxels through a smaller window, and the same tissue at the shared places of a finer grid."""
    whole = painted().volume
    window = Grid((-110.0, -70.0, -55.0), FINE.spacing, (50, 40, 20))
    np.testing.assert_allclose(painted(window).volume, whole[20:40, 30:70, 20:70], atol=0.01)
    half = Grid(FINE.origin, (2.0, 2.0, 5.0), (191, 191, 62))
    shared, coarse = painted(half).volume[:, ::2, ::2], whole
    assert np.mean(np.abs(shared - coarse) < 20) > 0.85  # edges differ: each grid smooths them over its own voxel
    assert np.corrcoef(shared.ravel(), coarse.ravel())[0, 1] > 0.97


BALL = (10.0, -4.0, 6.0, 30.0, 30.0, 30.0, 0.0, 0.0, 100.0, TISSUE)


@pytest.mark.parametrize("step_mm", [2.0, 4.0, 8.0])
def test_s21_a_shape_ends_in_an_edge_of_one_voxel_and_touches_nothing_beyond_it(step_mm: float) -> None:
    size = int(120 / step_mm)
    grid = Grid((-50.0, -62.0, -55.0), (step_mm,) * 3, (size, size, size))
    volume = np.full((size, size, size), np.nan, dtype=np.float32)  # what is read or written beyond shows
    x, y, z = (coordinates(grid, axis) for axis in range(3))
    away_mm = np.sqrt((x - 10) ** 2 + ((y + 4) ** 2)[:, None] + ((z - 6) ** 2)[:, None, None]) - 30
    volume[away_mm < step_mm] = 0
    paint_ellipsoids(volume, np.zeros_like(volume), grid.frame(), np.array([BALL]))
    assert np.all(volume[away_mm <= -step_mm / 2 - 1e-6] == 100)
    assert np.all(volume[(away_mm >= step_mm / 2 + 1e-6) & (away_mm < step_mm)] == 0)
    edge = np.abs(away_mm) < step_mm / 2 - 1e-6
    np.testing.assert_allclose(volume[edge], 50 - 100 * away_mm[edge] / step_mm, atol=0.01)
    assert np.isnan(volume[away_mm >= step_mm]).all()
    assert np.nansum(volume) / 100 * step_mm**3 == pytest.approx(4 / 3 * np.pi * 30**3, rel=0.03)


def test_s22_the_width_of_the_heart_is_the_cardiothoracic_ratio() -> None:
    widths = []
    for ratio in (0.42, 0.52, 0.62):
        phantom = painted(ctr=ratio)
        level = phantom.volume[int(np.argmin(np.abs(coordinates(FINE, 2) + 42)))]
        column = np.flatnonzero(
            ((level > 0) & (level < 80) & (np.abs(coordinates(FINE, 1) + 20) < 12)[:, None]).any(axis=0)
        )
        inner = [i for i in column if abs(coordinates(FINE, 0)[i]) < 115]
        widths.append((len(inner)) * FINE.spacing[0])
    thorax = 2 * 134 * anatomy().width
    np.testing.assert_allclose(widths, np.array([0.42, 0.52, 0.62]) * thorax, atol=10)


def test_s22_each_latent_changes_the_picture() -> None:
    healthy = painted().volume
    coarse = Grid((-189.0, -189.0, -155.0), (6.0, 6.0, 10.0), (64, 64, 32))
    at_demo_grid = painted(coarse).volume
    for change in ({"ctr": 0.6}, {"effusion": 300.0}, {"emphysema": 20.0}, {"calcium": 400.0}, {"artery": 36.0},
                   {"nodules": 5.0}, {"consolidation": 200.0}, {"muscle": 1.3}):  # fmt: skip
        assert np.abs(painted(**change).volume - healthy).max() > 20, change
        assert np.abs(painted(coarse, **change).volume - at_demo_grid).max() > 20, change
