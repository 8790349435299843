"""From rows of a label store to the tensors of the likelihood, checked once before training starts.

The checks are those that a damaged or foreign store would fail; they name studies and tasks by their numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from presage_modeling.time_to_event import FOREVER_S, SECONDS_PER_YEAR, SparseTargets
from presage_platform.errors import LabelStoreError
from presage_platform.labeling.store import LabelBatch, LabelStore, Risk


@dataclass(frozen=True, slots=True, eq=False)
class LabelRows:
    """Labels of the studies of one split, held in memory: event lists, follow-up, and what is not at risk.

    `events` and `excluded` are CSR (`…_indptr`, one entry a study) over task numbers; an event of an excluded pair is
    not among `events`.
    """

    study_id: NDArray[np.int64]
    entry_s: NDArray[np.int64]
    end_s: NDArray[np.int64]
    event_indptr: NDArray[np.int64]
    event_task: NDArray[np.int64]
    event_time_s: NDArray[np.int64]
    excluded_indptr: NDArray[np.int64]
    excluded_task: NDArray[np.int64]
    num_tasks: int

    def targets(self, positions: NDArray[np.int64]) -> SparseTargets:
        """Return the targets of some studies, in the order of `positions`."""
        event_row, events = _ragged(self.event_indptr, positions)
        excluded_row, excluded = _ragged(self.excluded_indptr, positions)
        return SparseTargets(
            entry_s=torch.from_numpy(self.entry_s[positions]),
            end_s=torch.from_numpy(self.end_s[positions]),
            event_row=torch.from_numpy(event_row),
            event_task=torch.from_numpy(self.event_task[events]),
            event_time_s=torch.from_numpy(self.event_time_s[events]),
            excluded_row=torch.from_numpy(excluded_row),
            excluded_task=torch.from_numpy(self.excluded_task[excluded]),
            num_tasks=self.num_tasks,
        )

    def pair_count(self, positions: NDArray[np.int64]) -> int:
        """Return the number of (study, task) pairs at risk among some studies."""
        excluded = self.excluded_indptr[positions + 1] - self.excluded_indptr[positions]
        return len(positions) * self.num_tasks - int(excluded.sum())

    def null_loss(self, rate_per_second: NDArray[np.float64]) -> float:
        """Return the loss of constant rates, summed over pairs, in nats with time in years."""
        years = self._exposure_s() / SECONDS_PER_YEAR
        rate = rate_per_second * SECONDS_PER_YEAR
        num_events = np.bincount(self.event_task, minlength=self.num_tasks)
        return float((rate * years - num_events * np.log(rate)).sum())

    def _exposure_s(self) -> NDArray[np.float64]:
        whole = (self.end_s - self.entry_s).astype(np.float64)
        event_row = np.repeat(np.arange(len(whole)), np.diff(self.event_indptr))
        excluded_row = np.repeat(np.arange(len(whole)), np.diff(self.excluded_indptr))
        after_event = (self.end_s[event_row] - self.event_time_s).astype(np.float64)
        exposure_s = np.full(self.num_tasks, whole.sum())
        exposure_s -= np.bincount(self.event_task, weights=after_event, minlength=self.num_tasks)
        exposure_s -= np.bincount(self.excluded_task, weights=whole[excluded_row], minlength=self.num_tasks)
        return exposure_s


def load_label_rows(labels: LabelStore, rows: NDArray[np.int64], study_id: NDArray[np.int64], risk: Risk) -> LabelRows:
    """Read and check the labels of some rows of a store.

    Raises
    ------
    LabelStoreError
        If a study is masked or has no follow-up, or an event is unsorted, repeated, outside (entry, end], or of a task
        that does not exist.
    """
    batch = labels.rows(rows, risk=risk)
    num_tasks = labels.num_tasks
    row = np.repeat(np.arange(len(rows)), np.diff(batch.indptr))
    task = batch.task.astype(np.int64)
    time_s = batch.time.astype(np.int64)
    _check_studies(batch, study_id)
    _check_events(batch, study_id, row, task, num_tasks)
    if risk == "incident":
        prevalent = np.unpackbits(batch.prevalent, axis=1, bitorder="little", count=num_tasks).astype(np.bool_)
    else:
        prevalent = np.zeros((len(rows), num_tasks), dtype=np.bool_)
    at_risk = ~prevalent[row, task]
    return LabelRows(
        study_id=study_id,
        entry_s=batch.entry.astype(np.int64),
        end_s=batch.end.astype(np.int64),
        event_indptr=_indptr(np.bincount(row[at_risk], minlength=len(rows))),
        event_task=task[at_risk],
        event_time_s=time_s[at_risk],
        excluded_indptr=_indptr(prevalent.sum(axis=1)),
        excluded_task=np.nonzero(prevalent)[1].astype(np.int64),
        num_tasks=num_tasks,
    )


def edges_tensor(edges_s: NDArray[np.float64]) -> torch.Tensor:
    """Return a store's bin edges as whole seconds, the last one `FOREVER_S`.

    Raises
    ------
    LabelStoreError
        If edges are missing, do not rise, or do not run from 0 to infinity.
    """
    inner = np.asarray(edges_s[1:-1], dtype=np.float64)
    sound = len(edges_s) >= 2 and edges_s[0] == 0 and np.isinf(edges_s[-1]) and np.isfinite(inner).all()
    if not sound or (np.diff(edges_s) <= 0).any():
        raise LabelStoreError(
            "label store: bin edges must rise from 0 to infinity without repetition: make the labels again"
        )
    return torch.tensor([0, *inner.astype(np.int64).tolist(), FOREVER_S], dtype=torch.int64)


def check_rates(rate_per_second: NDArray[np.float64], num_tasks: int) -> None:
    """Refuse a store without tasks or with a rate that has no logarithm."""
    if num_tasks == 0:
        raise LabelStoreError("label store: 0 tasks, expected at least one: lower min_events and label again")
    if len(rate_per_second) != num_tasks:
        raise LabelStoreError(f"label store: {len(rate_per_second)} rates for {num_tasks} tasks, expected one each")
    wrong = np.flatnonzero(~(np.isfinite(rate_per_second) & (rate_per_second > 0)))
    if len(wrong):
        raise LabelStoreError(
            f"label store: {len(wrong)} tasks (first: {wrong[0]}) have no positive rate, expected events and exposure "
            "in the training split: choose the tasks again"
        )


def _check_studies(batch: LabelBatch, study_id: NDArray[np.int64]) -> None:
    wrong = np.flatnonzero((batch.mask != 0) | (batch.end <= batch.entry))
    if len(wrong):
        raise LabelStoreError(f"label store: study {study_id[wrong[0]]} is masked or has no follow-up: it cannot train")


def _check_events(
    batch: LabelBatch, study_id: NDArray[np.int64], row: NDArray[np.int64], task: NDArray[np.int64], num_tasks: int
) -> None:
    same_row = row[1:] == row[:-1]
    step = np.diff(task)
    _refuse(task >= num_tasks, "of a task that does not exist", study_id, row, task)
    _refuse(np.append(False, same_row & (step == 0)), "that is there twice", study_id, row, task)
    _refuse(np.append(False, same_row & (step < 0)), "out of order", study_id, row, task)
    _refuse(batch.time <= batch.entry[row], "at or before the start of risk", study_id, row, task)
    _refuse(batch.time > batch.end[row], "after the end of follow-up", study_id, row, task)


def _refuse(
    wrong: NDArray[Any], what: str, study_id: NDArray[np.int64], row: NDArray[np.int64], task: NDArray[np.int64]
) -> None:
    found = np.flatnonzero(wrong) if len(row) else np.empty(0, dtype=np.int64)
    if len(found):
        first = found[0]
        raise LabelStoreError(
            f"label store: {len(found)} events {what} (first: study {study_id[row[first]]}, task {task[first]}): "
            "make the labels again with `platform label`"
        )


def _ragged(indptr: NDArray[np.int64], positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for the entries of some CSR rows one after the other, their new row number and their place."""
    length = indptr[positions + 1] - indptr[positions]
    row = np.repeat(np.arange(len(positions)), length)
    begin = np.repeat(indptr[positions] - np.append(0, np.cumsum(length)[:-1]), length)
    return row, begin + np.arange(len(row))


def _indptr(length: NDArray[Any]) -> NDArray[np.int64]:
    return np.append(0, np.cumsum(length)).astype(np.int64)
