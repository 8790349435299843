"""Residual networks: MONAI's ResNet without its classifier, kept in the memory layout that is fast on CPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from presage_modeling.encoders.interface import Encoder, Features, grid_of, tokens_of
from presage_modeling.encoders.norms import replace_batch_norm
from presage_modeling.encoders.resnet_recipe import ResNetRecipe

SHAPES = {"resnet10": ("basic", [1, 1, 1, 1], 1), "resnet152": ("bottleneck", [3, 8, 36, 3], 4)}
"""Kind of block, blocks a stage, and how much wider than its stage a block's output is."""


class ResNetEncoder(Encoder):
    """Stem, four stages of residual blocks, pooled over space.

    Weights are held channels-last: on one CPU a training step of the shipped `tiny` recipe takes half the time.
    """

    stages = ("layer1", "layer2", "layer3", "layer4")

    def __init__(self, recipe: ResNetRecipe, num_channels: int) -> None:
        # inside: importing MONAI's networks takes seconds
        from monai.networks.nets.resnet import ResNet

        super().__init__()
        block, layers, expansion = SHAPES[recipe.name]
        net = ResNet(
            block,
            layers,
            list(recipe.widths),
            n_input_channels=num_channels,
            conv1_t_size=recipe.stem_kernel,
            conv1_t_stride=recipe.stem_stride,  # type: ignore[arg-type]
            no_max_pool=not recipe.stem_pool,
            feed_forward=False,
            bias_downsample=recipe.bias_downsample,
        )
        pool = net.maxpool if recipe.stem_pool else nn.Identity()
        self.stem = nn.Sequential(net.conv1, net.bn1, net.act, pool)
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        replace_batch_norm(self, recipe.norm)
        self.with_maximum = recipe.feature == "mean_max"
        self.width = recipe.widths[-1] * expansion * (2 if self.with_maximum else 1)
        self.total_stride = recipe.total_stride
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward_features(self, x_BCXYZ: Tensor, *, tokens: bool = False) -> Features:
        """Return the pooled features of a batch."""
        map_BDXYZ = self.stem(x_BCXYZ)
        for stage in self.stages:
            map_BDXYZ = getattr(self, stage)(map_BDXYZ)
        map_BDXYZ = map_BDXYZ.float()
        pooled_BD = map_BDXYZ.mean((2, 3, 4))
        if self.with_maximum:
            pooled_BD = torch.cat([pooled_BD, map_BDXYZ.amax((2, 3, 4))], dim=1)
        return Features(pooled_BD, tokens_of(map_BDXYZ) if tokens else None, grid_of(map_BDXYZ))
