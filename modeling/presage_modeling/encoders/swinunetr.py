"""SwinUNETR's encoder: the Swin transformer alone, its last stage averaged over tokens.

The decoder costs fourteen times the encoder and the pooled feature does not need it, so it is never built.
"""

from __future__ import annotations

import torch
from torch import Tensor

from presage_modeling.encoders.interface import Encoder, Features, grid_of, tokens_of
from presage_modeling.encoders.swinunetr_recipe import SwinUNETRRecipe

NUM_STAGES = 5


class SwinUNETREncoder(Encoder):
    """Swin transformer with four stages; `multi_scale` concatenates the means of all five maps."""

    stages = ("swin.layers1", "swin.layers2", "swin.layers3", "swin.layers4")

    def __init__(self, recipe: SwinUNETRRecipe, num_channels: int) -> None:
        # inside: importing MONAI's networks takes seconds
        from monai.networks.nets.swin_unetr import SwinTransformer

        super().__init__()
        self.swin = SwinTransformer(
            in_chans=num_channels,
            embed_dim=recipe.feature_size,
            window_size=(recipe.window,) * 3,
            patch_size=(2, 2, 2),
            depths=(2, 2, 2, 2),
            num_heads=(3, 6, 12, 24),
        )
        self.multi_scale = recipe.feature == "multi_scale"
        widths = [recipe.feature_size * 2**stage for stage in range(NUM_STAGES)]
        self.width = sum(widths) if self.multi_scale else widths[-1]
        self.total_stride = recipe.total_stride

    def forward_features(self, x_BCXYZ: Tensor, *, tokens: bool = False) -> Features:
        """Return the pooled features of a batch."""
        maps = [stage.float() for stage in self.swin(x_BCXYZ)]
        pooled = [stage.mean((2, 3, 4)) for stage in (maps if self.multi_scale else maps[-1:])]
        last = maps[-1]
        return Features(torch.cat(pooled, dim=1), tokens_of(last) if tokens else None, grid_of(last))
