"""What is looked at after labels are written: the leak audit, the orientation, the difference to the store before."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from presage_platform.errors import IntegrityError
from presage_platform.labeling.audit import alarms, audit
from presage_platform.labeling.difference import difference, previous_store, summary
from presage_platform.labeling.orientation import check_store
from presage_platform.labeling.store import LabelStore
from tests.lib.labels import Study, add_outcome, small_store

DAY, YEAR = 86_400, 31_557_600
T0 = 1_577_836_800  # 2020-01-01, the index time of small stores


def store_of(folder: Path, studies: list[Study], num_tasks: int, visit_end_s: int | None = None) -> LabelStore:
    path = small_store(folder, studies, num_tasks=num_tasks)
    index = pq.read_table(path / "studies.parquet")
    if visit_end_s is not None:  # every scan lies in a visit that ends so long after it
        column = index.column_names.index("visit_occurrence_id")
        index = index.set_column(column, index.schema.field(column), pa.array(range(len(studies)), pa.int64()))
        pq.write_table(index, path / "studies.parquet")
    ends = np.full(len(studies), T0 + (visit_end_s or 0), dtype=np.int64)
    pq.write_table(pa.table({"visit_end_s": ends}), path / "facts.parquet")
    return LabelStore.open(path)


def row_of(store: LabelStore, task: str) -> dict[str, object]:
    (row,) = [row for row in audit(store) if row["task"] == task]
    return row


def test_l75_the_audit_counts_what_lies_around_the_scan(tmp_path: Path) -> None:
    """Four studies at risk, three events: at one hour, at two days (both within the visit), after a year."""
    studies = [
        Study(1, end_s=2 * YEAR, events={0: 3600}),
        Study(2, end_s=2 * YEAR, events={0: 2 * DAY}),
        Study(3, end_s=2 * YEAR, events={0: YEAR}),
        Study(4, end_s=2 * YEAR),
        Study(5, end_s=2 * YEAR, prevalent=[0], events={0: DAY}),
        Study(6, end_s=2 * YEAR, events={0: DAY}, mask=1),
    ]
    row = row_of(store_of(tmp_path, studies, 1, visit_end_s=3 * DAY), "concept:1000")
    assert row["num_events"] == 3
    assert row["share_within_a_day"] == pytest.approx(1 / 3, abs=1e-6)
    assert row["share_inside_index_visit"] == pytest.approx(2 / 3, abs=1e-6)
    assert row["share_prevalent"] == pytest.approx(1 / 5)
    assert row["median_prior_obs_days"] == 400


def test_l75_incidence_by_calendar_year_is_events_over_person_years(tmp_path: Path) -> None:
    """2020 has 366 days. One event at its middle, one study without: 1.5 years at risk; then one in 2021, alone."""
    half = 183 * DAY
    studies = [
        Study(1, end_s=2 * YEAR, events={0: half}),
        Study(2, end_s=366 * DAY + 10 * DAY, events={0: 366 * DAY + 5 * DAY}),
    ]
    row = row_of(store_of(tmp_path, studies, 1), "concept:1000")
    rates = row["per_1000_years_by_year"]
    assert rates["2020"] == pytest.approx(1000 * 1 / ((half + 366 * DAY) / YEAR), rel=1e-6)  # type: ignore[index]
    assert rates["2021"] == pytest.approx(1000 * 1 / (5 * DAY / YEAR), rel=1e-6)  # type: ignore[index]


def followed(number: int, events: dict[int, int], **more: object) -> list[Study]:
    return [Study(k + 1, end_s=3 * YEAR, events=dict(events), covariates=dict(more)) for k in range(number)]


def test_l75_events_right_after_the_scan_raise_an_alarm(tmp_path: Path) -> None:
    leak = [Study(k + 1, end_s=YEAR, events={0: 3600 if k < 5 else YEAR // 2}) for k in range(10)]
    (alarm,) = alarms(audit(store_of(tmp_path, leak, 1)))
    assert alarm == "concept:1000: 50 % of 10 events lie within a day of the scan, expected at most 20 %"
    honest = [Study(k + 1, end_s=YEAR, events={0: 3600 if k < 2 else YEAR // 2}) for k in range(10)]
    assert alarms(audit(store_of(tmp_path / "other", honest, 1))) == []


def test_l75_a_jump_between_years_raises_an_alarm_where_both_have_events_enough(tmp_path: Path) -> None:
    """60 of 1,000 fall ill in 2020, then 300 in 2021: more than three times as often."""
    in_2020, in_2021 = 100 * DAY, 500 * DAY
    jump = [
        Study(k + 1, end_s=2 * YEAR, events={0: in_2020 if k < 60 else in_2021} if k < 360 else {}) for k in range(1000)
    ]
    (alarm,) = alarms(audit(store_of(tmp_path, jump, 1)))
    assert "incidence changes" in alarm and "from 2020 to 2021" in alarm
    few = [
        Study(k + 1, end_s=2 * YEAR, events={0: in_2020 if k < 40 else in_2021} if k < 300 else {}) for k in range(1000)
    ]
    assert alarms(audit(store_of(tmp_path / "few", few, 1))) == []


def test_l75_a_site_without_an_event_raises_an_alarm_where_events_are_expected(tmp_path: Path) -> None:
    def studies(silent: int) -> list[Study]:
        speaking = [
            Study(k + 1, end_s=YEAR, events={0: YEAR // 2} if k % 4 == 0 else {}, covariates={"site": "A"})
            for k in range(80)
        ]
        quiet = [Study(1000 + k, end_s=YEAR, covariates={"site": "B"}) for k in range(silent)]
        return speaking + quiet

    (alarm,) = alarms(audit(store_of(tmp_path, studies(80), 1)))
    assert "no event at site B" in alarm
    assert alarms(audit(store_of(tmp_path / "small", studies(5), 1))) == []


def test_l75_events_in_the_wrong_sex_raise_an_alarm(tmp_path: Path) -> None:
    def studies(stray: int) -> list[Study]:
        women = [Study(k + 1, end_s=YEAR, events={0: YEAR // 2}, covariates={"sex": "F"}) for k in range(200)]
        men = [
            Study(1000 + k, end_s=YEAR, events={0: YEAR // 2} if k < stray else {}, covariates={"sex": "M"})
            for k in range(200)
        ]
        return women + men

    (alarm,) = alarms(audit(store_of(tmp_path, studies(1), 1)))
    assert "1 of 201 events are of the sex in which this hardly ever happens" in alarm
    assert alarms(audit(store_of(tmp_path / "none", studies(0), 1))) == []
    assert alarms(audit(store_of(tmp_path / "many", studies(20), 1))) == []


def test_l75_an_outcome_is_audited_with_its_own_follow_up(tmp_path: Path) -> None:
    store = store_of(tmp_path, followed(4, {}), 1)
    times = {1: (3600, YEAR), 2: (None, YEAR), 3: (None, YEAR), 4: (YEAR // 2, YEAR)}
    add_outcome(store.path, "leaking", times)
    row = row_of(LabelStore.open(store.path), "leaking")
    assert (row["num_events"], row["share_within_a_day"]) == (2, 0.5)
    years = (3600 + YEAR + YEAR + YEAR // 2) / YEAR
    rates = row["per_1000_years_by_year"]
    assert rates["2020"] == pytest.approx(1000 * 2 / years, rel=1e-6)  # type: ignore[index]


def test_l76_a_flipped_indicator_raises(tmp_path: Path) -> None:
    store = store_of(tmp_path, followed(6, {}), 1)
    add_outcome(store.path, "sound", {k: (YEAR if k < 3 else None, 2 * YEAR) for k in range(1, 7)})
    assert check_store(LabelStore.open(store.path)) == 1
    path = store.path / "outcomes" / "sound.parquet"
    table = pq.read_table(path)
    column = table.column_names.index("time_s")
    flipped = [None if time is not None else YEAR for time in table.column("time_s").to_pylist()]
    pq.write_table(table.set_column(column, table.schema.field(column), pa.array(flipped, pa.int32())), path)
    with pytest.raises(IntegrityError, match="its indicator is flipped or damaged"):
        check_store(LabelStore.open(store.path))


def test_l76_risk_against_its_own_label_is_concordant(tmp_path: Path) -> None:
    """By scikit-survival: the sooner, the higher the risk."""
    from sksurv.metrics import concordance_index_censored

    draw = np.random.default_rng(1)
    studies = [
        Study(k + 1, end_s=2 * YEAR, events={0: int(draw.integers(DAY, 2 * YEAR))} if k % 3 else {}) for k in range(60)
    ]
    view = store_of(tmp_path, studies, 1).task_view("concept:1000")
    assert concordance_index_censored(view.cause == 1, view.time_s, -view.time_s.astype(float))[0] == 1.0


def test_l76_the_difference_names_what_was_gained_lost_and_moved(tmp_path: Path) -> None:
    before = [
        Study(1, end_s=YEAR, events={0: DAY, 1: 5 * DAY}),
        Study(2, end_s=YEAR, events={1: DAY}),
        Study(3, end_s=YEAR),
    ]
    after = [
        Study(1, end_s=YEAR, events={0: 2 * DAY, 1: 5 * DAY}),
        Study(2, end_s=YEAR, events={0: DAY}),
        Study(4, end_s=YEAR),
    ]
    old = LabelStore.open(small_store(tmp_path, before, num_tasks=2))
    new = LabelStore.open(small_store(tmp_path, after, num_tasks=2))
    assert previous_store(tmp_path, new.path) == old.path
    found = difference(old, new)
    assert found["studies"] == {"both": 2, "only_before": 1, "only_after": 1}
    assert found["changed"] == {
        "concept:1000": {"gained": 1, "lost": 0, "moved": 1},
        "concept:1001": {"gained": 0, "lost": 1, "moved": 0},
    }
    assert (found["gained"], found["lost"], found["moved"]) == (1, 1, 1)
    assert "2 studies and 2 tasks in both, 1 events gained, 1 lost, 1 moved" in summary(found)
    assert json.loads(json.dumps(found)) == found
    assert difference(new, new)["changed"] == {}
