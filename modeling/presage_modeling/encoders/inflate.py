r"""Two-dimensional convolutions become three-dimensional ones, so that a 3D network can start from 2D weights.

Pure functions on tensors. An image's rows become Y and its columns X; the new axis Z is the last. Shape suffixes: O =
output channels, I = input channels, H W = rows and columns of the 2D kernel, X Y Z = taps of the 3D kernel.

References
----------
.. [1] Carreira, J., Zisserman, A. Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset. CVPR 2017.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Inflation = Literal["repeat", "centre"]
Mixing = Literal["sum", "mean"]


def inflate(weight_OIHW: Tensor, depth: int, how: Inflation = "repeat") -> Tensor:
    """Return a 3D kernel whose sum over depth is the 2D kernel.

    Parameters
    ----------
    weight_OIHW : Tensor, shape = (O, I, H, W)
        Weight of a 2D convolution.
    depth : int
        Taps along Z, odd.
    how : {'repeat', 'centre'}
        `repeat` copies along depth and divides by depth: on a volume that is constant along Z the result is the 2D one
        wherever the kernel does not reach over the border. `centre` sets the middle tap alone: the 2D result on every
        slice.

    Returns
    -------
    Tensor, shape = (O, I, X, Y, Z)

    Raises
    ------
    ValueError
        If the weight is not that of a 2D convolution, or depth is even or below 1.
    """
    if weight_OIHW.ndim != 4:
        raise ValueError(f"expected a weight of shape (O, I, H, W), found {tuple(weight_OIHW.shape)}")
    if depth < 1 or depth % 2 == 0:
        raise ValueError(f"expected an odd depth, found {depth}")
    flat_OIXY1 = weight_OIHW.transpose(2, 3).unsqueeze(-1)
    if how == "repeat":
        return (flat_OIXY1 / depth).expand(*flat_OIXY1.shape[:4], depth).contiguous()
    inflated = torch.zeros(*flat_OIXY1.shape[:4], depth, dtype=weight_OIHW.dtype)
    inflated[..., depth // 2 : depth // 2 + 1] = flat_OIXY1
    return inflated


def mix_channels(weight: Tensor, num_channels: int, how: Mixing = "sum") -> Tensor:
    """Return the first kernel of a network for another number of input channels.

    `sum` gives what the network would say of a grey image that fills all its input channels, whatever their number:
    each new channel carries the sum of the old ones divided by `num_channels`. `mean` divides by the old number too.
    """
    whole = weight.sum(dim=1, keepdim=True)
    if how == "mean":
        whole = whole / weight.shape[1]
    return (whole / num_channels).expand(weight.shape[0], num_channels, *weight.shape[2:]).contiguous()


def pad_depth(weight_OIZYX: Tensor, depth: int) -> Tensor:
    """Return a depth-first 3D kernel with depth as its last axis, its taps in the middle of `depth` and zeros around.

    Shape (O, I, Z, Y, X) becomes (O, I, X, Y, depth); the convolution says the same on every slice.
    """
    missing = depth - weight_OIZYX.shape[2]
    if missing < 0 or missing % 2:
        raise ValueError(f"a kernel of depth {weight_OIZYX.shape[2]} does not stand in the middle of {depth}")
    last_OIXYZ = weight_OIZYX.permute(0, 1, 4, 3, 2)
    return torch.nn.functional.pad(last_OIXYZ, (missing // 2, missing // 2)).contiguous()
