"""What training, embedding and adaptation know of an encoder, and nothing more.

Shape suffixes: B = studies, C = input channels, X Y Z = voxels (RAS), N = tokens, D = feature width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from presage_modeling.encoders.densenet_recipe import DenseNetRecipe
from presage_modeling.encoders.resnet_recipe import ResNetRecipe
from presage_modeling.encoders.swinunetr_recipe import SwinUNETRRecipe

AnyEncoderRecipe = ResNetRecipe | SwinUNETRRecipe | DenseNetRecipe
EncoderRecipe = Annotated[AnyEncoderRecipe, Field(discriminator="name")]


@dataclass(frozen=True, slots=True)
class Features:
    """What an encoder says of a batch: `pooled_BD` in float32, and on request the map it was pooled from.

    `tokens_BND` lists the cells of the last map, in the order of `grid` (X, Y, Z cells, Z fastest).
    """

    pooled_BD: Tensor  # noqa: N815 - shape suffix
    tokens_BND: Tensor | None  # noqa: N815
    grid: tuple[int, int, int]


class Encoder(nn.Module, ABC):
    """A 3D network without its classifier.

    Attributes
    ----------
    width : int
        D, the number of pooled features.
    total_stride : tuple of int
        Input sides must be multiples of it.
    stages : tuple of str
        Names of the submodules that follow each other, the units of activation checkpointing.
    """

    width: int
    total_stride: tuple[int, int, int]
    stages: tuple[str, ...]

    @abstractmethod
    def forward_features(self, x_BCXYZ: Tensor, *, tokens: bool = False) -> Features:
        """Return the pooled features of a batch."""

    def forward(self, x_BCXYZ: Tensor) -> Tensor:
        """Return the pooled features, shape = (B, D), float32."""
        return self.forward_features(x_BCXYZ).pooled_BD


def build_encoder(recipe: AnyEncoderRecipe, num_channels: int) -> Encoder:
    """Return the freshly initialised encoder that a recipe names; torch's generator decides the values."""
    if isinstance(recipe, ResNetRecipe):
        from presage_modeling.encoders.resnet import ResNetEncoder

        return ResNetEncoder(recipe, num_channels)
    if isinstance(recipe, DenseNetRecipe):
        from presage_modeling.encoders.densenet import DenseNetEncoder

        return DenseNetEncoder(recipe, num_channels)
    from presage_modeling.encoders.swinunetr import PaperSwinUNETREncoder, SwinUNETREncoder

    kind = PaperSwinUNETREncoder if recipe.feature == "paper" else SwinUNETREncoder
    return kind(recipe, num_channels)


def tokens_of(map_BDXYZ: Tensor) -> Tensor:
    """Return the cells of a feature map as tokens, shape = (B, N, D)."""
    return map_BDXYZ.flatten(2).transpose(1, 2)


def grid_of(map_BDXYZ: Tensor) -> tuple[int, int, int]:
    """Return the number of cells along X, Y and Z."""
    x, y, z = map_BDXYZ.shape[2:]
    return int(x), int(y), int(z)
