"""Outcomes cannot be inverted: typed codes in, booleans refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from presage_modeling.evaluation.outcome import Outcome
from presage_platform.labeling.event import Event

TIMES = np.array([10.0, 400.0, 30.0, 200.0])
CODES = np.array([1, 0, 2, 0], dtype=np.uint8)


@pytest.mark.parametrize("event", [np.array([True, False, True, False]), np.array([1.0, 0, 0, 1])])
def test_v3_a_boolean_or_float_indicator_is_refused(event: np.ndarray) -> None:
    with pytest.raises(TypeError, match="event"):
        Outcome(TIMES, event)


@pytest.mark.parametrize(
    ("time_days", "event"),
    [
        (TIMES[:3], CODES),
        (-TIMES, CODES),
        (TIMES * np.nan, CODES),
        (TIMES, CODES + 1),
        (TIMES[:, None], CODES[:, None]),
    ],
)
def test_v3_impossible_values_are_refused(time_days: np.ndarray, event: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        Outcome(time_days, event)


def test_v4_rows_that_are_not_at_risk_leave() -> None:
    view = SimpleNamespace(
        study_id=np.arange(3),
        time_s=np.array([86_400, 5, 172_800], dtype=np.int32),
        cause=np.array([1, 1, 2], dtype=np.uint8),
        at_risk=np.array([True, False, True]),
    )
    outcome = Outcome.from_labels(view)
    assert outcome.time_days.tolist() == [1.0, 2.0] and outcome.event.tolist() == [1, 2]


def test_m100_the_structured_array_is_cause_specific() -> None:
    outcome = Outcome(TIMES, CODES)
    assert outcome.survival()["event"].tolist() == [True, False, False, False]
    assert outcome.survival(Event.COMPETING)["event"].tolist() == [False, False, True, False]


def test_m100_early_events_at_high_risk_give_a_c_index_of_one() -> None:
    from sksurv.metrics import concordance_index_censored

    outcome = Outcome(TIMES, np.ones(4, dtype=np.uint8))
    structured = outcome.survival()
    assert concordance_index_censored(structured["event"], structured["time"], -TIMES)[0] == 1.0


def test_v8_a_window_knows_what_it_does_not_know() -> None:
    assert Outcome(TIMES, CODES).window(100).tolist() == [1, 0, 0, 0]
    assert Outcome(TIMES, CODES).window(300).tolist() == [1, 0, 0, -1]
    with pytest.raises(ValueError, match="horizon"):
        Outcome(TIMES, CODES).window(0)


def test_an_outcome_does_not_change() -> None:
    outcome = Outcome(TIMES, CODES)
    with pytest.raises(ValueError, match="read-only"):
        outcome.time_days[0] = 3
