"""What happens to a batch of Hounsfield volumes on the device: augmentation, one resampling, windows.

Nothing here is random: each parameter is a hash of (seed, epoch, study, operation), so a study gets the same transform
whatever its batch, its rank, or the number of readers. Shape suffixes: B = studies, C = windows, X Y Z = voxels (RAS).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

from presage_modeling.hashing import hash64, uniform
from presage_platform.settings import Section

WindowName = Literal["full", "lung", "parenchyma", "soft_tissue", "calcium"]
WINDOWS_HU: dict[WindowName, tuple[float, float]] = {
    "full": (-1000.0, 1000.0),
    "lung": (-1350.0, 150.0),  # level -600, width 1500: the radiologist's lung window
    "parenchyma": (-1024.0, -650.0),  # spreads emphysema (below -950) from normal lung
    "soft_tissue": (-160.0, 240.0),  # level 40, width 400
    "calcium": (100.0, 900.0),  # Agatston's threshold is 130
}
AXES = {"LR": 0, "PA": 1, "IS": 2}
OPERATIONS = {"rotation": 1, "scale": 2, "translation": 3, "flip": 4, "noise": 5, "shift": 6, "contrast": 7}

Probability = Field(default=1.0, ge=0, le=1)


class AugmentationRecipe(Section):
    """Ranges in physical units; 0 switches an operation off. Values are drawn uniformly from [-range, range]."""

    rotation_deg: float = Field(default=0.0, ge=0, le=180)
    rotation_probability: float = Probability
    scale_range: float = Field(default=0.0, ge=0, lt=1)
    scale_probability: float = Probability
    translation_mm: float = Field(default=0.0, ge=0)
    translation_probability: float = Probability
    allowed_flips: tuple[Literal["LR", "PA", "IS"], ...] = ()
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    noise_hu: float = Field(default=0.0, ge=0)
    noise_probability: float = Probability
    shift_hu: float = Field(default=0.0, ge=0)
    shift_probability: float = Probability
    contrast_range: float = Field(default=0.0, ge=0, lt=1)
    contrast_probability: float = Probability

    @property
    def spatial(self) -> bool:
        """Whether any operation moves voxels."""
        return bool(self.rotation_deg or self.scale_range or self.translation_mm or self.allowed_flips)


class Draws:
    """The numbers of one epoch for the studies of one batch."""

    def __init__(self, seed: int, epoch: int, study_ids: NDArray[np.int64]) -> None:
        self._words = (seed, epoch, study_ids)

    def signed(self, operation: str, number: int = 0) -> NDArray[np.float64]:
        """Return one value in [-1, 1) a study."""
        return 2.0 * uniform(*self._words, OPERATIONS[operation], 2 * number) - 1.0

    def happens(self, operation: str, probability: float, number: int = 0) -> NDArray[np.bool_]:
        """Return for each study whether the operation is applied."""
        return np.asarray(uniform(*self._words, OPERATIONS[operation], 2 * number + 1) < probability)

    def keys(self, operation: str) -> NDArray[np.int64]:
        """Return one 64-bit key a study, for noise by voxel."""
        return hash64(*self._words, OPERATIONS[operation]).view(np.int64)


def volumes_to_device(stored_BZYX: Tensor, device: torch.device) -> Tensor:
    """Copy stored int16 volumes (z slowest) to the device as float32 HU in X Y Z order."""
    return stored_BZYX.to(device, non_blocking=True).permute(0, 3, 2, 1).contiguous().float()


class Windows:
    """Named windows as channels, into a buffer that the next batch reuses: on a CPU fresh pages cost more than the sum.

    The result of a call is valid until the next call; a training step is over by then.
    """

    def __init__(self, names: tuple[WindowName, ...]) -> None:
        low = torch.tensor([WINDOWS_HU[name][0] for name in names])
        high = torch.tensor([WINDOWS_HU[name][1] for name in names])
        self._slope = 1.0 / (high - low)
        self._offset = -low * self._slope
        self._buffer = torch.empty(0)

    def __call__(self, hu_BXYZ: Tensor) -> Tensor:
        """Return values in [0, 1], shape = (B, C, X, Y, Z), stored channels-last."""
        shape = (*hu_BXYZ.shape, len(self._slope))
        if self._buffer.shape[1:] != shape[1:] or len(self._buffer) < shape[0] or self._buffer.device != hu_BXYZ.device:
            self._buffer = torch.empty(shape, device=hu_BXYZ.device)
        windowed = self._buffer[: shape[0]]
        torch.mul(hu_BXYZ[..., None], self._slope.to(hu_BXYZ.device), out=windowed)
        rows = windowed.view(shape[0], shape[1], -1)  # long rows: adding along an axis of four is slow
        rows += self._offset.to(hu_BXYZ.device).repeat(shape[2] * shape[3])
        return windowed.clamp_(0.0, 1.0).permute(0, 4, 1, 2, 3)


def augment(
    hu_BXYZ: Tensor, recipe: AugmentationRecipe, draws: Draws, *, spacing_mm: tuple[float, float, float], pad_hu: float
) -> Tensor:
    """Return the batch with intensities changed in HU, then moved by one affine resampling; off returns the input."""
    hu_BXYZ = _change_intensities(hu_BXYZ, recipe, draws)
    if not recipe.spatial:
        return hu_BXYZ
    matrices = affine_matrices(recipe, draws, batch=len(hu_BXYZ))
    moved = np.flatnonzero(np.any(matrices != np.eye(4), axis=(1, 2)))
    if len(moved) == 0:
        return hu_BXYZ
    rows = torch.from_numpy(moved).to(hu_BXYZ.device)
    resampled = resample(hu_BXYZ[rows], matrices[moved], spacing_mm=spacing_mm, pad_hu=pad_hu)
    return hu_BXYZ.index_copy(0, rows, resampled)


def affine_matrices(recipe: AugmentationRecipe, draws: Draws, *, batch: int) -> NDArray[np.float64]:
    """Return for each study the 4 × 4 matrix in mm about the centre that takes output to input positions."""
    matrices = np.broadcast_to(np.eye(4), (batch, 4, 4)).copy()
    if recipe.rotation_deg:
        turned = draws.happens("rotation", recipe.rotation_probability)
        for axis in range(3):
            angle = np.deg2rad(recipe.rotation_deg) * draws.signed("rotation", axis) * turned
            matrices[:, :3, :3] = matrices[:, :3, :3] @ _rotations(angle, axis)
    if recipe.scale_range:
        factor = 1.0 + recipe.scale_range * draws.signed("scale") * draws.happens("scale", recipe.scale_probability)
        matrices[:, :3, :3] *= factor[:, None, None]
    for number, name in enumerate(recipe.allowed_flips):
        flipped = draws.happens("flip", recipe.flip_probability, number)
        matrices[flipped, :3, AXES[name]] *= -1.0
    if recipe.translation_mm:
        moved = draws.happens("translation", recipe.translation_probability)
        for axis in range(3):
            matrices[:, axis, 3] = recipe.translation_mm * draws.signed("translation", axis) * moved
    return matrices


def resample(
    hu_BXYZ: Tensor, matrices: NDArray[np.float64], *, spacing_mm: tuple[float, float, float], pad_hu: float
) -> Tensor:
    """Return the volumes seen through affine matrices (mm, about the centre), trilinear, `pad_hu` outside."""
    length_mm = np.array(hu_BXYZ.shape[1:]) * np.array(spacing_mm)
    theta = matrices[:, :3, :].copy()
    theta[:, :, :3] *= length_mm[None, None, :] / length_mm[None, :, None]
    theta[:, :, 3] *= 2.0 / length_mm
    # affine_grid counts axes from the last to the first
    theta = np.concatenate([theta[:, ::-1, 2::-1], theta[:, ::-1, 3:]], axis=2)
    grid = F.affine_grid(
        torch.from_numpy(np.ascontiguousarray(theta)).to(hu_BXYZ),
        [len(hu_BXYZ), 1, *hu_BXYZ.shape[1:]],
        align_corners=False,
    )
    sampled = F.grid_sample((hu_BXYZ - pad_hu)[:, None], grid, align_corners=False)
    return sampled[:, 0] + pad_hu


def _change_intensities(hu_BXYZ: Tensor, recipe: AugmentationRecipe, draws: Draws) -> Tensor:
    if recipe.contrast_range:
        happens = draws.happens("contrast", recipe.contrast_probability)
        factor = 1.0 + recipe.contrast_range * draws.signed("contrast") * happens
        hu_BXYZ = hu_BXYZ * _column(factor, hu_BXYZ)
    if recipe.shift_hu:
        shift = recipe.shift_hu * draws.signed("shift") * draws.happens("shift", recipe.shift_probability)
        hu_BXYZ = hu_BXYZ + _column(shift, hu_BXYZ)
    if recipe.noise_hu:
        sigma = recipe.noise_hu * np.abs(draws.signed("noise")) * draws.happens("noise", recipe.noise_probability)
        hu_BXYZ = hu_BXYZ + _column(sigma, hu_BXYZ) * _gaussian(draws.keys("noise"), hu_BXYZ)
    return hu_BXYZ


def _column(values: NDArray[np.float64], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like)[:, None, None, None]


def _gaussian(keys: NDArray[np.int64], like: Tensor) -> Tensor:
    """Return standard normal numbers, one a voxel, from a hash of (study key, voxel): no generator, no loop."""
    voxel = torch.arange(like[0].numel(), device=like.device)
    state = torch.from_numpy(keys.copy()).to(like.device)[:, None] + voxel * -0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        state = (state ^ ((state >> shift) & ((1 << (64 - shift)) - 1))) * factor
    state ^= (state >> 31) & ((1 << 33) - 1)
    first = ((state & 0xFFFFFF).float() + 0.5) / 2**24
    second = ((state >> 40) & 0xFFFFFF).float() / 2**24
    normal = torch.sqrt(-2.0 * first.log()) * torch.cos(2.0 * torch.pi * second)
    return normal.view(like.shape)


def _rotations(angle: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    one, two = (a for a in range(3) if a != axis)
    matrices = np.broadcast_to(np.eye(3), (len(angle), 3, 3)).copy()
    matrices[:, one, one] = matrices[:, two, two] = np.cos(angle)
    matrices[:, one, two], matrices[:, two, one] = -np.sin(angle), np.sin(angle)
    return matrices
