"""The reader of the label store: views, slices, horizons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from presage_platform.errors import IntegrityError, LabelStoreError
from presage_platform.labeling import Event
from presage_platform.labeling.store import LabelStore
from tests.lib.labels import Study, small_store

DAY = 86_400


@pytest.fixture
def labels(tmp_path: Path) -> LabelStore:
    studies = [
        Study(11, end_s=400 * DAY, events={0: 40 * DAY, 2: 100 * DAY}, prevalent=[2]),
        Study(12, end_s=200 * DAY, dead=True, events={1: 95 * DAY}, visit=[1]),
        Study(13, end_s=300 * DAY, mask=8, split="valid"),
        Study(14, end_s=50 * DAY, mask=4, split="test"),
    ]
    return LabelStore.open(small_store(tmp_path, studies, num_tasks=3, num_shards=2))


def test_l51_rows_across_shards_equal_a_slice(labels: LabelStore) -> None:
    gathered, sliced = labels.rows([0, 1, 2, 3]), labels.rows(slice(0, 2))
    assert gathered.indptr.tolist() == [0, 2, 3, 3, 3]
    assert gathered.task.tolist() == [0, 2, 1] and sliced.task.tolist() == [0, 2, 1]
    assert gathered.time.tolist() == [40 * DAY, 100 * DAY, 95 * DAY]
    assert gathered.visit_indptr.tolist() == [0, 0, 1, 1, 1]
    assert (gathered.indptr.dtype, gathered.task.dtype, gathered.time.dtype) == (np.int64, np.uint16, np.int32)
    assert labels.rows([2, 0]).end.tolist() == [300 * DAY, 400 * DAY]


def test_l51_a_contiguous_slice_is_not_copied(labels: LabelStore) -> None:
    assert np.shares_memory(labels.rows(slice(0, 2)).time, labels.array(0, "time"))


def test_l51_short_history_masks_the_incident_view_only(labels: LabelStore) -> None:
    assert labels.rows(range(4), risk="next").mask.tolist() == [0, 0, 0, 4]
    assert labels.rows(range(4), risk="incident").mask.tolist() == [0, 0, 8, 4]


def test_l51_a_task_view_says_cause_and_who_is_at_risk(labels: LabelStore) -> None:
    view = labels.task_view("concept:1002")
    assert view.study_id.tolist() == [11, 12, 13, 14]
    assert view.at_risk.tolist() == [False, True, False, False]
    assert labels.task_view("concept:1002", risk="next").at_risk.tolist() == [True, True, True, False]
    assert view.cause.tolist() == [Event.EVENT, Event.COMPETING, Event.CENSORED, Event.CENSORED]
    assert view.time_s.tolist() == [100 * DAY, 200 * DAY, 300 * DAY, 50 * DAY]


def test_l51_a_horizon_censors_what_comes_later_and_keeps_what_falls_on_it(labels: LabelStore) -> None:
    assert labels.task_view("concept:1001", horizon_days=95).cause[1] == Event.EVENT
    clipped = labels.task_view("concept:1001", horizon_days=94)
    assert (clipped.cause[1], clipped.time_s[1]) == (Event.CENSORED, 94 * DAY)


def test_l51_an_unknown_task_is_refused_by_name(labels: LabelStore) -> None:
    with pytest.raises(LabelStoreError, match="no task `concept:9`"):
        labels.task_view("concept:9")


def test_l50_the_manifest_counts_states_per_task_and_split(labels: LabelStore) -> None:
    train = labels.manifest["states"]["train"]
    assert (train["studies"], train["masked"]) == (2, 0)
    assert train["event"] == [1, 1, 0] and train["prevalent"] == [0, 0, 1]
    assert train["competing"] == [1, 0, 1] and train["censored"] == [0, 1, 0]
    assert labels.manifest["states"]["valid"]["masked"] == 1


@pytest.mark.parametrize("event", [{0: 0}, {0: 11 * DAY}, {0: -5}])
def test_l29_no_zero_time(tmp_path: Path, event: dict[int, int]) -> None:
    with pytest.raises(IntegrityError):
        small_store(tmp_path, [Study(1, end_s=10 * DAY, events=event)], num_tasks=1)


def test_l50_the_same_input_is_not_written_twice(tmp_path: Path) -> None:
    studies = [Study(1, end_s=10 * DAY, events={0: DAY})]
    first = small_store(tmp_path, studies, num_tasks=1)
    stamp = (first / "manifest.json").stat().st_mtime_ns
    assert small_store(tmp_path, studies, num_tasks=1) == first
    assert (first / "manifest.json").stat().st_mtime_ns == stamp
