"""The view of an outcome: a window only where the task has one."""

from __future__ import annotations

import pyarrow as pa

from presage_platform.labeling.outcomes import OUTCOME_SCHEMA
from presage_platform.labeling.views import outcome_view


def outcome(labels: list[int | None]) -> pa.Table:
    number = len(labels)
    return pa.table(
        {
            "study_id": list(range(1, number + 1)),
            "state": pa.array(["event"] * number).dictionary_encode().cast(OUTCOME_SCHEMA.field("state").type),
            "prevalent": [False] * number,
            "mask": pa.array([0] * number, pa.uint16()),
            "entry_s": pa.array([0] * number, pa.int32()),
            "time_s": pa.array([60] * number, pa.int32()),
            "end_s": pa.array([90] * number, pa.int32()),
            "end_cause": pa.array([0] * number, pa.uint8()),
            "window_label": pa.array(labels, pa.int8()),
            "count": pa.nulls(number, pa.int32()),
            "exposure_s": pa.nulls(number, pa.int32()),
        },
        schema=OUTCOME_SCHEMA,
    )


def test_l93_a_task_without_a_window_has_no_window_labels() -> None:
    view = outcome_view(outcome([None, None]), "incident")
    assert view.window_label is None
    assert view.cause.tolist() == [1, 1] and view.time_s.tolist() == [60, 60]


def test_l93_unknown_labels_of_a_window_are_minus_one() -> None:
    view = outcome_view(outcome([1, None, 0]), "incident")
    assert view.window_label is not None and view.window_label.tolist() == [1, -1, 0]
