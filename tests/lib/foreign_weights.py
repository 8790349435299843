"""Fabricated state dicts with the key names and shapes of published weight files; the values are noise."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

DENSE_BLOCKS = (6, 12, 24, 16)
RES_BLOCKS = (3, 8, 36, 3)
Shapes = Iterator[tuple[str, tuple[int, ...]]]


def fabricate(shapes: Shapes, prefix: str = "", *, meta: bool = False) -> dict[str, Tensor]:
    """Return tensors of these names and shapes; `meta` ones have no content."""
    if meta:
        return {prefix + name: torch.empty(shape, device="meta") for name, shape in shapes}
    draw = torch.Generator().manual_seed(4)
    state: dict[str, Tensor] = {}
    for name, shape in shapes:
        counts = name.endswith("num_batches_tracked")
        state[prefix + name] = torch.tensor(7) if counts else torch.randn(shape, generator=draw) * 0.05
        if name.endswith("running_var"):
            state[prefix + name] = state[prefix + name].abs() + 0.5
    return state


def norm(name: str, width: int) -> Shapes:
    """The five tensors of a batch norm."""
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (width,)
    yield f"{name}.num_batches_tracked", ()


def densenet121(*, depth: int | None = None, old_names: bool = False) -> Shapes:
    """DenseNet-121 as torchvision names it; `depth` 1 = inflated, depth first; old files write norm.1 for norm1."""
    dot = "." if old_names else ""
    deep = () if depth is None else (depth,)
    yield "features.conv0.weight", (64, 3, *deep, 7, 7)
    yield from norm("features.norm0", 64)
    width = 64
    for block, layers in enumerate(DENSE_BLOCKS, start=1):
        for layer in range(1, layers + 1):
            name = f"features.denseblock{block}.denselayer{layer}"
            yield from norm(f"{name}.norm{dot}1", width)
            yield f"{name}.conv{dot}1.weight", (128, width, *deep, 1, 1)
            yield from norm(f"{name}.norm{dot}2", 128)
            yield f"{name}.conv{dot}2.weight", (32, 128, *deep, 3, 3)
            width += 32
        if block < len(DENSE_BLOCKS):
            yield from norm(f"features.transition{block}.norm", width)
            yield f"features.transition{block}.conv.weight", (width // 2, width, *deep, 1, 1)
            width //= 2
    yield from norm("features.norm5", width)
    yield "classifier.weight", (1000, width)
    yield "classifier.bias", (1000,)


def resnet152(*, deep: bool = False) -> Shapes:
    """ResNet-152 as torchvision names it; `deep` = inflated, depth first, depth 3 where the kernel is wide."""

    def kernel(size: int) -> tuple[int, ...]:
        return (*((min(size, 3),) if deep else ()), size, size)

    yield "conv1.weight", (64, 3, *kernel(7))
    yield from norm("bn1", 64)
    into = 64
    for stage, blocks in enumerate(RES_BLOCKS, start=1):
        width = 32 * 2**stage
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            for number, (a, b, size) in enumerate(
                ((into, width, 1), (width, width, 3), (width, 4 * width, 1)), start=1
            ):
                yield f"{name}.conv{number}.weight", (b, a, *kernel(size))
                yield from norm(f"{name}.bn{number}", b)
            if block == 0:
                yield f"{name}.downsample.0.weight", (4 * width, into, *kernel(1))
                yield from norm(f"{name}.downsample.1", 4 * width)
            into = 4 * width
    yield "fc.weight", (1000, into)
    yield "fc.bias", (1000,)


def swin_blocks(feature_size: int = 48) -> Shapes:
    """The Swin transformer of SwinUNETR, as its self-supervised release names it (`fc1` for what is now `linear1`)."""
    yield "patch_embed.proj.weight", (feature_size, 1, 2, 2, 2)
    yield "patch_embed.proj.bias", (feature_size,)
    for stage, heads in enumerate((3, 6, 12, 24), start=1):
        width = feature_size * 2 ** (stage - 1)
        for block in range(2):
            name = f"layers{stage}.0.blocks.{block}"
            for part in ("norm1", "norm2"):
                yield f"{name}.{part}.weight", (width,)
                yield f"{name}.{part}.bias", (width,)
            yield f"{name}.attn.relative_position_bias_table", (13**3, heads)
            yield f"{name}.attn.relative_position_index", (343, 343)
            for part, rows, columns in (("attn.qkv", 3 * width, width), ("attn.proj", width, width),
                                        ("mlp.fc1", 4 * width, width), ("mlp.fc2", width, 4 * width)):  # fmt: skip
                yield f"{name}.{part}.weight", (rows, columns)
                yield f"{name}.{part}.bias", (rows,)
        yield f"layers{stage}.0.downsample.reduction.weight", (2 * width, 8 * width)
        yield f"layers{stage}.0.downsample.norm.weight", (8 * width,)
        yield f"layers{stage}.0.downsample.norm.bias", (8 * width,)


def swinvit() -> Shapes:
    """The release with the heads of its self-supervised tasks."""
    yield from swin_blocks()
    for head in ("rotation_head", "contrastive_head"):
        yield f"{head}.weight", (4, 768)
        yield f"{head}.bias", (4,)
    yield "norm.weight", (768,)
    yield "norm.bias", (768,)
