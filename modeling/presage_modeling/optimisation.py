"""The optimiser, its learning rate at each step, and when training is looked at: small pure parts of the loop."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from presage_platform.settings import Section


class OptimiserRecipe(Section):
    """`[optimiser]`: AdamW; norms, biases and the base rates of tasks do not decay."""

    name: Literal["adamw"] = "adamw"
    lr: float = Field(default=3e-4, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    # means over tens of thousands of pairs make gradients of rare tasks smaller than the usual 1e-8
    eps: float = Field(default=1e-12, gt=0)
    clip_norm: float = Field(default=1.0, gt=0)


class ScheduleRecipe(Section):
    """`[schedule]`: how long, in which steps, with which learning rate: linear warm-up, then a cosine."""

    epochs: int = Field(default=20, ge=1)
    effective_batch: int = Field(default=64, ge=1)
    warmup_steps: int = Field(default=0, ge=0)
    lr_min: float = Field(default=0.0, ge=0)
    log_every_steps: int = Field(default=10, ge=1)


class ValidationRecipe(Section):
    """`[validation]`: the loss on the valid split; early stopping exists and is off."""

    every_steps: int = Field(default=500, ge=1)
    early_stopping: bool = False
    patience: int = Field(default=5, ge=1)
    relative_improvement: float = Field(default=1e-3, ge=0)


def build_optimiser(
    modules: dict[str, nn.Module], recipe: OptimiserRecipe
) -> tuple[torch.optim.AdamW, dict[str, nn.Parameter]]:
    """Return the optimiser and its parameters by name, in the order in which it holds them."""
    named = {f"{prefix}.{name}": p for prefix, module in modules.items() for name, p in module.named_parameters()}
    decaying = {name: parameter for name, parameter in named.items() if _decays(name, parameter)}
    others = {name: parameter for name, parameter in named.items() if name not in decaying}
    groups = [
        {"params": list(decaying.values()), "weight_decay": recipe.weight_decay},
        {"params": list(others.values()), "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.lr,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.eps,
        fused=True,
    )
    return optimiser, {**decaying, **others}


def _decays(name: str, parameter: nn.Parameter) -> bool:
    # norms and biases have one axis, save the position biases of a Swin transformer, a table by name
    return parameter.ndim > 1 and "bias" not in name.rsplit(".", 1)[-1]


def learning_rate(step: int, total_steps: int, *, optimiser: OptimiserRecipe, schedule: ScheduleRecipe) -> float:
    """Return the learning rate of a global step, counted from 0."""
    if step < schedule.warmup_steps:
        return optimiser.lr * (step + 1) / schedule.warmup_steps
    span = max(total_steps - schedule.warmup_steps, 1)
    share = min((step - schedule.warmup_steps) / span, 1.0)
    return schedule.lr_min + (optimiser.lr - schedule.lr_min) * 0.5 * (1.0 + math.cos(math.pi * share))
