"""The `encoder` table of a recipe that names the Swin transformer of SwinUNETR."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from presage_platform.settings import Section


class SwinUNETRRecipe(Section):
    """The encoder of SwinUNETR; its decoder is built for the feature `paper` only."""

    name: Literal["swinunetr"]
    feature_size: int = Field(default=48, ge=12, multiple_of=12)
    feature: Literal["bottleneck", "multi_scale", "paper"] = "bottleneck"
    paper_width: int = Field(default=384, ge=1)
    window: int = Field(default=7, ge=2)
    weights: str | None = None

    @property
    def total_stride(self) -> tuple[int, int, int]:
        """Voxels of the input behind one token of the last stage."""
        return 32, 32, 32
