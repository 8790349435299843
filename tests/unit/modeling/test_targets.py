"""From label rows to the tensors of the loss, and the refusal of what cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from presage_modeling.targets import LabelRows, check_rates, edges_tensor, load_label_rows
from presage_modeling.time_to_event import FOREVER_S, negative_log_likelihood
from presage_platform.errors import LabelStoreError
from presage_platform.labeling.store import LabelStore
from tests.lib.cohort import DAY
from tests.lib.labels import Study, small_store

STUDIES = [
    Study(11, end_s=500 * DAY, entry_s=DAY, events={0: 40 * DAY, 2: 90 * DAY}, prevalent=[2]),
    Study(12, end_s=100 * DAY),
    Study(13, end_s=900 * DAY, events={1: 900 * DAY}, prevalent=[0, 2]),
]


def rows_of(folder: Path, risk: Any, studies: list[Study] | None = None) -> tuple[LabelStore, LabelRows]:
    store = LabelStore.open(small_store(folder, studies or STUDIES, num_tasks=3))
    ids = np.array([study.study_id for study in studies or STUDIES])
    return store, load_label_rows(store, np.arange(len(ids)), ids, risk)


def pairs(row: torch.Tensor, task: torch.Tensor) -> list[tuple[int, int]]:
    return list(zip(row.tolist(), task.tolist(), strict=True))


def test_m48_prevalent_tasks_stay_under_next(tmp_path: Path) -> None:
    _, rows = rows_of(tmp_path, "next")
    targets = rows.targets(np.array([2, 0]))
    assert targets.event_row.tolist() == [0, 1, 1] and targets.event_task.tolist() == [1, 0, 2]
    assert targets.event_time_s.tolist() == [900 * DAY, 40 * DAY, 90 * DAY]
    assert len(targets.excluded_task) == 0 and rows.pair_count(np.array([0, 1, 2])) == 9
    assert targets.entry_s.tolist() == [0, DAY] and targets.end_s.tolist() == [900 * DAY, 500 * DAY]


def test_m48_prevalent_tasks_leave_under_incident_with_their_next_event(tmp_path: Path) -> None:
    _, rows = rows_of(tmp_path, "incident")
    targets = rows.targets(np.array([0, 2, 1]))
    assert pairs(targets.event_row, targets.event_task) == [(0, 0), (1, 1)]
    assert pairs(targets.excluded_row, targets.excluded_task) == [(0, 2), (1, 0), (1, 2)]
    assert targets.pair_count == rows.pair_count(np.array([0, 2, 1])) == 6


@pytest.mark.parametrize("risk", ["next", "incident"])
def test_m64_the_null_loss_is_that_of_constant_rates(tmp_path: Path, risk: str) -> None:
    store, rows = rows_of(tmp_path, risk)
    edges_s = edges_tensor(store.bins.edges_s)
    z_K = torch.log2(torch.from_numpy(store.bins.rate_per_s) * 31_557_600)
    logits = z_K.expand(3, len(edges_s) - 1, 3).contiguous()
    loss = negative_log_likelihood(logits, rows.targets(np.arange(3)), edges_s)
    assert rows.null_loss(store.bins.rate_per_s) == pytest.approx(loss.item(), rel=1e-12)


def damaged(batch: Any, **changes: Any) -> Any:
    return replace(batch, **changes)


DAMAGE = [
    (lambda b: damaged(b, time=np.where(b.task == 2, 500 * DAY + 1, b.time)), "after the end of follow-up", 11, 2),
    (lambda b: damaged(b, time=np.where(b.task == 0, DAY, b.time)), "at or before the start of risk", 11, 0),
    (lambda b: damaged(b, task=np.where(b.task == 2, 0, b.task)), "that is there twice", 11, 0),
    (lambda b: damaged(b, task=np.where(b.task == 2, 7, b.task)), "of a task that does not exist", 11, 7),
    (lambda b: damaged(b, task=np.array([2, 0, 1], dtype=np.uint16)), "out of order", 11, 0),
]


@pytest.mark.parametrize(("change", "said", "study", "task"), DAMAGE, ids=[case[1] for case in DAMAGE])
def test_m48_an_impossible_event_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, said: str, study: int, task: int
) -> None:
    store = LabelStore.open(small_store(tmp_path, STUDIES, num_tasks=3))
    batch = change(store.rows([0, 1, 2]))
    monkeypatch.setattr(LabelStore, "rows", lambda *_, **__: batch)
    with pytest.raises(LabelStoreError, match=f"1 events {said} .first: study {study}, task {task}"):
        load_label_rows(store, np.arange(3), np.array([11, 12, 13]), "next")


def test_m48_a_masked_study_in_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelStoreError, match="study 12 is masked"):
        rows_of(tmp_path, "next", [STUDIES[0], replace(STUDIES[1], mask=2)])


@pytest.mark.parametrize("rate", [0.0, -1e-9, np.nan, np.inf])
def test_m40_a_rate_without_logarithm_is_refused(rate: float) -> None:
    with pytest.raises(LabelStoreError, match="no positive rate"):
        check_rates(np.array([1e-9, rate]), 2)


def test_no_task_is_refused() -> None:
    with pytest.raises(LabelStoreError, match="0 tasks"):
        check_rates(np.empty(0), 0)


def test_m39_edges_are_whole_seconds() -> None:
    assert edges_tensor(np.array([0.0, 86_400.0, np.inf])).tolist() == [0, 86_400, FOREVER_S]


@pytest.mark.parametrize("edges", [[0.0, 5.0, 5.0, np.inf], [0.0, 5.0], [1.0, np.inf], [0.0, np.nan, np.inf], [0.0]])
def test_m39_broken_edges_are_refused(edges: list[float]) -> None:
    with pytest.raises(LabelStoreError, match="bin edges"):
        edges_tensor(np.array(edges))
