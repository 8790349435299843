"""DenseNet-121: MONAI's features without the classifier, the last map averaged after its ReLU."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

from presage_modeling.encoders.densenet_recipe import DenseNetRecipe
from presage_modeling.encoders.interface import Encoder, Features, grid_of, tokens_of
from presage_modeling.encoders.norms import replace_batch_norm

WIDTH = 1024


class DenseNetEncoder(Encoder):
    """Stem, four dense blocks with transitions between them, pooled over space."""

    stages = ("features.denseblock1", "features.denseblock2", "features.denseblock3", "features.denseblock4")

    def __init__(self, recipe: DenseNetRecipe, num_channels: int) -> None:
        # inside: importing MONAI's networks takes seconds
        from monai.networks.nets.densenet import DenseNet

        super().__init__()
        net = DenseNet(spatial_dims=3, in_channels=num_channels, out_channels=1, dropout_prob=recipe.dropout)
        self.features = net.features  # the classifier stays behind: no gradient would reach it
        replace_batch_norm(self, recipe.norm)
        self.width = WIDTH
        self.total_stride = recipe.total_stride

    def forward_features(self, x_BCXYZ: Tensor, *, tokens: bool = False) -> Features:
        """Return the pooled features of a batch."""
        map_BDXYZ = F.relu(self.features(x_BCXYZ).float())
        return Features(map_BDXYZ.mean((2, 3, 4)), tokens_of(map_BDXYZ) if tokens else None, grid_of(map_BDXYZ))
