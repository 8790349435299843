"""Augmentation and windows: the same for a study wherever it turns up, and geometrically right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from presage_modeling.augment import (
    WINDOWS_HU,
    AugmentationRecipe,
    Draws,
    Windows,
    affine_matrices,
    augment,
    resample,
    volumes_to_device,
)

SPACING = (2.0, 3.0, 5.0)
EVERYTHING = AugmentationRecipe(
    rotation_deg=15,
    scale_range=0.1,
    translation_mm=8,
    allowed_flips=("LR",),
    noise_hu=30,
    shift_hu=20,
    contrast_range=0.1,
    noise_probability=0.7,
    rotation_probability=0.5,
)


def phantom(number: int = 3) -> torch.Tensor:
    return torch.randn(number, 12, 10, 8, generator=torch.Generator().manual_seed(number)) * 300


def moved(volumes: torch.Tensor, ids: list[int], epoch: int = 4) -> torch.Tensor:
    draws = Draws(1, epoch, np.array(ids))
    return augment(volumes, EVERYTHING, draws, spacing_mm=SPACING, pad_hu=-1024.0)


def test_m17_stored_volumes_come_out_in_x_y_z_order() -> None:
    stored = torch.arange(2 * 3 * 4 * 5, dtype=torch.int16).view(2, 3, 4, 5)
    volumes = volumes_to_device(stored, torch.device("cpu"))
    assert volumes.shape == (2, 5, 4, 3) and volumes.dtype == torch.float32
    assert volumes[1, 4, 2, 0] == stored[1, 0, 2, 4]


def test_m17_windows_are_channels_between_zero_and_one() -> None:
    names = ("lung", "soft_tissue", "full")
    volumes = torch.tensor([-3000.0, -1000.0, -600.0, 40.0, 3000.0]).view(1, 5, 1, 1)
    windowed = Windows(names)(volumes)[0, :, :, 0, 0]
    for channel, name in enumerate(names):
        low, high = WINDOWS_HU[name]
        expected = ((volumes.flatten() - low) / (high - low)).clamp(0, 1)
        torch.testing.assert_close(windowed[channel], expected)


def test_m17_the_buffer_fits_batches_of_any_size() -> None:
    windows = Windows(("full", "lung"))
    first = windows(phantom(3)).clone()
    assert windows(phantom(2)).shape == (2, 2, 12, 10, 8)
    assert torch.equal(windows(phantom(3)), first)


def test_m19_a_study_is_moved_alike_in_any_batch() -> None:
    volumes = phantom()
    together = moved(volumes, [11, 22, 33])
    for row, study in enumerate([11, 22, 33]):
        assert torch.equal(moved(volumes[[row]], [study])[0], together[row])
    backwards = moved(volumes.flip(0), [33, 22, 11])
    assert torch.equal(backwards.flip(0), together)


def test_m19_another_epoch_moves_it_otherwise() -> None:
    assert not torch.equal(moved(phantom(), [1, 2, 3], epoch=0), moved(phantom(), [1, 2, 3], epoch=1))


def test_m19_identity_ranges_return_the_input_bit_for_bit() -> None:
    volumes = phantom()
    draws = Draws(0, 0, np.array([1, 2, 3]))
    assert augment(volumes, AugmentationRecipe(), draws, spacing_mm=SPACING, pad_hu=-1024.0) is volumes


@pytest.mark.parametrize("shift_mm", [(4.0, 0.0, 0.0), (0.0, -6.0, 0.0), (2.0, 3.0, 10.0)])
def test_m19_a_known_translation_moves_a_landmark(shift_mm: tuple[float, float, float]) -> None:
    volumes = torch.full((1, 12, 10, 8), -1024.0)
    volumes[0, 6, 5, 4] = 1000.0
    matrix = np.eye(4)
    matrix[:3, 3] = shift_mm  # output to input: the mark moves the other way
    out = resample(volumes, matrix[None], spacing_mm=SPACING, pad_hu=-1024.0)
    found = np.unravel_index(int(out[0].argmax()), out.shape[1:])
    expected = np.array([6, 5, 4]) - np.array(shift_mm) / np.array(SPACING)
    assert np.abs(np.array(found) - expected).max() <= 0.5


def test_m19_a_quarter_turn_about_z_takes_x_to_y_in_millimetres() -> None:
    volumes = torch.full((1, 12, 12, 3), -1024.0)
    volumes[0, 9, 5:7, 1] = 1000.0  # 7 mm from the centre along x at 2 mm
    matrix = np.eye(4)
    matrix[:2, :2] = [[0, 1], [-1, 0]]
    out = resample(volumes, matrix[None], spacing_mm=(2.0, 2.0, 1.0), pad_hu=-1024.0)[0, :, :, 1]
    assert (out[5:7, 9] > 900).all() or (out[5:7, 2] > 900).all()
    assert out[9, 5] < 0


def test_m18_a_flip_along_lr_exchanges_the_sides() -> None:
    volumes = torch.zeros(1, 12, 10, 8)
    volumes[:, :3] = 500.0
    matrices = affine_matrices(
        AugmentationRecipe(allowed_flips=("LR",), flip_probability=1.0), Draws(0, 0, np.array([5])), batch=1
    )
    out = resample(volumes, matrices, spacing_mm=SPACING, pad_hu=-1024.0)
    torch.testing.assert_close(out, volumes.flip(1))


def test_m18_no_flip_happens_by_default() -> None:
    matrices = affine_matrices(AugmentationRecipe(rotation_deg=5), Draws(0, 0, np.arange(200)), batch=200)
    assert (np.linalg.det(matrices[:, :3, :3]) > 0).all()


def test_m18_noise_is_standard_normal_times_its_range() -> None:
    recipe = AugmentationRecipe(noise_hu=10.0)
    draws = Draws(0, 0, np.arange(4))
    noise = augment(torch.zeros(4, 32, 32, 32), recipe, draws, spacing_mm=SPACING, pad_hu=0.0)
    wanted = 10.0 * np.abs(draws.signed("noise"))
    np.testing.assert_allclose(noise.std(dim=(1, 2, 3)).numpy(), wanted, rtol=0.03)
    assert noise.mean().abs() < 0.1
    assert torch.corrcoef(noise.view(4, -1))[0, 1].abs() < 0.03
