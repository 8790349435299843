"""Binary targets: where a head starts, what is unknown, and which labels are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from presage_modeling.binary import BinaryHead, BinaryLabels, cross_entropy, prevalences
from presage_modeling.binary_objectives import BinaryObjective, outcome_labels, visit_labels
from presage_modeling.data import Part
from presage_modeling.time_to_event import HeadRecipe
from presage_platform.errors import LabelStoreError
from presage_platform.labeling.store import LabelStore
from tests.lib.labels import Study, add_outcome, small_store

DAY = 86_400
YEAR = 31_557_600


def labels(seed: int = 0, number: int = 40) -> BinaryLabels:
    draw = np.random.default_rng(seed)
    known = draw.random((number, 5)) < 0.8
    positive = (draw.random((number, 5)) < [0.0, 0.1, 0.5, 0.9, 1.0]) & known
    positive[:, 4] = known[:, 4]
    return BinaryLabels(positive, known)


def entropy(q: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(-(q * np.log(q) + (1 - q) * np.log(1 - q)))


def test_m61_the_first_loss_is_the_entropy_of_the_prevalences() -> None:
    """Whatever the features; columns that never or always occur teach nothing and take no part."""
    train = labels()
    objective = BinaryObjective({"train": train}, HeadRecipe(rank=4), "visit")
    q = prevalences(train)
    inside = (q > 0) & (q < 1)
    assert inside.tolist() == [False, True, True, True, False]
    expected = float((entropy(q[inside]) * train.known[:, inside].sum(axis=0)).sum() / train.known[:, inside].sum())
    everyone = np.arange(40)
    torch.manual_seed(0)
    head = objective.build_head(7)
    summed, _ = objective.loss(head, torch.randn(40, 7), objective.targets("train", everyone))
    assert summed.item() / objective.divisor("train", everyone) == pytest.approx(expected, rel=1e-6)
    assert objective.null_loss("train") == pytest.approx(expected, rel=1e-12)
    assert objective.null_loss("valid") is None


def test_m61_the_loss_is_that_of_logits() -> None:
    """A logit of 3 for a positive costs ln(1 + e^-3); a sigmoid before the loss would make it far larger."""
    one = BinaryLabels(np.array([[True, False]]), np.array([[True, True]])).targets(np.array([0]))
    expected = np.log1p(np.exp(-3.0)) + np.log1p(np.exp(-2.0))
    assert cross_entropy(torch.tensor([[3.0, -2.0]]), one).item() == pytest.approx(expected, rel=1e-6)


def test_m62_unknown_entries_cost_and_move_nothing() -> None:
    train = labels()
    head = BinaryHead(3, prevalences(train), HeadRecipe(rank=2, init="linear"))
    features = torch.randn(40, 3)
    targets = train.targets(np.arange(40))
    logits = head(features).detach().requires_grad_()
    cross_entropy(logits, targets).backward()
    assert logits.grad is not None
    assert (logits.grad[~targets.known_BC] == 0).all() and (logits.grad[targets.known_BC] != 0).all()


@pytest.mark.parametrize(
    ("positive", "known"),
    [
        (np.array([[np.nan]]), np.array([[True]])),
        (np.array([[True]]), np.array([[1]])),
        (np.array([[True, False]]), np.array([[True]])),
        (np.array([[True]]), np.array([[False]])),
    ],
    ids=["NaN", "mask of numbers", "another width", "unknown and positive"],
)
def test_m62_labels_that_are_not_a_masked_truth_are_refused(
    positive: NDArray[np.generic], known: NDArray[np.generic]
) -> None:
    with pytest.raises(LabelStoreError):
        BinaryLabels(positive, known)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    studies = [
        Study(1, end_s=2 * YEAR, visit=[0, 2]),
        Study(2, end_s=YEAR // 4, visit=[]),
        Study(3, end_s=2 * YEAR, visit=[2], events={0: YEAR}),
        Study(4, end_s=2 * YEAR, visit=[1], events={1: YEAR, 2: YEAR}),
    ]
    path = small_store(tmp_path, studies, num_tasks=3)
    add_outcome(
        path, "early", {1: (None, 2 * YEAR), 2: (None, YEAR // 4), 3: (10 * DAY, 2 * YEAR), 4: (YEAR, 2 * YEAR)}
    )
    window = {1: 1, 2: None, 3: 0, 4: 1}
    add_outcome(path, "windowed", {study: (None, YEAR) for study in range(1, 5)}, window)
    return LabelStore.open(path)


def part(*rows: int) -> Part:
    row = np.array(rows)
    return Part(study_id=row + 1, person_id=row + 1, row=row, volume_id=[str(r) for r in rows])


def test_m59_visit_codes_are_those_of_the_visit_that_holds_the_scan(store: LabelStore) -> None:
    found = visit_labels(store, part(0, 1, 3))
    assert found.positive.astype(int).tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert found.known.all()


def test_m59_outcomes_censored_before_the_horizon_are_unknown_and_never_negative(store: LabelStore) -> None:
    """One column a horizon for a time, one for a window; study 2 is followed for 91 days."""
    found = outcome_labels(store, part(0, 1, 2, 3), (30.0, 180.0))
    assert found.positive.astype(int).tolist() == [[0, 0, 1], [0, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert found.known.astype(int).tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 1], [1, 1, 1]]


def test_m59_a_store_without_outcomes_or_variation_cannot_train_the_arm(tmp_path: Path) -> None:
    path = small_store(tmp_path, [Study(1, end_s=YEAR), Study(2, end_s=YEAR, events={0: DAY})], num_tasks=1)
    with pytest.raises(LabelStoreError, match="no outcomes"):
        outcome_labels(LabelStore.open(path), part(0, 1), (30.0,))
    never = visit_labels(LabelStore.open(path), part(0, 1))
    with pytest.raises(LabelStoreError, match="none of 1 columns varies"):
        BinaryObjective({"train": never}, HeadRecipe(rank=2), "visit")
