"""The `encoder` table of a recipe that names the Swin transformer of SwinUNETR."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from presage_platform.settings import Section


class SwinUNETRRecipe(Section):
    """The encoder of SwinUNETR; the decoder is never built."""

    name: Literal["swinunetr"]
    feature_size: int = Field(default=48, ge=12, multiple_of=12)
    feature: Literal["bottleneck", "multi_scale"] = "bottleneck"
    window: int = Field(default=7, ge=2)

    @property
    def total_stride(self) -> tuple[int, int, int]:
        """Voxels of the input behind one token of the last stage."""
        return 32, 32, 32
