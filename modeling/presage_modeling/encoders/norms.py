"""What batch norm becomes where batches are small: group norm, or the frozen statistics of imported weights."""

from __future__ import annotations

from torch import Tensor, nn

GROUPS = 8


class FrozenBatchNorm3d(nn.BatchNorm3d):
    """Batch norm that keeps its running statistics in training too; its scale and shift still learn."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the running statistics, in float32 whatever the input's type."""
        return nn.functional.batch_norm(
            x.float(), self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        ).to(x.dtype)


def replace_batch_norm(module: nn.Module, norm: str) -> None:
    """Replace every batch norm below a module by `group` or `frozen_batch`; `batch` leaves them."""
    if norm == "batch":
        return
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm3d):
            setattr(module, name, _replacement(child.num_features, norm))
        else:
            replace_batch_norm(child, norm)


def _replacement(width: int, norm: str) -> nn.Module:
    if norm == "frozen_batch":
        return FrozenBatchNorm3d(width)
    return nn.GroupNorm(GROUPS if width % GROUPS == 0 else 1, width)
