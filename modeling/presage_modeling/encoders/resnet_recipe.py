"""The `encoder` table of a recipe that names a residual network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from presage_platform.settings import Section

Triple = tuple[int, int, int]


class ResNetRecipe(Section):
    """A 3D residual network with basic blocks, its last map pooled over space."""

    name: Literal["resnet10"]
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    stem_kernel: int = Field(default=7, ge=3, le=9)
    stem_stride: Triple = (2, 2, 2)
    stem_pool: bool = True
    norm: Literal["batch", "group", "frozen_batch"] = "batch"
    feature: Literal["mean", "mean_max"] = "mean"

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

    @field_validator("norm")
    @classmethod
    def _has_statistics(cls, value: str) -> str:
        if value == "frozen_batch":
            raise ValueError("frozen_batch keeps the statistics of imported weights, and none are imported: use group")
        return value

    @property
    def total_stride(self) -> Triple:
        """Voxels of the input behind one cell of the last map."""
        x, y, z = (stride * (2 if self.stem_pool else 1) * 8 for stride in self.stem_stride)
        return x, y, z
