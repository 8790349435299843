"""The arms of pretraining behind one interface: what is predicted, how it is scored, where a head starts.

`base` trains nothing: its run holds the initial encoder, the yardstick of every other arm. `multitask` learns the
downstream outcomes as binary labels, `visit` the codes of the visit that holds the scan, and `time_to_event` the first
occurrence of each task after the scan. The loop knows no arm by name.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor, nn

from presage_modeling.binary_objectives import multitask_objective, visit_objective
from presage_modeling.data import Part
from presage_modeling.targets import LabelRows, check_rates, edges_tensor, load_label_rows
from presage_modeling.time_to_event import (
    HeadRecipe,
    SparseTargets,
    TimeToEventHead,
    chunked_negative_log_likelihood,
    clamped_share,
    negative_log_likelihood,
)
from presage_platform.errors import LabelStoreError
from presage_platform.labeling.store import LabelStore, Risk
from presage_platform.settings import Section

ARMS = ("base", "multitask", "visit", "time_to_event")


class ObjectiveRecipe(Section):
    """`[objective]`: the arm, how its loss is averaged, and (multitask) the horizons of outcomes without a window."""

    arm: Literal["base", "multitask", "visit", "time_to_event"] = "time_to_event"
    risk: Risk = "next"
    reduction: Literal["pairs", "mean"] = "pairs"
    horizons_days: tuple[float, ...] = Field(default=(30.0, 180.0, 365.0), min_length=1)

    @field_validator("horizons_days")
    @classmethod
    def _positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if min(values) <= 0:
            raise ValueError("expected days above 0")
        return values


class Objective(Protocol):
    """What the training loop knows of an arm."""

    trains: bool

    def build_head(self, width: int) -> nn.Module:
        """Return the freshly initialised head on an encoder of this width."""

    def targets(self, split: str, positions: NDArray[np.int64]) -> Any:
        """Return the targets of some studies of a split: this arm's own kind, with a method `to(device)`."""

    def loss(self, head: nn.Module, features_BD: Tensor, targets: Any) -> tuple[Tensor, float]:
        """Return the loss summed over pairs, float64, and the share of logits that were clamped."""

    def divisor(self, split: str, positions: NDArray[np.int64]) -> float:
        """Return what the summed loss of these studies is divided by; known before a forward pass."""

    def null_loss(self, split: str) -> float | None:
        """Return the loss of a model that knows only base rates; None for a split without studies."""

    def density(self) -> dict[str, float]:
        """Return positives and informative pairs a training study (`…_per_study`); empty without targets."""


class Base:
    """No training: the initial encoder as it stands."""

    trains = False

    def build_head(self, width: int) -> nn.Module:
        """Return a head without parameters."""
        return nn.Identity()

    def targets(self, split: str, positions: NDArray[np.int64]) -> SparseTargets:
        """Refuse: this arm has no targets."""
        raise LabelStoreError("arm base has no targets: it takes no training step")

    def loss(self, head: nn.Module, features_BD: Tensor, targets: SparseTargets) -> tuple[Tensor, float]:
        """Refuse: this arm has no loss."""
        raise LabelStoreError("arm base has no loss: it takes no training step")

    def divisor(self, split: str, positions: NDArray[np.int64]) -> float:
        """Return 1: nothing is summed."""
        return 1.0

    def null_loss(self, split: str) -> float | None:
        """Return None: there is no loss."""
        return None

    def density(self) -> dict[str, float]:
        """Return nothing: there are no targets."""
        return {}


class TimeToEvent:
    """First occurrence of each of K tasks after the scan, by piecewise-constant hazards."""

    trains = True

    def __init__(
        self,
        labels: LabelStore,
        parts: dict[str, Part],
        recipe: ObjectiveRecipe,
        head: HeadRecipe,
        device: torch.device,
    ) -> None:
        bins = labels.bins
        check_rates(bins.rate_per_s, labels.num_tasks)
        self.recipe, self.head_recipe = recipe, head
        self.rate_per_second: NDArray[np.float64] = bins.rate_per_s
        self.edges_s = edges_tensor(bins.edges_s).to(device)
        self.num_bins = len(self.edges_s) - 1
        self.rows = {
            split: load_label_rows(labels, part.row, part.study_id, recipe.risk)
            for split, part in parts.items()
            if len(part)
        }
        if len(self.rows["train"].event_task) == 0:
            raise LabelStoreError(
                f"label store: {len(parts['train'])} training studies and no event among {labels.num_tasks} tasks, "
                "expected some: follow longer or choose other tasks"
            )
        self.task_weight_K = self._task_weights(bins.num_events, device)

    def build_head(self, width: int) -> nn.Module:
        """Return the head, its biases at the log2 rates of the training split."""
        recipe = self.head_recipe
        return TimeToEventHead(
            width,
            torch.from_numpy(self.rate_per_second),
            num_bins=self.num_bins,
            rank=recipe.rank,
            norm=recipe.norm == "layer",
            zero_init=recipe.init == "zero",
            rate_init=recipe.rate_init,
        )

    def targets(self, split: str, positions: NDArray[np.int64]) -> SparseTargets:
        """Return the events and follow-up of some studies of a split."""
        return self.rows[split].targets(positions)

    def loss(self, head: nn.Module, features_BD: Tensor, targets: SparseTargets) -> tuple[Tensor, float]:
        """Return the summed negative log-likelihood and the share of clamped logits (0 when logits are chunked)."""
        assert isinstance(head, TimeToEventHead)
        if self.head_recipe.chunk_tasks is None:
            logits_BTK = head(features_BD)
            loss = negative_log_likelihood(logits_BTK, targets, self.edges_s, self.task_weight_K)
            return loss, clamped_share(logits_BTK.detach())
        loss = chunked_negative_log_likelihood(
            head.basis(features_BD),
            head.tasks_FK,
            head.bias_K,
            targets,
            self.edges_s,
            chunk_tasks=self.head_recipe.chunk_tasks,
            task_weight_K=self.task_weight_K,
        )
        return loss, 0.0

    def divisor(self, split: str, positions: NDArray[np.int64]) -> float:
        """Return the pairs at risk, times the bins for the reduction `mean`."""
        bins = self.num_bins if self.recipe.reduction == "mean" else 1
        return float(self.rows[split].pair_count(positions) * bins)

    def null_loss(self, split: str) -> float | None:
        """Return the mean loss of constant rates over a split."""
        rows: LabelRows | None = self.rows.get(split)
        if rows is None:
            return None
        divisor = self.divisor(split, np.arange(len(rows.study_id)))
        return rows.null_loss(self.rate_per_second) / divisor if divisor else None

    def density(self) -> dict[str, float]:
        """Return events and pairs at risk a training study."""
        train = self.rows["train"]
        everyone = np.arange(len(train.study_id))
        return {
            "positives_per_study": len(train.event_task) / max(len(everyone), 1),
            "informative_pairs_per_study": train.pair_count(everyone) / max(len(everyone), 1),
        }

    def _task_weights(self, num_events: NDArray[np.int64], device: torch.device) -> Tensor | None:
        if self.head_recipe.task_weights == "none":
            return None
        weight = torch.from_numpy(1.0 / np.sqrt(np.maximum(num_events, 1))).float().to(device)
        return weight / weight.mean()


def build_objective(
    labels: LabelStore, parts: dict[str, Part], recipe: ObjectiveRecipe, head: HeadRecipe, device: torch.device
) -> Objective:
    """Return the arm that a recipe names."""
    if recipe.arm == "base":
        return Base()
    if recipe.arm == "visit":
        return visit_objective(labels, parts, head)
    if recipe.arm == "multitask":
        return multitask_objective(labels, parts, head, recipe.horizons_days)
    return TimeToEvent(labels, parts, recipe, head, device)
