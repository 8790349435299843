"""Labels as MEDS labels, for tools of the Medical Event Data Standard; what MEDS cannot hold goes beside them.

    exports/meds-<label_hash>/<task>_<days>d.parquet   subject_id, prediction_time, boolean_value
                              time_to_event.parquet    subject_id, prediction_time, task, duration_us, cause
                              manifest.json            counts, those that were left out among them

A MEDS label is known or absent: a study whose follow-up ends before the horizon without the event is left out and
counted, never written as false. Times are censored, so they have a table of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from presage_platform.errors import InputError, IntegrityError
from presage_platform.labeling.event import SECONDS_PER_DAY, Event
from presage_platform.labeling.store import LabelStore
from presage_platform.labeling.views import TaskView
from presage_platform.runs import canonical_json, write_atomically

LABEL_SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64()),
        pa.field("prediction_time", pa.timestamp("us")),
        pa.field("boolean_value", pa.bool_()),
    ]
)
"""The columns of a MEDS label that a binary task fills."""
TIME_SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("prediction_time", pa.timestamp("us"), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("duration_us", pa.int64(), nullable=False),
        pa.field("cause", pa.uint8(), nullable=False),
    ]
)
"""Codes of `cause`: 0 censored, 1 event, 2 competing (death)."""
UNKNOWN = -1


@dataclass
class Exported:
    """What was exported, in counts."""

    folder: Path
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {"folder": str(self.folder), "counts": self.counts}

    def text(self) -> str:
        """Return one line a file."""
        lines = [
            f"{name:<40}" + ", ".join(f"{number:,} {word}" for word, number in numbers.items())
            for name, numbers in self.counts.items()
        ]
        return "\n".join([*lines, str(self.folder)])


def export_meds(store: LabelStore, folder: Path, horizons_days: Iterable[float]) -> Exported:
    """Write every outcome of a store as MEDS labels, one file a task and horizon (one for a task with a window).

    Raises
    ------
    InputError
        If the store has no outcome.
    IntegrityError
        If a table does not have the schema of MEDS labels.
    """
    if not store.outcomes:
        raise InputError(f"label store {store.label_hash} has no outcomes: write tasks and run `platform label` first")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    exported, times = Exported(folder), []
    for name in store.outcomes:
        view = store.task_view(name, risk="incident")
        subject, moment = _keys(store, view)
        for suffix, label in _labels(view, horizons_days):
            known = np.asarray(view.at_risk) & (label != UNKNOWN)
            table = pa.table(
                {
                    "subject_id": subject[known],
                    "prediction_time": pa.array(moment[known], pa.timestamp("us")),
                    "boolean_value": label[known] == 1,
                },
                schema=LABEL_SCHEMA,
            ).sort_by([("subject_id", "ascending"), ("prediction_time", "ascending")])
            check_meds(table)
            pq.write_table(table, folder / f"{name}{suffix}.parquet", compression="zstd")
            left_out = int((np.asarray(view.at_risk) & (label == UNKNOWN)).sum())
            exported.counts[f"{name}{suffix}"] = {
                "labels": table.num_rows,
                "positive": int((label[known] == 1).sum()),
                "left out, follow-up too short": left_out,
                "not at risk": int((~np.asarray(view.at_risk)).sum()),
            }
        times.append(_times(name, view, subject, moment))
    whole = pa.concat_tables(times)
    pq.write_table(whole, folder / "time_to_event.parquet", compression="zstd")
    exported.counts["time_to_event"] = {"times": whole.num_rows}
    write_atomically(
        folder / "manifest.json", canonical_json({"label_hash": store.label_hash, **exported.to_json()}).encode()
    )
    return exported


def check_meds(table: pa.Table) -> None:
    """Refuse a table that is not of MEDS labels: its columns and types, no missing subject or time, no missing value.

    Raises
    ------
    IntegrityError
        Naming the column.
    """
    for name, kind in zip(LABEL_SCHEMA.names, LABEL_SCHEMA.types, strict=True):
        if name not in table.column_names or table.schema.field(name).type != kind:
            raise IntegrityError(f"integrity: a MEDS label needs {name} of type {kind}: a bug, please report it")
        if table.column(name).null_count:
            raise IntegrityError(f"integrity: a MEDS label without {name}: unknown labels are left out")


def horizon_label(view: TaskView, horizon_days: float) -> NDArray[np.int8]:
    """Return 1 for an event within the horizon, 0 for none (death before it included), -1 where nobody can know."""
    horizon_s = horizon_days * SECONDS_PER_DAY
    time_s, cause = np.asarray(view.time_s), np.asarray(view.cause)
    label = np.zeros(len(time_s), dtype=np.int8)
    label[(cause == Event.EVENT) & (time_s <= horizon_s)] = 1
    label[(cause == Event.CENSORED) & (time_s < horizon_s)] = UNKNOWN
    return label


def _labels(view: TaskView, horizons_days: Iterable[float]) -> list[tuple[str, NDArray[np.int8]]]:
    if view.window_label is not None:
        return [("", view.window_label)]
    return [(f"_{days:g}d", horizon_label(view, days)) for days in horizons_days]


def _keys(store: LabelStore, view: TaskView) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Person and t0 in microseconds of each row; outcomes have the rows of `studies`."""
    if not np.array_equal(np.asarray(store.studies.column("study_id")), view.study_id):
        raise IntegrityError("integrity: an outcome has other studies than the store: run `platform label` again")
    person = np.asarray(store.studies.column("person_id"), dtype=np.int64)
    return person, np.asarray(store.studies.column("t0"), dtype=np.int64) * 1_000_000


def _times(name: str, view: TaskView, subject: NDArray[np.int64], moment: NDArray[np.int64]) -> pa.Table:
    rows = np.flatnonzero(view.at_risk)
    return pa.table(
        {
            "subject_id": subject[rows],
            "prediction_time": pa.array(moment[rows], pa.timestamp("us")),
            "task": pa.array([name] * len(rows), pa.string()),
            "duration_us": np.asarray(view.time_s)[rows].astype(np.int64) * 1_000_000,
            "cause": np.asarray(view.cause)[rows],
        },
        schema=TIME_SCHEMA,
    )
