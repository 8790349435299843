"""Grouped calibration: predicted against observed risk at a horizon, by groups of predicted risk (evaluation V25)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from presage_modeling.evaluation.curves import cumulative_incidence
from presage_modeling.evaluation.outcome import Outcome
from presage_platform.labeling.event import Event

NUM_GROUPS = 10
MIN_EVENTS = 5


@dataclass(frozen=True)
class Group:
    """One group of predicted risk: mean prediction, observed risk with its 95 % interval, and the numbers behind it."""

    predicted: float
    observed: float
    low: float
    high: float
    num_studies: int
    num_events: int


def grouped(outcome: Outcome, predicted: NDArray[np.float64], horizon_days: float) -> list[Group]:
    """Return deciles of the predicted risk, neighbours merged until each holds `MIN_EVENTS` events by the horizon.

    The observed risk is the Aalen–Johansen incidence at the horizon, which is 1 − Kaplan–Meier when nothing competes.
    """
    order = np.argsort(predicted, kind="stable")
    by_horizon = outcome.has(Event.EVENT) & (outcome.time_days <= horizon_days)
    merged: list[NDArray[np.int64]] = []
    for rows in np.array_split(order, min(NUM_GROUPS, max(1, len(order)))):
        if merged and by_horizon[merged[-1]].sum() < MIN_EVENTS:
            merged[-1] = np.concatenate([merged[-1], rows])
        else:
            merged.append(rows)
    if len(merged) > 1 and by_horizon[merged[-1]].sum() < MIN_EVENTS:
        last = merged.pop()
        merged[-1] = np.concatenate([merged[-1], last])
    return [_group(outcome.take(rows), predicted[rows], int(by_horizon[rows].sum()), horizon_days) for rows in merged]


def observed_over_expected(outcome: Outcome, predicted: NDArray[np.float64], horizon_days: float) -> float | None:
    """Return calibration-in-the-large O/E at the horizon: 1 = as many events as predicted; None without predictions."""
    expected = float(predicted.mean()) if len(predicted) else 0.0
    if expected <= 0:
        return None
    return float(cumulative_incidence(outcome).at(horizon_days)) / expected


def _group(outcome: Outcome, predicted: NDArray[np.float64], num_events: int, horizon_days: float) -> Group:
    curve = cumulative_incidence(outcome)
    low, high = sorted(curve.interval_at(horizon_days))
    observed = float(curve.at(horizon_days))
    return Group(float(predicted.mean()), observed, low, high, len(outcome), num_events)
