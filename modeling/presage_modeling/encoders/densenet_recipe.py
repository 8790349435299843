"""The `encoder` table of a recipe that names a densely connected network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from presage_modeling.encoders.resnet_recipe import check_frozen_batch
from presage_platform.settings import Section


class DenseNetRecipe(Section):
    """DenseNet-121, its last map pooled over space."""

    name: Literal["densenet121"]
    dropout: float = Field(default=0.0, ge=0, lt=1)
    norm: Literal["batch", "group", "frozen_batch"] = "batch"
    weights: str | None = None

    @model_validator(mode="after")
    def _has_statistics(self) -> DenseNetRecipe:
        check_frozen_batch(self.norm, self.weights)
        return self

    @property
    def total_stride(self) -> tuple[int, int, int]:
        """Voxels of the input behind one cell of the last map."""
        return 32, 32, 32
