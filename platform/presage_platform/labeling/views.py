"""One task over all studies: from the sparse rows of the task set, or from an outcome's own file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from presage_platform.labeling.event import Event

if TYPE_CHECKING:
    import pyarrow as pa

    from presage_platform.labeling.store import LabelStore, Risk, TaskView


def set_view(store: LabelStore, task: int, risk: Risk) -> TaskView:
    """Return the view of task number `task` of the set."""
    from presage_platform.labeling.store import TaskView, view_mask

    time_s = store.scalar("end").copy()
    cause = store.scalar("end_cause").copy()
    prevalent = np.zeros(store.num_studies, dtype=np.bool_)
    for shard in range(store.num_shards):
        first, last = store.shard_rows(shard)
        prevalent[first:last] = (store.array(shard, "prevalent")[:, task >> 3] >> (task & 7)) & 1
        at = np.flatnonzero(store.array(shard, "task") == task)
        row = first + np.searchsorted(store.array(shard, "indptr"), at, side="right") - 1
        time_s[row] = store.array(shard, "time")[at]
        cause[row] = int(Event.EVENT)
    mask = view_mask(store.scalar("mask"), risk)
    return TaskView(
        study_id=_integers(store.studies, "study_id", np.int64),
        time_s=time_s,
        cause=cause,
        at_risk=(mask == 0) & ~(prevalent if risk == "incident" else np.bool_(False)),
        entry_s=store.scalar("entry"),
        prevalent=prevalent,
        mask=mask,
        window_label=None,
        risk=risk,
    )


def outcome_view(outcome: pa.Table, risk: Risk) -> TaskView:
    """Return the view of an outcome file (labeling L93)."""
    from presage_platform.labeling.store import TaskView, view_mask

    event = np.asarray(outcome.column("time_s").is_valid())
    end_s = _integers(outcome, "end_s", np.int32)
    prevalent = np.asarray(outcome.column("prevalent")).astype(np.bool_)
    mask = view_mask(_integers(outcome, "mask", np.uint16), risk)
    windowed = "window_label" in outcome.column_names
    return TaskView(
        study_id=_integers(outcome, "study_id", np.int64),
        time_s=np.where(event, np.asarray(outcome.column("time_s").fill_null(0)), end_s).astype(np.int32),
        cause=np.where(event, np.uint8(Event.EVENT), _integers(outcome, "end_cause", np.uint8)).astype(np.uint8),
        at_risk=(mask == 0) & ~(prevalent if risk == "incident" else np.bool_(False)),
        entry_s=_integers(outcome, "entry_s", np.int32),
        prevalent=prevalent,
        mask=mask,
        window_label=np.asarray(outcome.column("window_label").fill_null(-1)).astype(np.int8) if windowed else None,
        risk=risk,
    )


def _integers(table: pa.Table, name: str, dtype: Any) -> NDArray[Any]:
    return np.asarray(table.column(name)).astype(dtype)
