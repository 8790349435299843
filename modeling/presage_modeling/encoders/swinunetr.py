"""SwinUNETR's encoder: the Swin transformer alone, its last stage averaged over tokens.

The decoder costs fourteen times the encoder and the pooled feature does not need it, so it is built for one feature
only: `paper`, the mean of the decoder's full-resolution output, kept for parity with the publication.
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


class PaperSwinUNETREncoder(Encoder):
    r"""The publication's feature: the mean over all voxels of the decoder's output, without ever making that output.

    The last layer is a 1×1×1 convolution and the mean is linear, so both commute: :math:`h = W\,\mathrm{mean}(x) + b`
    with x the map of `feature_size` channels before it. It follows that the features (384 as published) have at most
    rank `feature_size` (48). Tokens are those of the transformer's last stage.
    """

    stages = ("net.swinViT.layers1", "net.swinViT.layers2", "net.swinViT.layers3", "net.swinViT.layers4")

    def __init__(self, recipe: SwinUNETRRecipe, num_channels: int) -> None:
        # inside: importing MONAI's networks takes seconds
        from monai.networks.nets.swin_unetr import SwinUNETR

        super().__init__()
        self.net = SwinUNETR(
            in_channels=num_channels,
            out_channels=recipe.paper_width,
            feature_size=recipe.feature_size,
            window_size=recipe.window,
        )
        self.width = recipe.paper_width
        self.total_stride = recipe.total_stride

    def forward_features(self, x_BCXYZ: Tensor, *, tokens: bool = False) -> Features:
        """Return the pooled features of a batch."""
        maps = self.net.swinViT(x_BCXYZ, self.net.normalize)
        last = maps[-1].float()
        mean_BD111 = self._decoded(x_BCXYZ, maps).mean((2, 3, 4), keepdim=True)
        pooled_BD = self.net.out(mean_BD111).flatten(1).float()
        return Features(pooled_BD, tokens_of(last) if tokens else None, grid_of(last))

    def _decoded(self, x_BCXYZ: Tensor, maps: list[Tensor]) -> Tensor:
        """The map of `feature_size` channels at full resolution that the last convolution would read."""
        net = self.net
        up = net.decoder5(net.encoder10(maps[4]), maps[3])
        up = net.decoder4(up, net.encoder4(maps[2]))
        up = net.decoder3(up, net.encoder3(maps[1]))
        up = net.decoder2(up, net.encoder2(maps[0]))
        decoded: Tensor = net.decoder1(up, net.encoder1(x_BCXYZ))
        return decoded
