"""The `encoder` table of a recipe that names a residual network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from presage_platform.settings import Section

Triple = tuple[int, int, int]


class ResNetRecipe(Section):
    """A 3D residual network, its last map pooled over space: ResNet-10 (basic blocks) or ResNet-152 (bottlenecks)."""

    name: Literal["resnet10", "resnet152"]
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    stem_kernel: int = Field(default=7, ge=3, le=9)
    stem_stride: Triple = (2, 2, 2)
    stem_pool: bool = True
    bias_downsample: bool = False
    norm: Literal["batch", "group", "frozen_batch"] = "batch"
    feature: Literal["mean", "mean_max"] = "mean"
    weights: str | None = None

    @field_validator("widths", "stem_stride")
    @classmethod
    def _positive(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if min(values) < 1:
            raise ValueError("expected whole numbers above 0")
        return values

    @field_validator("stem_kernel")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("expected an odd number of voxels")
        return value

    @model_validator(mode="after")
    def _has_statistics(self) -> ResNetRecipe:
        check_frozen_batch(self.norm, self.weights)
        return self

    @property
    def total_stride(self) -> Triple:
        """Voxels of the input behind one cell of the last map."""
        x, y, z = (stride * (2 if self.stem_pool else 1) * 8 for stride in self.stem_stride)
        return x, y, z


def check_frozen_batch(norm: str, weights: str | None) -> None:
    """Refuse running statistics of weights that nobody imported."""
    if norm == "frozen_batch" and weights is None:
        raise ValueError(
            "norm frozen_batch keeps the statistics of imported weights, and none are named: use group, or name "
            "`weights` (platform weights import)"
        )
