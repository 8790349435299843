"""What a reader of labels gets: some studies with all tasks, or one task over all studies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from presage_platform.labeling.event import INCIDENT_ONLY, SECONDS_PER_DAY, Event

if TYPE_CHECKING:
    import pyarrow as pa

    from presage_platform.labeling.store import LabelStore


Risk = Literal["next", "incident"]


@dataclass(frozen=True, slots=True, eq=False)
class LabelBatch:
    """Labels of some studies, in the order that was asked for. n = studies, K = tasks, nnz = stored events.

    Attributes
    ----------
    indptr : int64, shape = (n + 1,)
        Study i has its events at `indptr[i]:indptr[i + 1]`.
    task : uint16 or uint32, shape = (nnz,)
        Ascending within a study (torch has little arithmetic on uint16: widen with `.astype(np.int32)`).
    time : int32, shape = (nnz,)
        Seconds from t0 to the first event after the risk start; `entry < time <= end`.
    prevalent : uint8, shape = (n, ceil(K / 8))
        Bit k & 7 of byte k >> 3: task k happened at or before the risk start. Stored alike for both views: under
        ``"next"`` a prevalent pair stays at risk, under ``"incident"`` it leaves and its stored time is ignored.
    entry, end : int32, shape = (n,)
        Seconds from t0 to the risk start and to the end of follow-up.
    end_cause : uint8, shape = (n,)
        `Event.CENSORED` or `Event.COMPETING` (death).
    death : int32, shape = (n,)
        Seconds from t0 to death; -1 = none known.
    mask : uint16, shape = (n,)
        Bits of `Mask` that apply in this view; not 0 = the study is out.
    visit_indptr, visit_task : as indptr and task
        Tasks recorded in the visit that holds t0, or on its day where there is none.
    risk : str
        The view these rows were read in.
    """

    indptr: NDArray[np.int64]
    task: NDArray[Any]
    time: NDArray[np.int32]
    prevalent: NDArray[np.uint8]
    entry: NDArray[np.int32]
    end: NDArray[np.int32]
    end_cause: NDArray[np.uint8]
    death: NDArray[np.int32]
    mask: NDArray[np.uint16]
    visit_indptr: NDArray[np.int64]
    visit_task: NDArray[Any]
    risk: Risk


@dataclass(frozen=True, slots=True, eq=False)
class TaskView:
    """One task over all studies, one row a study, in the order of `studies`.

    Attributes
    ----------
    study_id : int64
    time_s : int32
        Seconds from the task's clock to the event, or to the end of follow-up.
    cause : uint8
        Codes of `Event`.
    at_risk : bool
        Neither masked nor (incident view) prevalent; other rows have no meaningful time.
    entry_s : int32
        Seconds from the task's clock to the risk start.
    prevalent : bool
    mask : uint16
        Bits of `Mask` that apply in this view.
    window_label : int8 or None
        Of a task with a window: 1, 0, or -1 = unknown.
    risk : str
    """

    study_id: NDArray[np.int64]
    time_s: NDArray[np.int32]
    cause: NDArray[np.uint8]
    at_risk: NDArray[np.bool_]
    entry_s: NDArray[np.int32]
    prevalent: NDArray[np.bool_]
    mask: NDArray[np.uint16]
    window_label: NDArray[np.int8] | None
    risk: Risk


def set_view(store: LabelStore, task: int, risk: Risk) -> TaskView:
    """Return the view of task number `task` of the set."""
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
    event = np.asarray(outcome.column("time_s").is_valid())
    end_s = _integers(outcome, "end_s", np.int32)
    prevalent = np.asarray(outcome.column("prevalent")).astype(np.bool_)
    mask = view_mask(_integers(outcome, "mask", np.uint16), risk)
    # The column stands in every outcome file; it is null throughout for a task without a window.
    windowed = "window_label" in outcome.column_names and outcome.column("window_label").null_count < outcome.num_rows
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


def view_mask(mask: NDArray[np.uint16], risk: Risk) -> NDArray[np.uint16]:
    """Return the mask bits that apply in a view."""
    if risk == "incident":
        return mask
    if risk == "next":
        return mask & np.uint16(0xFFFF ^ INCIDENT_ONLY)
    raise ValueError(f"risk must be `next` or `incident`, found `{risk}`")


def clip_view(view: TaskView, horizon_days: float) -> TaskView:
    """Censor what comes after the horizon; an event at the horizon itself counts."""
    horizon_s = round(horizon_days * SECONDS_PER_DAY)
    beyond = view.time_s > horizon_s
    return TaskView(
        study_id=view.study_id,
        time_s=np.where(beyond, horizon_s, view.time_s).astype(np.int32),
        cause=np.where(beyond, np.uint8(Event.CENSORED), view.cause).astype(np.uint8),
        at_risk=view.at_risk & (view.entry_s < horizon_s),
        entry_s=view.entry_s,
        prevalent=view.prevalent,
        mask=view.mask,
        window_label=view.window_label,
        risk=view.risk,
    )


def _integers(table: pa.Table, name: str, dtype: Any) -> NDArray[Any]:
    return np.asarray(table.column(name)).astype(dtype)
