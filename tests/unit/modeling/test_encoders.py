"""The contract that every encoder keeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from presage_modeling.encoders.densenet_recipe import DenseNetRecipe
from presage_modeling.encoders.interface import Encoder, build_encoder
from presage_modeling.encoders.resnet_recipe import ResNetRecipe
from presage_modeling.encoders.swinunetr import PaperSwinUNETREncoder
from presage_modeling.encoders.swinunetr_recipe import SwinUNETRRecipe
from presage_modeling.recipe import read_recipe

SMALL = {"widths": (4, 4, 8, 8), "stem_kernel": 3}
CASES = {
    "resnet10": (ResNetRecipe(name="resnet10", **SMALL), 2, 8),
    "resnet10_group_max": (
        ResNetRecipe(name="resnet10", norm="group", feature="mean_max", stem_pool=False, **SMALL),
        1,
        16,
    ),
    "swinunetr": (SwinUNETRRecipe(name="swinunetr", feature_size=12, window=4), 1, 192),
    "swinunetr_multi_scale": (
        SwinUNETRRecipe(name="swinunetr", feature_size=12, window=4, feature="multi_scale"),
        1,
        372,
    ),
    "swinunetr_paper": (
        SwinUNETRRecipe(name="swinunetr", feature_size=12, window=4, feature="paper", paper_width=20),
        1,
        20,
    ),
    "densenet121": (DenseNetRecipe(name="densenet121"), 1, 1024),
    "resnet152": (ResNetRecipe(name="resnet152", **SMALL), 1, 32),
}


@pytest.fixture(params=CASES, scope="module")
def encoder(request: pytest.FixtureRequest) -> tuple[Encoder, int, int]:
    recipe, channels, width = CASES[request.param]
    torch.manual_seed(0)
    return build_encoder(recipe, channels), channels, width


def volumes(channels: int, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, channels, 64, 32, 32, generator=torch.Generator().manual_seed(1))


def test_m22_features_have_the_declared_shape_and_type(encoder: tuple[Encoder, int, int]) -> None:
    network, channels, width = encoder
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = network.eval().forward_features(volumes(channels), tokens=True)
    assert network.width == width
    assert features.pooled_BD.shape == (2, width) and features.pooled_BD.dtype == torch.float32
    assert features.grid == tuple(
        side // stride for side, stride in zip((64, 32, 32), network.total_stride, strict=True)
    )
    assert features.tokens_BND is not None
    assert features.tokens_BND.shape[:2] == (2, features.grid[0] * features.grid[1] * features.grid[2])


def test_m22_eval_is_deterministic_and_rows_are_independent(encoder: tuple[Encoder, int, int]) -> None:
    network, channels, _ = encoder
    network.eval()
    with torch.no_grad():
        together = network(volumes(channels))
        assert torch.equal(network(volumes(channels)), together)
        for row in range(2):
            # Untrained and 152 layers deep, features are in the hundreds: 1e-5 is of their scale.
            scale = max(1.0, float(together.abs().max()))
            torch.testing.assert_close(
                network(volumes(channels)[[row]])[0], together[row], rtol=1e-5, atol=1e-5 * scale
            )


def test_m22_a_gradient_reaches_every_parameter(encoder: tuple[Encoder, int, int]) -> None:
    network, channels, width = encoder
    network.train()
    network.zero_grad()
    (
        network(volumes(channels)) @ torch.randn(width, generator=torch.Generator().manual_seed(2))
    ).square().sum().backward()
    starved = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert starved == []


def test_m22_the_state_travels(encoder: tuple[Encoder, int, int]) -> None:
    network, channels, _ = encoder
    recipe = next(recipe for recipe, c, w in CASES.values() if (c, w) == (channels, network.width))
    other = build_encoder(recipe, channels)
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(other.eval()(volumes(channels)), network.eval()(volumes(channels)))


def test_m23_networks_are_monais(encoder: tuple[Encoder, int, int]) -> None:
    """Every layer is torch's or MONAI's; the encoder around them holds no parameter of its own."""
    network, _, _ = encoder
    assert list(network.parameters(recurse=False)) == []
    origins = {type(module).__module__.split(".")[0] for module in network.modules() if module is not network}
    assert origins == {"torch", "monai"}


def test_m23_the_swin_encoder_is_that_of_monais_whole_network() -> None:
    from monai.networks.nets import SwinUNETR

    torch.manual_seed(3)
    whole = SwinUNETR(in_channels=1, out_channels=2, feature_size=12).eval()
    network = build_encoder(SwinUNETRRecipe(name="swinunetr", feature_size=12), 1).eval()
    network.get_submodule("swin").load_state_dict(whole.swinViT.state_dict())
    with torch.no_grad():
        expected = whole.swinViT(volumes(1), whole.normalize)[-1].mean((2, 3, 4))
        torch.testing.assert_close(network(volumes(1)), expected, rtol=1e-5, atol=1e-6)


def test_m27_the_resnet_encoder_is_monais_resnet_averaged_after_its_last_relu() -> None:
    """Stem stride 2 by default; the convolutions of the shortcuts have no bias."""
    from monai.networks.nets.resnet import ResNet

    torch.manual_seed(3)
    whole = ResNet("basic", [1] * 4, [4, 4, 8, 8], n_input_channels=2, conv1_t_size=3, conv1_t_stride=2,
                   feed_forward=False, bias_downsample=False).eval()  # fmt: skip
    network = build_encoder(ResNetRecipe(name="resnet10", **SMALL), 2).eval()
    stem = {"conv1": "stem.0", "bn1": "stem.1"}
    state = whole.state_dict().items()
    network.load_state_dict({f"{stem.get(n.split('.')[0], n.split('.')[0])}.{n.split('.', 1)[1]}": t for n, t in state})
    with torch.no_grad():
        features = network.forward_features(volumes(2), tokens=True)
        torch.testing.assert_close(features.pooled_BD, whole(volumes(2)), rtol=1e-5, atol=1e-6)
    assert features.tokens_BND is not None and features.tokens_BND.min() >= 0
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv3d)]
    assert len(convolutions) == 12 and all(module.bias is None for module in convolutions)


def test_m24_stages_are_modules_of_the_encoder(encoder: tuple[Encoder, int, int]) -> None:
    assert all(encoder[0].get_submodule(stage) is not None for stage in encoder[0].stages)


def test_m31_parameter_counts_of_the_shipped_encoders() -> None:
    def count(name: str) -> int:
        recipe = read_recipe(name)
        network = build_encoder(recipe.encoder, len(recipe.input.windows))
        return sum(parameter.numel() for parameter in network.parameters())

    assert count("swinunetr") == 8_062_002
    assert count("tiny") == 898_656


def test_m25_the_paper_feature_is_the_mean_of_the_decoders_output() -> None:
    """Mean and 1×1×1 convolution commute: values and gradients in float64 to 1e-12, values in float32 to 1e-5."""
    recipe = SwinUNETRRecipe(name="swinunetr", feature_size=12, window=4, feature="paper", paper_width=20)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        torch.manual_seed(5)
        network = PaperSwinUNETREncoder(recipe, 1).to(dtype).eval()
        x = volumes(1)[:1].to(dtype)
        found = _value_and_gradients(network, x, _pooled64)
        expected = _value_and_gradients(network, x, lambda network, x: network.net(x).mean((2, 3, 4)))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * 10)


def _value_and_gradients(
    network: PaperSwinUNETREncoder,
    x_BCXYZ: torch.Tensor,
    way: Callable[[PaperSwinUNETREncoder, torch.Tensor], torch.Tensor],
) -> list[torch.Tensor]:
    leaf = x_BCXYZ.clone().requires_grad_()
    network.zero_grad()
    out = way(network, leaf)
    (out * torch.linspace(-1, 1, out.shape[1], dtype=out.dtype)).sum().backward()
    weight = network.net.out.conv.conv.weight
    assert weight.grad is not None and leaf.grad is not None
    return [out.detach(), leaf.grad, weight.grad.clone()]


def _pooled64(network: PaperSwinUNETREncoder, x_BCXYZ: torch.Tensor) -> torch.Tensor:
    """The encoder's own arithmetic without its last cast to float32."""
    maps = network.net.swinViT(x_BCXYZ, network.net.normalize)
    return network.net.out(network._decoded(x_BCXYZ, maps).mean((2, 3, 4), keepdim=True)).flatten(1)


def test_m25_the_full_resolution_output_is_never_made() -> None:
    recipe = SwinUNETRRecipe(name="swinunetr", feature_size=12, window=4, feature="paper", paper_width=20)
    network = PaperSwinUNETREncoder(recipe, 1).eval()

    def refuse(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        assert arguments[0].shape[2:] == (1, 1, 1)

    seen = network.net.out.register_forward_pre_hook(refuse)
    network(volumes(1)[:1])
    seen.remove()


def test_m26_the_paper_features_have_at_most_the_rank_of_the_map_before_them() -> None:
    recipe = SwinUNETRRecipe(name="swinunetr", feature_size=12, window=4, feature="paper", paper_width=20)
    torch.manual_seed(6)
    network = PaperSwinUNETREncoder(recipe, 1).eval()
    last = network.net.out.conv.conv
    with torch.no_grad():
        features = network(volumes(1)) - last.bias
        columns = torch.linalg.qr(last.weight.flatten(1))[0]  # 20 x 12: what the features can reach
        torch.testing.assert_close(features @ columns @ columns.T, features, rtol=1e-4, atol=1e-5)
    assert columns.shape == (20, 12) and features.abs().max() > 0.01


def test_m27_densenet_is_monais_averaged_after_a_relu() -> None:
    from monai.networks.nets.densenet import DenseNet121

    torch.manual_seed(3)
    whole = DenseNet121(spatial_dims=3, in_channels=1, out_channels=2).eval()
    network = build_encoder(DenseNetRecipe(name="densenet121"), 1).eval()
    network.get_submodule("features").load_state_dict(whole.features.state_dict())
    with torch.no_grad():
        x = volumes(1)
        expected = whole.class_layers.flatten(whole.class_layers.pool(whole.class_layers.relu(whole.features(x))))
        torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-6)


def test_m28_frozen_batch_norm_keeps_its_statistics_and_still_learns() -> None:
    recipe = ResNetRecipe(name="resnet10", norm="frozen_batch", weights="some", **SMALL)
    torch.manual_seed(4)
    network = build_encoder(recipe, 1).train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    training = network(volumes(1))
    training.square().sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    assert torch.equal(network.eval()(volumes(1)), training)
    assert all(parameter.grad is not None for parameter in network.parameters())
    with pytest.raises(ValueError, match="frozen_batch"):
        ResNetRecipe(name="resnet10", norm="frozen_batch")
    with pytest.raises(ValueError, match="frozen_batch"):
        DenseNetRecipe(name="densenet121", norm="frozen_batch")


def test_m24_no_decoder_is_built() -> None:
    recipe, channels, _ = CASES["swinunetr"]
    names = {name for name, _ in build_encoder(recipe, channels).named_modules()}
    assert not any("decoder" in name or "out" in name.split(".")[-1:] for name in names)
