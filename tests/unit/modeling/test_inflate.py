"""Inflated kernels against the 2D convolutions that they came from."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from presage_modeling.encoders.inflate import inflate, mix_channels


def image_and_weight(kernel: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(kernel)
    return torch.randn(2, 3, 12, 10, generator=draw, dtype=dtype), torch.randn(
        5, 3, kernel, kernel, generator=draw, dtype=dtype
    )


def volume(image_BCHW: torch.Tensor, slices: int) -> torch.Tensor:
    """The image on every slice, in X Y Z."""
    return image_BCHW.transpose(2, 3).unsqueeze(-1).expand(*image_BCHW.transpose(2, 3).shape, slices)


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_m29_repeated_taps_give_the_2d_result_clear_of_the_border(kernel: int) -> None:
    image, weight = image_and_weight(kernel)
    flat = F.conv2d(image, weight, padding=kernel // 2).transpose(2, 3)
    deep = F.conv3d(volume(image, 9), inflate(weight, kernel, "repeat"), padding=kernel // 2)
    edge = kernel // 2
    for z in range(edge, 9 - edge):
        torch.testing.assert_close(deep[..., z], flat, rtol=1e-5, atol=1e-5)
    if edge:
        assert not torch.allclose(deep[..., 0], flat, atol=1e-3)  # beyond the border lies nothing


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_m29_a_centre_tap_gives_the_2d_result_on_every_slice(kernel: int) -> None:
    image, weight = image_and_weight(kernel, torch.float32)
    flat = F.conv2d(image, weight, padding=kernel // 2).transpose(2, 3)
    deep = F.conv3d(volume(image, 5), inflate(weight, kernel, "centre"), padding=kernel // 2)
    for z in range(5):
        torch.testing.assert_close(deep[..., z], flat, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", ["repeat", "centre"])
def test_m29_the_sum_over_depth_is_the_2d_kernel(how: str) -> None:
    _, weight = image_and_weight(7)
    total = inflate(weight, 7, how).sum(dim=-1)  # type: ignore[arg-type]
    torch.testing.assert_close(total, weight.transpose(2, 3), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("num_channels", [1, 2, 4])
def test_m29_summed_channels_see_a_grey_image_as_before(num_channels: int) -> None:
    """A grey image copied to three channels, or the same image in every one of our channels."""
    image, weight = image_and_weight(3)
    grey = image[:, :1]
    expected = F.conv2d(grey.expand(-1, 3, -1, -1), weight)
    found = F.conv2d(grey.expand(-1, num_channels, -1, -1), mix_channels(weight, num_channels))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    mean = F.conv2d(grey.expand(-1, num_channels, -1, -1), mix_channels(weight, num_channels, "mean"))
    torch.testing.assert_close(mean, expected / 3, rtol=1e-12, atol=1e-12)


def test_m29_what_is_no_2d_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a weight of shape"):
        inflate(torch.zeros(2, 3, 3), 3)
    with pytest.raises(ValueError, match="odd depth"):
        inflate(torch.zeros(2, 3, 3, 3), 2)
