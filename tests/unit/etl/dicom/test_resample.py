"""Native volume to recipe grid: golden bytes, centres that stay, one interpolation, windows and masks."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from itertools import permutations, product

import numpy as np
import pytest

from presage_etl.dicom.body import find_body
from presage_etl.dicom.resample import apply_recipe, axis_weights, orient_to_ras
from presage_platform.volumes.recipe import named_recipe
from tests.lib.volumes import Source, phantom, small_recipe

GOLDEN = {
    "native": "bc3300cadfbb5f3656086f9823666a6661b2fec47bfeab7bde6a098389908540",
    "tiny": "d6228773a7f5b420d51ffaded9eb3a2c950af4c7115480b5018c94423f71dc41",
    "presage": "f9345ebe9e25fded3174745c970671d069aedd8e70d3ab9f9b7ee2d6c6b29ad1",
}


def world(affine: np.ndarray, zyx: np.ndarray) -> np.ndarray:
    return affine[:3, :3] @ zyx[::-1] + affine[:3, 3]


def centroid_mm(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Centre of mass above air, in patient millimetres."""
    mass = array.astype(np.float64) + 1000
    places = np.stack(np.meshgrid(*(np.arange(n) for n in array.shape), indexing="ij"), axis=-1)
    return world(affine, (places * mass[..., None]).sum(axis=(0, 1, 2)) / mass.sum())


@pytest.mark.parametrize("name", GOLDEN)
def test_i59_named_recipes_give_golden_bytes(name: str) -> None:
    volume = apply_recipe(phantom(), named_recipe(name))
    content = volume.array.tobytes() + (np.round(volume.affine_ras, 6) + 0.0).tobytes()
    assert sha256(content).hexdigest() == GOLDEN[name]


@pytest.mark.parametrize("place", [(6, 30, 10), (17, 8, 37), (11, 20, 24)])
@pytest.mark.parametrize("spacing", [(1.5, 1.5, 2.0), (5.0, 4.0, 7.0)])
def test_i57_a_blob_keeps_its_place_in_the_patient(place: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    source = phantom()
    z, y, x = np.ogrid[:24, :40, :48]
    squared = ((z - place[0]) * 3) ** 2 + ((y - place[1]) * 2) ** 2 + ((x - place[2]) * 2) ** 2
    blob = np.rint(-1000 + 2000 * np.exp(-squared / (2 * 5.0**2))).astype(np.int16)
    source = replace(source, array=blob)
    volume = apply_recipe(source, small_recipe(spacing_mm=spacing, antialias=True, shape=None, crop="none"))
    before, after = centroid_mm(source.array, source.affine_ras), centroid_mm(volume.array, volume.affine_ras)
    assert np.linalg.norm(after - before) < 0.3


def test_i57_the_grid_keeps_the_centre_of_the_extent_and_has_the_rounded_size() -> None:
    source = phantom((11, 17, 23))
    volume = apply_recipe(source, small_recipe(spacing_mm=(1.7, 2.9, 4.1), shape=None, crop="none"))
    assert volume.array.shape == (round(11 * 3 / 4.1), round(17 * 2 / 2.9), round(23 * 2 / 1.7))
    old = world(source.affine_ras, (np.array([11, 17, 23]) - 1) / 2)
    new = world(volume.affine_ras, (np.array(volume.array.shape) - 1) / 2)
    assert np.allclose(old, new, atol=1e-9)


def test_i57_a_linear_ramp_stays_a_linear_ramp_in_millimetres() -> None:
    z, y, x = np.meshgrid(*(np.arange(n) for n in (12, 15, 18)), indexing="ij")
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    source = Source((10 * x + 20 * y + 30 * z).astype(np.int16), affine)
    volume = apply_recipe(source, small_recipe(spacing_mm=(1.3, 3.1, 2.2), antialias=False, shape=None, crop="none"))
    zz, yy, xx = np.meshgrid(*(np.arange(n) for n in volume.array.shape), indexing="ij")
    mm = volume.affine_ras[:3, :3] @ np.stack([xx, yy, zz]).reshape(3, -1) + volume.affine_ras[:3, 3:]
    expected = (10 * mm[0] / 2 + 20 * mm[1] / 2 + 30 * mm[2] / 3).reshape(volume.array.shape)
    inner = tuple(slice(1, -1) for _ in range(3))
    assert np.abs(volume.array[inner] - expected[inner]).max() <= 0.5 + 1e-6


def test_i57_smoothing_before_shrinking_has_the_declared_width() -> None:
    factor = 4.0
    weights = axis_weights(401, 1.0, factor, antialias=True).toarray()
    assert np.allclose(weights.sum(axis=1), 1)
    row = weights[weights.shape[0] // 2]
    places = np.arange(401)
    mean = (row * places).sum()
    variance = (row * (places - mean) ** 2).sum()
    assert variance == pytest.approx(0.25 * (factor**2 - 1), rel=0.05)
    growing = axis_weights(20, 4.0, 1.0, antialias=True)
    assert (growing != axis_weights(20, 4.0, 1.0, antialias=False)).nnz == 0  # an axis that grows is not smoothed


def test_i57_interpolating_once_equals_scipy_on_the_same_grid() -> None:
    from scipy.ndimage import map_coordinates

    rng = np.random.default_rng(2)
    source = Source(rng.integers(-1000, 1000, (9, 10, 11)).astype(np.int16), np.diag([1.0, 1.0, 1.0, 1.0]))
    volume = apply_recipe(source, small_recipe(spacing_mm=(0.7, 0.8, 0.9), antialias=False, shape=None, crop="none"))
    axes = []
    for size, number, step in zip(source.array.shape, volume.array.shape, (0.9, 0.8, 0.7), strict=True):
        axes.append((size - 1) / 2 + (np.arange(number) - (number - 1) / 2) * step)
    grid = np.meshgrid(*axes, indexing="ij")
    expected = map_coordinates(source.array.astype(np.float64), grid, order=1, mode="nearest")
    assert np.abs(volume.array - expected).max() <= 0.5 + 1e-4


def test_i57_outside_the_source_is_the_pad_value_and_not_the_border() -> None:
    source = Source(np.full((4, 4, 4), 500, np.int16), np.diag([6.0, 6.0, 10.0, 1.0]))
    volume = apply_recipe(source, small_recipe(shape=(8, 8, 8), pad_value=-2000))
    assert set(np.unique(volume.array)) == {-2000, 500}
    assert (volume.array == 500).sum() == 64 and volume.mask is not None
    assert np.array_equal(volume.mask, volume.array == 500)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_i59_orientation_is_permutation_and_flips_only(order: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    array = rng.integers(-1000, 1000, (3, 4, 5)).astype(np.int16)
    for signs in product((-1.0, 1.0), repeat=3):
        affine = np.eye(4)
        affine[:3, :3] = np.eye(3)[:, list(order)] * np.array(signs) * np.array([1.5, 2.5, 3.5])
        affine[:3, 3] = (7.0, -8.0, 9.0)
        moved, _, moved_affine = orient_to_ras(array, None, affine)
        assert np.all(np.diag(moved_affine)[:3] > 0)
        assert np.count_nonzero(np.round(moved_affine[:3, :3], 12)) == 3
        for _ in range(5):
            place = np.array([rng.integers(n) for n in array.shape])
            mm = world(affine, place)
            xyz = np.rint(np.linalg.solve(moved_affine[:3, :3], mm - moved_affine[:3, 3])).astype(int)
            assert moved[tuple(xyz[::-1])] == array[tuple(place)]


def test_i59_native_changes_no_voxel() -> None:
    source = phantom()
    volume = apply_recipe(source, named_recipe("native"))
    assert np.array_equal(volume.array, source.array[:, ::-1, ::-1])
    assert volume.mask is None and np.all(np.diag(volume.affine_ras)[:3] == (2.0, 2.0, 3.0))


def test_i56_values_are_clipped_and_not_windowed() -> None:
    source = Source(np.full((4, 5, 6), 4000, np.int16), np.diag([6.0, 6.0, 10.0, 1.0]))
    assert apply_recipe(source, named_recipe("tiny")).array.max() == 3071
    source = Source(np.full((4, 5, 6), 1500, np.int16), np.diag([1.5, 1.5, 2.0, 1.0]))
    assert apply_recipe(source, named_recipe("presage")).array.max() == 1500


def test_i45_padded_voxels_stay_out_of_the_mask() -> None:
    source = phantom()
    valid = np.ones(source.array.shape, bool)
    valid[:, :, :8] = False
    volume = apply_recipe(
        replace(source, valid=valid), small_recipe(spacing_mm=(4.0, 4.0, 6.0), shape=None, crop="none")
    )
    assert volume.mask is not None
    assert 0.8 < volume.mask.mean() < 0.87  # 8 of 48 columns are missing
    assert not volume.mask[:, :, -3:].any() and volume.mask[:, :, :-5].all()


def body_volume(table: bool = True, height: int = 90) -> np.ndarray:
    """A trunk off centre; behind it (towards posterior: low y) a wide thin table."""
    array = np.full((20, 100, 120), -1000, np.int16)
    array[2:18, 100 - height : 98, 40:100] = 30
    if table:
        array[:, 2:5, 5:118] = 200
    return array


def test_i58_the_body_is_the_largest_component_without_the_table() -> None:
    body = find_body(body_volume(height=80), None, 1.5)
    assert body is not None
    assert [(part.start, part.stop) for part in body.box] == [(2, 18), (20, 98), (40, 100)]
    wide_table = body_volume(height=60)
    wide_table[2:18, :, :] = np.where(wide_table[2:18] == 30, -1000, wide_table[2:18])
    wide_table[8:12, 45:95, 60:80] = 30  # a small body above a table that has more voxels
    found = find_body(wide_table, None, 1.5)
    assert found is not None and found.box[1].start == 45


def test_i58_specks_and_thin_sheets_are_no_body() -> None:
    array = np.full((20, 30, 30), -1000, np.int16)
    array[4, 5, 6] = 500
    array[10:12, 10:20, 10:20] = 100  # two voxels thin: gone after the opening
    assert find_body(array, None, 1.0) is None


def test_i58_the_window_is_centred_on_the_body_and_tells_what_it_cuts() -> None:
    source = Source(body_volume(), np.diag([1.0, 1.0, 1.0, 1.0]))
    recipe = small_recipe(spacing_mm=(1.0, 1.0, 1.0), crop="body", shape=(70, 100, 20))
    volume = apply_recipe(source, recipe)
    assert volume.body_cut_fraction == 0.0 and volume.reasons == ()
    body = np.argwhere(volume.array == 30)
    assert np.all(np.abs(body.mean(axis=0) - (np.array(volume.array.shape) - 1) / 2) <= 0.5)
    half = apply_recipe(source, small_recipe(spacing_mm=(1.0, 1.0, 1.0), crop="body", shape=(30, 100, 20)))
    assert half.body_cut_fraction == pytest.approx(0.5) and half.reasons[0].startswith("body_cut: 50.0 %")


def test_i58_without_a_body_the_centre_is_taken_and_said() -> None:
    source = Source(np.full((9, 9, 9), -1000, np.int16), np.diag([1.0, 1.0, 1.0, 1.0]))
    volume = apply_recipe(source, small_recipe(spacing_mm=(1.0, 1.0, 1.0), crop="body", shape=(3, 3, 3)))
    assert volume.reasons == ("no_body",) and volume.body_cut_fraction is None
    assert np.allclose(volume.affine_ras[:3, 3], 3.0)
