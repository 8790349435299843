"""The arms with binary targets: `visit` (codes of the scan's visit) and `multitask` (all downstream outcomes)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from presage_modeling.binary import BinaryHead, BinaryLabels, BinaryTargets, cross_entropy, prevalences
from presage_modeling.data import Part
from presage_modeling.evaluation.outcome import UNKNOWN, Outcome
from presage_modeling.time_to_event import HeadRecipe
from presage_platform.errors import LabelStoreError
from presage_platform.labeling.store import LabelStore


class BinaryObjective:
    """Cross entropy over columns that are positive, negative or unknown; a column without variation teaches nothing."""

    trains = True

    def __init__(self, labels: dict[str, BinaryLabels], head: HeadRecipe, arm: str) -> None:
        self.prevalence = prevalences(labels["train"])
        self.informative = (self.prevalence > 0) & (self.prevalence < 1)
        if not self.informative.any():
            raise LabelStoreError(
                f"arm {arm}: none of {len(self.prevalence)} columns varies among {len(labels['train'].known)} training "
                "studies, expected at least one: another arm can train on this store"
            )
        self.labels = {split: part.within(self.informative) for split, part in labels.items()}
        self.head_recipe = head

    def build_head(self, width: int) -> nn.Module:
        """Return the head, its biases at the logits of the prevalences of the training split."""
        return BinaryHead(width, self.prevalence, self.head_recipe)

    def targets(self, split: str, positions: NDArray[np.int64]) -> BinaryTargets:
        """Return the labels of some studies of a split."""
        return self.labels[split].targets(positions)

    def loss(self, head: nn.Module, features_BD: Tensor, targets: BinaryTargets) -> tuple[Tensor, float]:
        """Return the summed cross entropy; no logit is clamped."""
        return cross_entropy(head(features_BD), targets), 0.0

    def divisor(self, split: str, positions: NDArray[np.int64]) -> float:
        """Return the number of known pairs, at least 1."""
        return float(max(self.labels[split].pair_count(positions), 1))

    def null_loss(self, split: str) -> float | None:
        """Return the mean loss of constant prevalences over a split: on train, the entropy of the prevalences."""
        part = self.labels.get(split)
        if part is None:
            return None
        return part.null_loss(self.prevalence) / self.divisor(split, np.arange(len(part.known)))

    def density(self) -> dict[str, float]:
        """Return positives and informative pairs a training study."""
        train = self.labels["train"]
        number = max(len(train.known), 1)
        return {
            "positives_per_study": float(train.positive.sum() / number),
            "informative_pairs_per_study": float(train.known.sum() / number),
        }


def visit_labels(labels: LabelStore, part: Part) -> BinaryLabels:
    """Return which of the store's tasks were recorded in the visit that holds each scan; every entry is known."""
    batch = labels.rows(part.row)
    positive = np.zeros((len(part), labels.num_tasks), dtype=np.bool_)
    row = np.repeat(np.arange(len(part)), np.diff(batch.visit_indptr))
    positive[row, batch.visit_task.astype(np.int64)] = True
    return BinaryLabels(positive, np.ones_like(positive))


def outcome_labels(labels: LabelStore, part: Part, horizons_days: tuple[float, ...]) -> BinaryLabels:
    """Return the downstream outcomes of a store as columns: one a windowed task, else one a task and horizon.

    Unknown are studies that are not at risk, and those whose follow-up ends before the horizon without the event.

    Raises
    ------
    LabelStoreError
        If the store has no outcome.
    """
    if not labels.outcomes:
        raise LabelStoreError(
            f"label store {labels.label_hash} has no outcomes, and arm multitask learns from nothing else: "
            "write tasks, then `platform label`"
        )
    columns = [column for name in labels.outcomes for column in _columns(labels, name, horizons_days)]
    value = np.stack(columns, axis=1)[part.row]
    return BinaryLabels(value == 1, value != UNKNOWN)


def _columns(labels: LabelStore, name: str, horizons_days: tuple[float, ...]) -> list[NDArray[np.int8]]:
    """Columns over all studies of the store, in its order: 1, 0, or unknown."""
    view = labels.task_view(name, risk="incident")
    place = _row_of(labels, view.study_id)
    at_risk = np.asarray(view.at_risk, dtype=np.bool_)
    found = []
    if view.window_label is not None:
        values = [view.window_label[at_risk]]
    else:
        outcome = Outcome.from_labels(view)
        values = [outcome.window(days) for days in horizons_days]
    for value in values:
        column = np.full(labels.num_studies, UNKNOWN, dtype=np.int8)
        column[place[at_risk]] = value
        found.append(column)
    return found


def _row_of(labels: LabelStore, study_id: NDArray[np.int64]) -> NDArray[np.int64]:
    known = np.asarray(labels.studies.column("study_id"), dtype=np.int64)
    order = np.argsort(known)
    return np.asarray(order[np.searchsorted(known, study_id, sorter=order)], dtype=np.int64)


def visit_objective(labels: LabelStore, parts: dict[str, Part], head: HeadRecipe) -> BinaryObjective:
    """Return the arm `visit`."""
    return BinaryObjective({s: visit_labels(labels, part) for s, part in parts.items() if len(part)}, head, "visit")


def multitask_objective(
    labels: LabelStore, parts: dict[str, Part], head: HeadRecipe, horizons_days: tuple[float, ...]
) -> BinaryObjective:
    """Return the arm `multitask`."""
    columns = {s: outcome_labels(labels, part, horizons_days) for s, part in parts.items() if len(part)}
    return BinaryObjective(columns, head, "multitask")
