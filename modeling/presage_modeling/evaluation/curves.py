"""Step curves of follow-up: Kaplan–Meier, the censoring distribution G, and Aalen–Johansen incidence.

Times are days. Ties at one instant follow the house rule: event before censoring (evaluation V15).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from presage_modeling.evaluation.outcome import Outcome
from presage_platform.labeling.event import Event

Floats = NDArray[np.float64]
Z_95 = 1.959963984540054


@dataclass(frozen=True)
class StepCurve:
    """A right-continuous step function of time.

    Parameters
    ----------
    time_days : array, shape = (num_steps,)
        Ascending times at which the curve may change.
    value : array, shape = (num_steps,)
        Value from each time on, in [0, 1].
    num_at_risk : array, shape = (num_steps,)
        Rows still under observation just before each time.
    variance : array, shape = (num_steps,)
        Variance of the value (Greenwood for Kaplan–Meier; Aalen's for incidence).
    before : float
        Value before the first time: 1 for survival, 0 for incidence.
    """

    time_days: Floats
    value: Floats
    num_at_risk: NDArray[np.int64]
    variance: Floats
    before: float = 1.0

    def at(self, time_days: float | Floats) -> Floats:
        """Return the curve's value at each time."""
        step = np.searchsorted(self.time_days, np.asarray(time_days, dtype=np.float64), side="right") - 1
        return np.where(step < 0, self.before, self.value[np.maximum(step, 0)])

    def interval_at(self, time_days: float) -> tuple[float, float]:
        """Return the 95 % interval at one time, on the complementary log-log scale (limits stay within [0, 1])."""
        step = int(np.searchsorted(self.time_days, time_days, side="right")) - 1
        if step < 0:
            return self.before, self.before
        return log_log_interval(float(self.value[step]), float(self.variance[step]))

    def at_risk_at(self, time_days: float) -> int:
        """Return how many rows are under observation just before a time."""
        step = int(np.searchsorted(self.time_days, time_days, side="left"))
        return int(self.num_at_risk[step]) if step < len(self.num_at_risk) else 0


def kaplan_meier(outcome: Outcome) -> StepCurve:
    """Return survival free of `EVENT`, every other ending censored, with Greenwood's variance.

    References
    ----------
    .. [1] Kaplan, Meier. Nonparametric estimation from incomplete observations. JASA 53 (1958): 457-481.
    """
    time_days, num_at_risk, num_event, _ = _table(outcome)
    return _product_limit(time_days, num_at_risk, num_event)


def censoring_distribution(outcome: Outcome) -> StepCurve:
    """Return G, the Kaplan–Meier curve of the censoring time: CENSORED is "the event", EVENT and COMPETING are not.

    Rows whose event falls on the instant of a censoring have left before it (V15), as in scikit-survival's
    `CensoringDistributionEstimator`.
    """
    time_days, num_at_risk, num_event, num_competing = _table(outcome)
    num_censored = _count(outcome, Event.CENSORED, time_days)
    return _product_limit(time_days, num_at_risk - num_event - num_competing, num_censored)


def cumulative_incidence(outcome: Outcome) -> StepCurve:
    """Return the Aalen–Johansen incidence of EVENT when COMPETING ends may come first.

    References
    ----------
    .. [1] Aalen. Nonparametric estimation of partial transition probabilities. Ann. Stat. 6 (1978): 534-545.
    """
    time_days, num_at_risk, num_event, num_competing = _table(outcome)
    at_risk = np.maximum(num_at_risk, 1).astype(np.float64)
    hazard, any_hazard = num_event / at_risk, (num_event + num_competing) / at_risk
    survival = np.cumprod(1.0 - any_hazard)
    survival_before = np.concatenate([[1.0], survival[:-1]])
    incidence: Floats = np.cumsum(survival_before * hazard)
    variance = _aalen_variance(incidence, survival_before, num_at_risk, num_event, num_competing)
    return StepCurve(time_days, incidence, num_at_risk, variance, before=0.0)


def log_log_interval(value: float, variance: float) -> tuple[float, float]:
    """Return the 95 % interval of a probability from its variance, on the log(-log) scale."""
    if not 0.0 < value < 1.0 or variance <= 0.0:
        return value, value
    width = Z_95 * np.sqrt(variance) / abs(value * np.log(value))
    low, high = value ** np.exp(width), value ** np.exp(-width)
    return float(low), float(high)


def _table(outcome: Outcome) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    time_days = np.unique(outcome.time_days)
    ordered = np.sort(outcome.time_days)
    num_at_risk = (len(outcome) - np.searchsorted(ordered, time_days, side="left")).astype(np.int64)
    return time_days, num_at_risk, _count(outcome, Event.EVENT, time_days), _count(outcome, Event.COMPETING, time_days)


def _count(outcome: Outcome, cause: Event, time_days: Floats) -> NDArray[np.int64]:
    place = np.searchsorted(time_days, outcome.time_days[outcome.has(cause)])
    return np.bincount(place, minlength=len(time_days)).astype(np.int64)


def _product_limit(time_days: Floats, num_at_risk: NDArray[np.int64], num_event: NDArray[np.int64]) -> StepCurve:
    at_risk: Floats = np.maximum(num_at_risk, 1).astype(np.float64)
    value: Floats = np.cumprod(1.0 - num_event / at_risk).astype(np.float64)
    term = _divide(num_event.astype(np.float64), at_risk * (num_at_risk - num_event))
    return StepCurve(time_days, value, num_at_risk, value**2 * np.cumsum(term))


def _aalen_variance(
    incidence: Floats,
    survival_before: Floats,
    num_at_risk: NDArray[np.int64],
    num_event: NDArray[np.int64],
    num_competing: NDArray[np.int64],
) -> Floats:
    # Pintilie, Competing Risks (2006), eq. 4.5: Var F(t) = Σ (F(t) − F(u))² a(u) + Σ b(u) − 2 Σ (F(t) − F(u)) c(u),
    # sums over u <= t, expanded into running sums.
    n, end = num_at_risk.astype(np.float64), (num_event + num_competing).astype(np.float64)
    own = num_event * (n - num_event)
    a = _divide(end, (n - 1) * (n - end))
    b = _divide(survival_before**2 * own, (n - 1) * n**2)
    c = _divide(survival_before * own, n * (n - end) * (n - 1))
    squares = incidence**2 * np.cumsum(a) - 2 * incidence * np.cumsum(incidence * a) + np.cumsum(incidence**2 * a)
    cross = incidence * np.cumsum(c) - np.cumsum(incidence * c)
    return np.maximum(squares + np.cumsum(b) - 2 * cross, 0.0)


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator > 0)
