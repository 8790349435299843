"""Time bins and base rates, visit codes, outcome rows and what they read like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from presage_platform.errors import IntegrityError, SettingsError, UsageError
from presage_platform.labeling import Event
from presage_platform.labeling.anchors import day_boundaries
from presage_platform.labeling.bins import (
    base_rates,
    bin_of,
    clipped_exposure,
    explicit_edges,
    fit_bins,
    quantile_edges,
)
from presage_platform.labeling.cli import _with_anchors
from presage_platform.labeling.outcomes import Candidates, add_outcomes, age_mask, outcome_rows, sex_mask
from presage_platform.labeling.semantics import risk_windows
from presage_platform.labeling.store import LabelStore
from presage_platform.settings import parse_settings
from tests.lib.labels import Study, small_store
from tests.lib.timelines import Happening, Person, Record, Scan, at, day_end, is_date, one, policy

DAY = 86_400
SCAN = "2020-03-01 10:00"
T0 = at(SCAN)


def test_l53_edges_are_order_statistics_by_nearest_rank() -> None:
    """0, 12.5, …, 100 %: of 1 … 80 the edges are 10, 20, …; the first is 0, the last infinite."""
    times = np.random.default_rng(0).permutation(np.arange(1, 81, dtype=np.int32))
    assert quantile_edges(times).tolist() == [0, 10, 20, 30, 40, 50, 60, 70, np.inf]
    few = np.array([5, 1, 9], dtype=np.int32)
    ranks = [sorted(few.tolist())[int(np.ceil(i * 3 / 2)) - 1] for i in (1,)]
    assert quantile_edges(few, num_bins=2).tolist() == [0, *ranks, np.inf]


def test_l54_a_repeated_edge_is_an_error_that_names_bins() -> None:
    with pytest.raises(IntegrityError, match=r"7 s twice.*--bins"):
        quantile_edges(np.array([7, 7, 7, 8], dtype=np.int32), num_bins=4)
    with pytest.raises(IntegrityError, match="--bins"):
        explicit_edges([90, 30])


def test_l54_a_time_on_an_edge_belongs_to_the_upper_bin() -> None:
    edges = explicit_edges([1, 2])
    assert bin_of(edges, np.array([1, DAY - 1, DAY, 2 * DAY, 10**9])).tolist() == [0, 0, 1, 2, 2]


def test_l55_rate_is_events_over_exposure_from_entry() -> None:
    """Two studies of 100 s and 50 s (entry 10): one event at 40 s; exposure 30 + 40."""
    events, exposure = base_rates(
        np.array([0]), np.array([40]), np.array([100, 50]), np.array([10, 10]), np.array([0]), 2
    )
    assert events.tolist() == [1, 0] and exposure.tolist() == [30 + 40, 90 + 40]
    with pytest.raises(IntegrityError, match="1 tasks have no event"):
        fit_bins(explicit_edges([1]), events, exposure, fitted_on="x")
    bins = fit_bins(explicit_edges([1]), events[:1], exposure[:1], fitted_on="x")
    share, mean_time = 1 / 2, 70 / 2
    assert bins.rate_per_s[0] == pytest.approx(share / mean_time), "the paper's event share over mean time"


def test_l56_exposure_over_bins_adds_up_exactly() -> None:
    rng = np.random.default_rng(1)
    edges = quantile_edges(rng.integers(1, 10**9, 1_000).astype(np.int32))
    entry = rng.integers(0, 10**6, 500)
    until = entry + rng.integers(1, 2 * 10**9, 500)
    exposure = clipped_exposure(edges, entry, until)
    assert exposure.dtype == np.int64 and np.array_equal(exposure.sum(axis=1), until - entry)


def test_l92_visit_codes_are_those_of_the_smallest_visit_that_holds_t0() -> None:
    labels = one(
        Happening("2020-03-01 09:30", concept=0),
        Happening("2020-03-01", concept=1),
        Happening("2020-03-03 12:00", concept=2),
        Happening("2020-03-05", concept=3),
        visits=[("2020-02-20", "2020-03-30"), ("2020-03-01 09:00", "2020-03-04 09:00")],
    )
    assert labels.visit() == {0, 1, 2}, "a bare date of the visit's first day belongs to it"


def test_l92_without_a_visit_the_day_of_the_scan_counts() -> None:
    labels = one(
        Happening("2020-03-01 23:00", concept=0), Happening("2020-02-29", concept=1), Happening("2020-03-01", concept=2)
    )
    assert labels.visit() == {0, 2}


def outcome(
    *times: str, person: dict[str, Any] | None = None, causes: list[int] | None = None, **more: Any
) -> dict[str, Any]:
    """Return the outcome row of one scan with candidate events at these times."""
    record = Record([Person(**(person or {}))], [Scan(SCAN)])
    under = more.pop("under", policy())
    facts = record.facts()
    candidates = Candidates(
        row=np.zeros(len(times), dtype=np.int64),
        time_s=np.array([at(t) for t in times], dtype=np.int64),
        is_date=np.array([is_date(t) for t in times], dtype=np.bool_),
        cause=np.array(causes or [1] * len(times), dtype=np.uint8),
    )
    row: dict[str, Any] = outcome_rows(facts, risk_windows(facts, under), candidates, under, **more).to_pylist()[0]
    return row


@pytest.mark.parametrize(
    ("times", "person", "state"),
    [
        (["2020-05-01"], {}, "event"),
        (["2019-05-01", "2020-05-01"], {}, "prevalent"),
        ([], {"death": "2021-01-01"}, "competing"),
        ([], {}, "censored"),
        (["2020-05-01"], {"periods": []}, "masked"),
    ],
)
def test_l93_the_state_is_the_first_that_holds(times: list[str], person: dict[str, Any], state: str) -> None:
    assert outcome(*times, person=person)["state"] == state


def test_l93_a_row_has_its_own_times() -> None:
    row = outcome("2020-05-01", person={"death": "2021-01-01"})
    assert (row["time_s"], row["end_s"], row["end_cause"]) == (at("2020-05-01") - T0, day_end("2021-01-01") - T0, 2)
    assert row["entry_s"] == 0 and row["mask"] == 0 and row["window_label"] is None


def test_l93_a_competing_candidate_ends_follow_up_and_loses_ties() -> None:
    assert outcome("2020-06-01", "2020-05-01", causes=[1, 2])["state"] == "competing"
    assert outcome("2020-05-01", "2020-05-01", causes=[1, 2])["state"] == "event"


@pytest.mark.parametrize(
    ("times", "person", "label"),
    [
        (["2020-03-31 10:00"], {}, 1),
        (["2020-03-31 10:00:01"], {}, 0),
        ([], {}, 0),
        ([], {"death": "2020-03-10"}, 0),
        ([], {"periods": [("2019-01-01", "2020-03-10")]}, None),
    ],
)
def test_l62_a_binary_window_is_unknown_where_follow_up_is_short(
    times: list[str], person: Any, label: int | None
) -> None:
    """1 within the window; 0 if followed through it, or death came first; otherwise unknown, never 0."""
    assert outcome(*times, person=person, kind="binary_window", window_s=30 * DAY)["window_label"] == label


def test_l62_a_horizon_censors() -> None:
    row = outcome("2020-05-01", horizon_s=30 * DAY)
    assert (row["state"], row["time_s"], row["end_s"], row["end_cause"]) == ("censored", None, 30 * DAY, 0)


def test_l27_a_death_task_puts_a_bare_date_at_its_day_end() -> None:
    under = policy(follows_death=True)
    row = outcome("2020-03-01", person={"death": "2020-03-01"}, under=under)
    assert row["state"] == "event" and row["time_s"] == day_end("2020-03-01") - T0


def test_l34_sex_and_age_are_at_risk_rules() -> None:
    assert sex_mask(["M", "F", None], "F").tolist() == [128, 0, 128]
    assert age_mask([17, 18, 65, 66, None], 18, 65).tolist() == [256, 0, 0, 256, 256]
    assert outcome("2020-05-01", extra_mask=np.array([128], dtype=np.uint16))["state"] == "masked"


def test_l93_the_reader_serves_outcomes_beside_the_task_set(tmp_path: Path) -> None:
    record = Record([Person(), Person(death="2021-01-01"), Person(periods=[])], [Scan(SCAN, i) for i in range(3)])
    facts, under = record.facts(), policy()
    windows = risk_windows(facts, under)
    candidates = Candidates(
        np.array([0]), np.array([at("2020-05-01")]), np.array([True]), np.array([1], dtype=np.uint8)
    )
    rows = outcome_rows(facts, windows, candidates, under)
    store = small_store(tmp_path, [Study(i + 1, end_s=int(windows.end_s[i]) + 1) for i in range(3)], num_tasks=1)
    add_outcomes(store, {"some_task": rows}, {"some_task": {"outcome_hash": "ab"}})
    labels = LabelStore.open(store)
    view = labels.task_view("some_task")
    assert labels.outcomes == ["some_task"]
    assert view.at_risk.tolist() == [True, True, False]
    assert view.cause.tolist()[:2] == [Event.EVENT, Event.COMPETING]
    assert view.time_s.tolist()[:2] == [at("2020-05-01") - T0, day_end("2021-01-01") - T0]
    import json

    document = json.loads((store / "outcomes.json").read_text())["some_task"]
    assert document["outcome_hash"] == "ab"
    assert document["states"]["train"] == {"masked": 1, "prevalent": 0, "event": 1, "competing": 1, "censored": 0}


def test_l93_rows_of_another_index_are_refused(tmp_path: Path) -> None:
    record = Record([Person()], [Scan(SCAN)])
    facts = record.facts()
    none = Candidates(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0, np.uint8))
    rows = outcome_rows(facts, risk_windows(facts, policy()), none, policy())
    store = small_store(tmp_path, [Study(99, end_s=10)], num_tasks=1)
    with pytest.raises(ValueError, match="rows are not those"):
        add_outcomes(store, {"t": rows}, {"t": {"outcome_hash": "x"}})


@pytest.mark.parametrize(("given", "anchors"), [("all", "all"), ("5000", 5000), (None, 200_000)])
def test_l53_anchors_are_named_on_the_command_line(tmp_path: Path, given: str | None, anchors: Any) -> None:
    settings = parse_settings(tmp_path, {}, environment={})
    assert _with_anchors(settings, given).labeling.anchors == anchors
    for wrong in ("0", "-1", "some"):
        with pytest.raises(UsageError, match="--anchors"):
            _with_anchors(settings, wrong)
    with pytest.raises(SettingsError, match="at least 1"):
        parse_settings(tmp_path, {"labeling": {"anchors": 0}}, environment={})


def test_l53_day_boundaries_start_a_day_after_birth_and_end_before_the_last_day() -> None:
    """Days 10, 12 and 15 are recorded: after the last one nothing can happen."""
    days = np.array([10, 12, 15])
    assert day_boundaries(days, None).tolist() == [11 * DAY - 1, 13 * DAY - 1]
    assert day_boundaries(days, 10).tolist() == [13 * DAY - 1]
    assert day_boundaries(days[:1], None).tolist() == []
