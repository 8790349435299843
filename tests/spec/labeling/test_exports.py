"""Outcomes in the form of other tools: MEDS labels are known or absent, and times stand beside them."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from presage_platform.errors import InputError, IntegrityError
from presage_platform.labeling.meds import LABEL_SCHEMA, check_meds, export_meds
from presage_platform.labeling.store import LabelStore
from tests.lib.labels import Study, add_outcome, small_store

DAY = 86_400
T0 = datetime(2020, 1, 1)


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    """Persons 10 to 40: an event at day 20, at day 100, followed for 50 days, followed for 400 days."""
    studies = [Study(k, person_id=10 * k, end_s=400 * DAY) for k in range(1, 5)]
    path = small_store(tmp_path / "labels", studies, num_tasks=1)
    times = {1: (20 * DAY, 400 * DAY), 2: (100 * DAY, 400 * DAY), 3: (None, 50 * DAY), 4: (None, 400 * DAY)}
    add_outcome(path, "effusion", times)
    add_outcome(path, "windowed", times, window={1: 1, 2: 0, 3: None, 4: 0})
    return LabelStore.open(path)


def rows(path: Path) -> list[tuple[int, datetime, bool]]:
    return [tuple(row.values()) for row in pq.read_table(path).to_pylist()]


def test_l78_a_study_censored_before_the_horizon_is_left_out_and_counted(store: LabelStore, tmp_path: Path) -> None:
    exported = export_meds(store, tmp_path / "out", [30, 90, 365])
    assert rows(tmp_path / "out" / "effusion_30d.parquet") == [
        (10, T0, True),
        (20, T0, False),
        (30, T0, False),
        (40, T0, False),
    ]
    assert rows(tmp_path / "out" / "effusion_90d.parquet") == [(10, T0, True), (20, T0, False), (40, T0, False)]
    assert rows(tmp_path / "out" / "effusion_365d.parquet") == [(10, T0, True), (20, T0, True), (40, T0, False)]
    assert exported.counts["effusion_90d"] == {
        "labels": 3, "positive": 1, "left out, follow-up too short": 1, "not at risk": 0
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["label_hash"] == store.label_hash


def test_l78_a_windowed_outcome_keeps_its_own_window(store: LabelStore, tmp_path: Path) -> None:
    export_meds(store, tmp_path / "out", [365])
    assert rows(tmp_path / "out" / "windowed.parquet") == [(10, T0, True), (20, T0, False), (40, T0, False)]
    assert not (tmp_path / "out" / "windowed_365d.parquet").exists()


def test_l78_times_keep_what_a_boolean_cannot(store: LabelStore, tmp_path: Path) -> None:
    export_meds(store, tmp_path / "out", [365])
    times = pq.read_table(tmp_path / "out" / "time_to_event.parquet").to_pylist()
    found = [
        (row["subject_id"], row["duration_us"] // 1_000_000 // DAY, row["cause"])
        for row in times
        if row["task"] == "effusion"
    ]
    assert found == [(10, 20, 1), (20, 100, 1), (30, 50, 0), (40, 400, 0)]


def test_l78_labels_have_the_schema_of_meds(store: LabelStore, tmp_path: Path) -> None:
    """The label schema of the standard: int64 subject, microsecond times without a zone, a boolean value."""
    export_meds(store, tmp_path / "out", [365])
    schema = pq.read_schema(tmp_path / "out" / "effusion_365d.parquet")
    assert schema.field("subject_id").type == pa.int64()
    assert (
        schema.field("prediction_time").type == pa.timestamp("us") and schema.field("prediction_time").type.tz is None
    )
    assert schema.field("boolean_value").type == pa.bool_()
    table = pa.table({"subject_id": [1], "prediction_time": [T0], "boolean_value": [True]}, schema=LABEL_SCHEMA)
    check_meds(table)
    with pytest.raises(IntegrityError, match="prediction_time of type"):
        check_meds(table.set_column(1, "prediction_time", pa.array([T0], pa.timestamp("s"))))
    with pytest.raises(IntegrityError, match="without boolean_value"):
        check_meds(table.set_column(2, "boolean_value", pa.array([None], pa.bool_())))


def test_l78_without_outcomes_there_is_nothing_to_export(tmp_path: Path) -> None:
    path = small_store(tmp_path / "labels", [Study(1, end_s=DAY, events={0: 3600})], num_tasks=1)
    with pytest.raises(InputError, match="has no outcomes"):
        export_meds(LabelStore.open(path), tmp_path / "out", [30])
