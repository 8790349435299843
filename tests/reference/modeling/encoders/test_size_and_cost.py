"""Parameters and floating-point operations of every encoder against published figures (rules M24, M25, M27, M31).

Operations are two for each multiply-add, forward, one volume of one channel; networks stand on the meta device, so that
nothing is computed. A release of MONAI that changes a number fails here on purpose.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from presage_modeling.encoders.densenet_recipe import DenseNetRecipe
from presage_modeling.encoders.interface import build_encoder
from presage_modeling.encoders.resnet_recipe import ResNetRecipe
from presage_modeling.encoders.swinunetr_recipe import SwinUNETRRecipe

SHAPES = ((96, 96, 96), (224, 224, 160), (224, 224, 224))
TABLE = {
    "swinunetr with its decoder": (62_205_426, (0.6685, 6.0298, 8.4212)),
    "swinunetr paper": (62_205_426, (0.6359, 5.7338, 8.0069)),
    "swinunetr bottleneck": (8_062_002, (0.0499, 0.4163, 0.5624)),
    "densenet121": (11_242_624, (0.0362, 0.3285, 0.4598)),
    "resnet152 stem 1": (117_363_776, (0.5748, 5.2161, 7.3026)),
    "resnet152 stem 2": (117_363_776, (0.0719, 0.6520, 0.9128)),
}


def network(name: str) -> nn.Module:
    if name == "swinunetr with its decoder":
        paper = build_encoder(SwinUNETRRecipe(name="swinunetr", feature="paper"), 1)
        return paper.get_submodule("net")
    recipes = {
        "swinunetr paper": SwinUNETRRecipe(name="swinunetr", feature="paper"),
        "swinunetr bottleneck": SwinUNETRRecipe(name="swinunetr"),
        "densenet121": DenseNetRecipe(name="densenet121"),
        "resnet152 stem 1": ResNetRecipe(name="resnet152", stem_stride=(1, 1, 1), bias_downsample=True),
        "resnet152 stem 2": ResNetRecipe(name="resnet152", bias_downsample=True),
    }
    return build_encoder(recipes[name], 1)


@pytest.mark.parametrize("name", TABLE)
def test_m31_parameters_and_operations(name: str) -> None:
    parameters, operations = TABLE[name]
    encoder = network(name).to("meta")
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters
    for shape, expected in zip(SHAPES, operations, strict=True):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            encoder(torch.empty(1, 1, *shape, device="meta"))
        assert counter.get_total_flops() / 1e12 == pytest.approx(expected, rel=0.005, abs=6e-5)
