"""How well a score ranks and how well a probability fits: written here a second time, for the truth alone.

Definitions are those of the evaluation's documentation (Harrell's C; cumulative/dynamic AUC and Brier score weighted by
the inverse probability of censoring, a competing end counting as "no event any more"), and no code is shared with it.

N = persons, T = times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """What was seen of each person at risk: years, and how it ended; neither flag is the end of follow-up."""

    time: Floats
    event: Flags
    competing: Flags

    def rows(self, rows: NDArray[np.int64]) -> Outcome:
        """Those of some persons."""
        return Outcome(self.time[rows], self.event[rows], self.competing[rows])


@dataclass(frozen=True)
class Censoring:
    """Kaplan-Meier curve of the time to the end of follow-up: 1 before the first, a step function."""

    time: Floats
    curve: Floats

    def at(self, time: Floats) -> Floats:
        """Chance to be followed up to and including a time."""
        return np.asarray(self.curve[np.searchsorted(self.time, time, side="right")])

    def before(self, time: Floats) -> Floats:
        """Chance to be followed up to just before a time."""
        return np.asarray(self.curve[np.searchsorted(self.time, time, side="left")])


def censoring_of(outcome: Outcome) -> Censoring:
    """Estimate the censoring curve; an event comes before a censoring of the same instant."""
    censored = ~(outcome.event | outcome.competing)
    order = np.lexsort((censored, outcome.time))
    at_risk = len(order) - np.arange(len(order))
    steps = np.where(censored[order], 1.0 - 1.0 / at_risk, 1.0)
    return Censoring(outcome.time[order], np.concatenate([[1.0], np.cumprod(steps)]))


def concordance(time: Floats, event: Flags, risk: Floats) -> float:
    """Harrell's C over all comparable pairs; ties in risk count one half, equal times are not compared."""
    order = np.argsort(time, kind="stable")
    concordant, comparable = _count_pairs(time[order], event[order], risk[order])
    return float(concordant / comparable) if comparable else float("nan")


@njit(cache=True)
def _count_pairs(time: Any, event: Any, risk: Any) -> tuple[float, float]:
    concordant, comparable = 0.0, 0.0
    for first in range(len(time)):
        if not event[first]:
            continue
        for later in range(first + 1, len(time)):
            if time[later] > time[first]:
                comparable += 1.0
                if risk[first] > risk[later]:
                    concordant += 1.0
                elif risk[first] == risk[later]:
                    concordant += 0.5
    return concordant, comparable


def auroc(positive: Flags, risk: Floats) -> float:
    """Area under the ROC curve."""
    ones = np.ones(len(risk))
    return weighted_auc(risk, np.where(positive, ones, 0.0), np.where(positive, 0.0, ones))


def auroc_within(outcome: Outcome, risk: Floats, horizon: float) -> float:
    """AUROC of the event within a horizon, among those whose state at it is known."""
    positive = outcome.event & (outcome.time <= horizon)
    decided = positive | (outcome.time >= horizon) | outcome.competing
    return auroc(positive[decided], risk[decided])


def auc_at(outcome: Outcome, risk: Floats, time: float, censoring: Censoring) -> float:
    """Cumulative/dynamic AUC(t): events up to t against persons free of it at t, or for whom it can come no more."""
    within = outcome.time <= time
    past = 1.0 / censoring.before(outcome.time)
    case = np.where(within & outcome.event, past, 0.0)
    beyond = 1.0 / float(censoring.at(np.array([time]))[0])
    control = np.where(within, np.where(outcome.competing, past, 0.0), beyond)
    return weighted_auc(risk, case, control)


def brier_at(outcome: Outcome, probability: Floats, time: float, censoring: Censoring) -> float:
    """Brier score of the probability that the event has come by t."""
    within = outcome.time <= time
    past = 1.0 / censoring.before(outcome.time)
    beyond = 1.0 / float(censoring.at(np.array([time]))[0])
    happened = np.where(within & outcome.event, past * (1.0 - probability) ** 2, 0.0)
    ended = np.where(within & outcome.competing, past * probability**2, 0.0)
    free = np.where(within, 0.0, beyond * probability**2)
    return float((happened + ended + free).mean())


def integrated_brier(outcome: Outcome, probability_NT: Floats, times: Floats, censoring: Censoring) -> float:
    """Mean of the Brier score over a span of time, by trapezoids."""
    scores = np.array([brier_at(outcome, probability_NT[:, n], t, censoring) for n, t in enumerate(times)])
    return float(np.trapezoid(scores, times) / (times[-1] - times[0]))


def weighted_auc(risk: Floats, case: Floats, control: Floats) -> float:
    """Share of the weight of (case, control) pairs in which the case has the higher risk; ties count one half."""
    values, place = np.unique(risk, return_inverse=True)
    cases = np.bincount(place, weights=case, minlength=len(values))
    controls = np.bincount(place, weights=control, minlength=len(values))
    below = np.concatenate([[0.0], np.cumsum(controls)[:-1]])
    total = cases.sum() * controls.sum()
    return float((cases * (below + controls / 2)).sum() / total) if total else float("nan")
