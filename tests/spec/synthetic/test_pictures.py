"""The phantom, without noise and without files (rules S21 to S24)."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation
from scipy.stats import pearsonr

from presage_etl.synthetic.lives.persons import draw_person
from presage_etl.synthetic.parameters import read_parameters
from presage_etl.synthetic.pictures.anatomy import Anatomy, Contrast, draw_anatomy
from presage_etl.synthetic.pictures.grid import Grid, Vector, centred
from presage_etl.synthetic.pictures.organs import fissures, vessels
from presage_etl.synthetic.pictures.painting import TISSUE, paint_ellipsoids
from presage_etl.synthetic.pictures.phantom import Phantom, paint_phantom
from presage_etl.synthetic.pictures.scanner import draw_acquisition
from presage_etl.synthetic.streams import Stage, stream

HEALTHY = np.array([0.48, 0.0, 0.0, 0.0, 27.0, 0.0, 0.0, 1.0])
FINE = Grid((-190.0, -190.0, -155.0), (4.0, 4.0, 5.0), (96, 96, 62))
CTR, EFFUSION, EMPHYSEMA, CALCIUM, ARTERY, NODULES, CONSOLIDATION, MUSCLE = range(8)


@cache
def anatomy() -> Anatomy:
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


def test_s21_an_oblique_grid_shows_the_same_body_at_the_same_places() -> None:
    """Voxels of any orientation, fetched at the places of the axial grid, give the axial picture."""
    turn = Rotation.from_euler("xyz", [12.0, -8.0, 25.0], degrees=True).as_matrix()
    fine = Grid((-190.0, -190.0, -155.0), (3.0, 3.0, 3.0), (128, 128, 104))
    tilted = centred((3.0, 3.0, 3.0), (150, 150, 150), tuple(turn[:, 0]), tuple(turn[:, 1]))
    assert tilted.normal == pytest.approx(tuple(turn[:, 2]))
    sick = {"effusion": 400.0, "nodules": 6.0, "calcium": 800.0, "consolidation": 300.0, "emphysema": 15.0}
    there = painted(tilted, **sick).volume
    inverse = np.linalg.inv(np.vstack([tilted.frame(), [0, 0, 0, 1]]))
    axial = painted(fine, **sick)
    k, j, i = np.meshgrid(*(np.arange(12, size - 12, 3) for size in fine.size[::-1]), indexing="ij")
    places = (
        inverse @ np.vstack([fine.frame(), [0, 0, 0, 1]]) @ np.stack([i.ravel(), j.ravel(), k.ravel(), np.ones(i.size)])
    )
    fetched = map_coordinates(there, places[[2, 1, 0]], order=1, mode="nearest")
    wanted = axial.volume[k, j, i].ravel()
    assert np.corrcoef(fetched, wanted)[0, 1] > 0.98
    assert np.mean(np.abs(fetched - wanted) < 30) > 0.88


@pytest.mark.parametrize(
    ("row", "column"),
    [((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)), ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))],
    ids=["feet first", "sagittal", "coronal"],
)
def test_s21_turned_grids_hold_the_very_same_voxels(row: Vector, column: Vector) -> None:
    """The same places in another order of memory: flipped, sagittal, coronal."""
    cube = centred((5.0, 5.0, 5.0), (76, 76, 76), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    turned = centred((5.0, 5.0, 5.0), (76, 76, 76), row, column)
    sick = {"effusion": 400.0, "nodules": 6.0, "calcium": 800.0, "consolidation": 300.0, "emphysema": 15.0}
    axial, other = painted(cube, **sick).volume, painted(turned, **sick).volume
    order = [
        int(np.flatnonzero(direction)[0]) for direction in (turned.normal, turned.column, turned.row)
    ]  # of z, y, x
    back = np.moveaxis(other, (0, 1, 2), [2 - axis for axis in order])
    signs = {
        axis: float(np.sum(direction))
        for axis, direction in zip(order, (turned.normal, turned.column, turned.row), strict=True)
    }
    for axis, sign in signs.items():
        back = np.flip(back, 2 - axis) if sign < 0 else back
    assert np.mean(np.abs(back - axial) < 0.5) > 0.9999  # of equal distances, the lower index is filled


def test_s21_a_native_slab_fits_its_memory() -> None:
    """A slab of 512 x 512 x 20; ten bytes a voxel at the peak beside the picture itself."""
    slab = Grid((-179.0, -179.0, -20.0), (0.7, 0.7, 1.0), (512, 512, 20))
    painted()  # compiles
    tracemalloc.start()
    phantom = painted(slab, effusion=20.0, emphysema=10.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert phantom.volume.shape == (20, 512, 512)
    assert phantom.volume.dtype == np.float32
    assert peak < 24 * phantom.volume.size
    assert phantom.num_effusion * slab.voxel_ml == pytest.approx(20, rel=0.05)


def test_s22_every_part_is_in_the_picture() -> None:
    """HU at places that belong to one part alone, in the body's own axes."""
    fine = Grid((-190.0, -140.0, -155.0), (2.0, 2.0, 2.0), (191, 166, 156))
    volume = painted(fine).volume
    body = anatomy()

    def hu(x: float, y: float, z: float) -> float:
        place = [round((value - fine.origin[axis]) / fine.spacing[axis]) for axis, value in enumerate((x, y, z))]
        return float(volume[place[2], place[1], place[0]])

    front, side = -body.inner_half_depth, body.inner_half_width
    assert hu(0, body.inner_half_depth - 20, 20) == pytest.approx(250, abs=15)  # a vertebra
    assert hu(0, body.inner_half_depth + 1, 20) == pytest.approx(30, abs=10)  # the spinal canal
    assert hu(0, front + 1, 30) > 200  # breastbone
    assert hu(100, body.inner_half_depth + 4, 62) > 250  # left shoulder blade
    assert hu(-100, body.inner_half_depth + 4, 62) > 250
    assert hu(0, 19, 100) < -950  # trachea
    assert hu(20, 19, 46) < -900  # left main bronchus
    assert hu(-20, 18, 44) < -900
    assert hu(8, 12, 74) == pytest.approx(40, abs=8)  # the arch of the aorta
    assert hu(27, 43, -20) == pytest.approx(40, abs=8)  # descending
    assert hu(15, -26, 12) == pytest.approx(40, abs=8)  # pulmonary trunk
    assert hu(0, front - 11, -60) == pytest.approx(55, abs=3)  # muscle
    assert hu(0, front - 22 - body.fat / 2, -60) < -90  # fat
    assert hu(0, 174, 0) < -800  # foam of the table
    assert hu(0, 162, 0) == pytest.approx(-200, abs=60)  # its shell
    wall = volume[:, round(140 / 2), round((side + 4.5 + 190) / 2)] > 250
    ribs = np.count_nonzero(np.diff(wall.astype(int)) == 1)
    assert 9 <= ribs <= body.num_ribs  # the first one and the last lie further in or below


def test_s22_women_have_breasts_and_one_in_ten_keeps_the_arms_down() -> None:
    outside = np.abs(coordinates(FINE, 1) + anatomy().inner_half_depth + 55) < 12
    woman = paint_phantom(HEALTHY, replace(anatomy(), male=False), FINE, stream(1, 1, Stage.NOISE)).volume
    assert np.any(woman[:, outside] > -200)
    assert not np.any(painted().volume[:, outside] > -200)
    drawn = [draw_anatomy(stream(1, index, Stage.GEOMETRY), male=True) for index in range(400)]
    assert np.mean([one.arms_down for one in drawn]) == pytest.approx(0.1, abs=0.05)
    beside = np.abs(coordinates(FINE, 0) - 184) < 4
    down = paint_phantom(HEALTHY, replace(anatomy(), arms_down=True), FINE, stream(1, 1, Stage.NOISE)).volume
    middle = np.abs(coordinates(FINE, 1)) < 100
    assert np.any(down[10][middle][:, beside] > 300)
    assert not np.any(painted().volume[10][middle][:, beside] > -500)


def test_s22_lungs_have_fissures_and_trees_of_tapered_vessels() -> None:
    tree = vessels(anatomy())
    assert 30 <= len(tree) <= 60
    assert all(shape[7] < shape[6] for shape in tree)  # tapered
    assert {shape[6] for shape in tree} == {2.4, 1.7, 1.1}
    assert len(fissures(anatomy())) == 3  # two oblique ones, and the horizontal one of the right lung
    assert fissures(anatomy())[2][0] < 0
    fine = Grid((-190.0, -140.0, -155.0), (2.0, 2.0, 2.0), (191, 166, 156))
    phantom = painted(fine)
    inside = phantom.volume[phantom.lung]
    assert 0.01 < np.mean(inside > -700) < 0.08
    assert np.any(inside > 0)


def test_s23_contrast_brightens_vessels_chambers_and_liver() -> None:
    given = Contrast("pulmonary", venous=350.0, arterial=200.0, muscle=100.0, liver=110.0, spleen=120.0)
    bright = paint_phantom(HEALTHY, replace(anatomy(), contrast=given), FINE, stream(1, 1, Stage.NOISE)).volume
    plain = painted().volume
    z, y, x = (int(np.argmin(np.abs(coordinates(FINE, axis) - value))) for axis, value in ((2, -130), (1, 0), (0, -70)))
    assert (plain[z, y, x], bright[z, y, x]) == (pytest.approx(60, abs=2), pytest.approx(110, abs=2))
    heart = (np.abs(coordinates(FINE, 2) + 42) < 8)[:, None, None] & np.ones(plain.shape, dtype=bool)
    chambers = np.histogram(bright[heart], bins=[90, 110, 190, 210, 340, 360])[0]
    assert chambers[0] > 50  # muscle
    assert chambers[2] > 50  # left heart
    assert chambers[4] > 50  # right heart
    parameters = read_parameters("small")
    drawn = [draw_acquisition(parameters, index, 0, male=True).anatomy.contrast for index in range(300)]
    given_to = [one for one in drawn if one.phase != "none"]
    assert {one.phase for one in given_to} == {"pulmonary", "arterial", "portal"}
    assert all(150 <= one.venous <= 400 and 150 <= one.arterial <= 400 and one.liver == 110 for one in given_to)
    assert all((one.venous, one.arterial, one.liver) == (40, 40, 60) for one in drawn if one.phase == "none")


@pytest.mark.parametrize("size", [(64, 64, 32), (96, 96, 48)])
def test_s23_volumes_are_those_of_the_truth_on_every_grid(size: tuple[int, int, int]) -> None:
    columns, rows, slices = size
    spacing = (384.0 / columns, 384.0 / rows, 312.0 / slices)
    grid = centred(spacing, size, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    for effusion, consolidation, emphysema in ((120.0, 80.0, 3.0), (1400.0, 0.0, 0.0), (0.0, 550.0, 40.0)):
        phantom = painted(grid, effusion=effusion, consolidation=consolidation, emphysema=emphysema)
        shell = 0.5 * grid.voxel_ml
        assert phantom.num_effusion * grid.voxel_ml == pytest.approx(effusion, abs=shell)
        assert phantom.num_consolidation * grid.voxel_ml == pytest.approx(consolidation, abs=shell)
        dark = np.count_nonzero(phantom.volume[phantom.lung] <= -975)
        free = np.count_nonzero(phantom.lung) - phantom.num_effusion - phantom.num_consolidation
        assert dark / free == pytest.approx(emphysema / 100, rel=0.05, abs=1 / free)


def test_s24_bodies_differ_within_their_bounds_whatever_the_latents() -> None:
    drawn = [draw_anatomy(stream(1, index, Stage.GEOMETRY), male=True) for index in range(500)]
    assert max(abs(one.rotation) for one in drawn) <= np.radians(5)
    assert max(np.hypot(*one.offset) for one in drawn) <= 15
    assert {one.num_ribs for one in drawn} == {11, 12, 13}
    for name in ("width", "depth", "tilt", "breath", "fat", "lung_height", "lung_hu"):
        assert np.std([getattr(one, name) for one in drawn]) > 0, name
    parameters = read_parameters("small")
    persons = [draw_person(parameters, index) for index in range(400)]
    made = [draw_acquisition(parameters, one.index, 0, male=one.male).anatomy for one in persons]
    for name in ("width", "tilt", "breath", "fat", "lung_height", "lung_hu"):
        values = [getattr(one, name) for one in made]
        for column in np.array([np.concatenate([one.z, one.u]) for one in persons]).T:
            assert pearsonr(values, column).pvalue > 0.0005, name
