r"""Binary targets and their head: what the arms `visit` and `multitask` are trained on.

The head has the factors of the time-to-event head (:math:`M = P h + p`, :math:`z = M A + \beta`) with a single bin, and
starts where that one does: P and p at zero, β at the logit of each column's prevalence. So the first loss is exactly
the entropy of the prevalences. Nothing applies a sigmoid before the loss: heads give logits.

Shape suffixes: B = studies in the batch, C = columns (codes or outcomes), D = encoder width, F = rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

from presage_modeling.time_to_event import HeadRecipe
from presage_platform.errors import LabelStoreError


@dataclass(frozen=True, slots=True)
class BinaryTargets:
    """Labels of a batch, bool: `positive_BC`, and `known_BC`, False where nobody can know or nothing is learned."""

    positive_BC: Tensor  # noqa: N815 - shape suffix
    known_BC: Tensor  # noqa: N815

    def to(self, device: torch.device) -> BinaryTargets:
        """Return the same targets on a device."""
        return BinaryTargets(self.positive_BC.to(device), self.known_BC.to(device))


@dataclass(frozen=True, slots=True, eq=False)
class BinaryLabels:
    """Labels of the studies of one split, shape = (num_studies, C).

    Parameters
    ----------
    positive, known : bool
        A positive entry is known. A column without variation on the training split is unknown everywhere.
    """

    positive: NDArray[np.bool_]
    known: NDArray[np.bool_]

    def __post_init__(self) -> None:
        for name, array in (("positive", self.positive), ("known", self.known)):
            if array.dtype != np.bool_:
                raise LabelStoreError(f"binary labels: {name} is {array.dtype}, expected bool; NaN is no label")
        if self.positive.shape != self.known.shape:
            raise LabelStoreError(
                f"binary labels: shapes {self.positive.shape} and {self.known.shape}, expected one mask entry a label"
            )
        if (self.positive & ~self.known).any():
            raise LabelStoreError("binary labels: a positive entry is not known")

    def targets(self, positions: NDArray[np.int64]) -> BinaryTargets:
        """Return the labels of some studies."""
        return BinaryTargets(torch.from_numpy(self.positive[positions]), torch.from_numpy(self.known[positions]))

    def pair_count(self, positions: NDArray[np.int64]) -> int:
        """Return the number of known (study, column) pairs."""
        return int(self.known[positions].sum())

    def within(self, columns: NDArray[np.bool_]) -> BinaryLabels:
        """Return the labels with every other column unknown."""
        return BinaryLabels(self.positive & columns, self.known & columns)

    def null_loss(self, prevalence: NDArray[np.float64]) -> float:
        """Return the summed loss of constant probabilities, in nats."""
        q = np.where((prevalence > 0) & (prevalence < 1), prevalence, 0.5)
        num_positive = self.positive.sum(axis=0)
        num_negative = self.known.sum(axis=0) - num_positive
        return float(-(num_positive * np.log(q) + num_negative * np.log1p(-q)).sum())


def prevalences(train: BinaryLabels) -> NDArray[np.float64]:
    """Return the share of positives among the known entries of each column; 0 for a column nobody knows."""
    known = train.known.sum(axis=0)
    return np.asarray(train.positive.sum(axis=0) / np.maximum(known, 1), dtype=np.float64)


class BinaryHead(nn.Module):
    """From features to logits, shape = (B, C), float32 whatever the precision around."""

    def __init__(self, width: int, prevalence: NDArray[np.float64], recipe: HeadRecipe) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if recipe.norm == "layer" else nn.Identity()
        self.project = nn.Linear(width, recipe.rank)
        self.tasks_FK = nn.Parameter(torch.empty(recipe.rank, len(prevalence)))
        self.bias_K = nn.Parameter(torch.empty(len(prevalence)))
        nn.init.normal_(self.tasks_FK, std=1 / math.sqrt(recipe.rank))
        nn.init.uniform_(self.bias_K, -1 / math.sqrt(recipe.rank), 1 / math.sqrt(recipe.rank))
        if recipe.init == "zero":
            nn.init.zeros_(self.project.weight)
            nn.init.zeros_(self.project.bias)
        if recipe.rate_init:
            inside = (prevalence > 0) & (prevalence < 1)
            q = np.where(inside, prevalence, 0.5)
            with torch.no_grad():
                self.bias_K.copy_(torch.from_numpy(np.log(q) - np.log1p(-q)))

    def forward(self, features_BD: Tensor) -> Tensor:
        """Return the logits."""
        # as in the time-to-event head: bfloat16 is too coarse for rare columns
        with torch.autocast(device_type=features_BD.device.type, enabled=False):
            basis_BF = self.project(self.norm(features_BD.to(self.bias_K.dtype)))
            return torch.addmm(self.bias_K, basis_BF, self.tasks_FK)


def cross_entropy(logits_BC: Tensor, targets: BinaryTargets) -> Tensor:
    """Return the summed cross entropy of the known entries, float64, shape = ()."""
    each_BC = F.binary_cross_entropy_with_logits(logits_BC, targets.positive_BC.to(logits_BC.dtype), reduction="none")
    return torch.where(targets.known_BC, each_BC, torch.zeros_like(each_BC)).sum(dim=1).double().sum()
