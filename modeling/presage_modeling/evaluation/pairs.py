"""Concordance statistics as ratios over ordered pairs (case, partner): Harrell, Uno, AUC(t), AUROC.

Every one of them is Σ w_ij [r_i > r_j] + ½ [r_i = r_j] over Σ w_ij, where i is a row with the event and j a row that
is known to be better off. One representation therefore gives the estimate, its person-clustered standard error, and
the statistic of any resample: multiplicities enter as weights, rows are never copied.

Sizes: n rows, m cases, B resamples. Work is O(B·m·n) in blocks of cases, memory O(block·n).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from presage_modeling.evaluation.curves import StepCurve
from presage_modeling.evaluation.outcome import UNKNOWN, Outcome
from presage_platform.labeling.event import Event

Floats = NDArray[np.float64]
BLOCK_CELLS = 4_000_000


@dataclass(frozen=True)
class PairStatistic:
    """A weighted concordance.

    Parameters
    ----------
    risk : array, shape = (n,)
        Higher = earlier event.
    time_days : array, shape = (n,)
    is_event : array of bool, shape = (n,)
    case : array of int, shape = (m,)
        Row numbers of the cases.
    case_weight : array, shape = (m,)
    partner_weight : array, shape = (n,)
    ordered : bool
        True: partners are the rows with a later time (an event is before a censoring at the same instant, two events
        at one instant are not comparable). False: partners are all rows of positive `partner_weight`.
    """

    risk: Floats
    time_days: Floats
    is_event: NDArray[np.bool_]
    case: NDArray[np.int64]
    case_weight: Floats
    partner_weight: Floats
    ordered: bool

    def estimate(self) -> float | None:
        """Return the concordance in [0, 1]; None without a comparable pair."""
        concordant, comparable, _, _ = self.sums()
        return concordant / comparable if comparable > 0 else None

    def sums(self) -> tuple[float, float, Floats, Floats]:
        """Return total concordant and comparable weight, and both per row (a pair counts for each of its two rows)."""
        by_row = np.zeros((2, len(self.risk)))
        total = np.zeros(2)
        for rows, comparable, score in self._blocks():
            for kind, block in enumerate((comparable * score, comparable)):
                total[kind] += block.sum()
                by_row[kind] += block.sum(axis=0)
                by_row[kind][rows] += block.sum(axis=1)
        return float(total[0]), float(total[1]), by_row[0], by_row[1]

    def standard_error(self, person: NDArray[np.int64]) -> float | None:
        """Return the infinitesimal-jackknife standard error, clustered by person.

        Without clustering this is the estimator of R's `survival::concordance`.

        References
        ----------
        .. [1] Therneau, Atkinson. Concordance. Vignette of the R package survival.
        """
        concordant, comparable, concordant_row, comparable_row = self.sums()
        if comparable <= 0:
            return None
        influence = (concordant_row - concordant / comparable * comparable_row) / comparable
        _, cluster = np.unique(person, return_inverse=True)
        return float(np.sqrt((np.bincount(cluster, weights=influence) ** 2).sum()))

    def resample(self, multiplicity: NDArray[np.float64]) -> Floats:
        """Return the statistic of each resample; NaN where a resample holds no comparable pair.

        Parameters
        ----------
        multiplicity : array, shape = (B, n)
            How often each row is drawn.
        """
        totals = np.zeros((2, len(multiplicity)))
        for rows, comparable, score in self._blocks():
            drawn = multiplicity[:, rows]
            totals[0] += ((multiplicity @ (comparable * score).T) * drawn).sum(axis=1)
            totals[1] += ((multiplicity @ comparable.T) * drawn).sum(axis=1)
        ratio: Floats = np.full(len(multiplicity), np.nan)
        np.divide(totals[0], totals[1], out=ratio, where=totals[1] > 0)
        return ratio

    def _blocks(self) -> Iterator[tuple[NDArray[np.int64], Floats, Floats]]:
        step = max(1, BLOCK_CELLS // max(1, len(self.risk)))
        for start in range(0, len(self.case), step):
            rows = self.case[start : start + step]
            comparable = np.outer(self.case_weight[start : start + step], self.partner_weight)
            if self.ordered:
                time = self.time_days[rows][:, None]
                later = (self.time_days > time) | ((self.time_days == time) & ~self.is_event)
                comparable *= later
            difference = self.risk[rows][:, None] - self.risk
            yield rows, comparable, 0.5 * (np.sign(difference) + 1.0)


def harrell(outcome: Outcome, risk: Floats) -> PairStatistic:
    """Return Harrell's C, cause-specific: a competing end counts as censored at its time (V16, V28)."""
    case = np.flatnonzero(outcome.has(Event.EVENT))
    return _ordered(outcome, risk, case, np.ones(len(case)))


def uno(outcome: Outcome, risk: Floats, censoring: StepCurve, tau_days: float) -> PairStatistic:
    """Return Uno's C up to `tau_days`: pairs weigh 1 / G(T_i)², G from train, events before tau only (V17).

    References
    ----------
    .. [1] Uno et al. On the C-statistics for evaluating overall adequacy of risk prediction procedures with censored
       survival data. Stat. Med. 30 (2011): 1105-1117.
    """
    case = np.flatnonzero(outcome.has(Event.EVENT) & (outcome.time_days < tau_days))
    weight = censoring.at(outcome.time_days[case])
    case, weight = case[weight > 0], weight[weight > 0]
    return _ordered(outcome, risk, case, weight**-2.0)


def uno_tau_days(train: Outcome, test: Outcome, censoring: StepCurve, *, min_uncensored: float = 0.05) -> float | None:
    """Return min(longest train time with G >= 0.05, longest test event time); None without either."""
    reachable = censoring.time_days[censoring.value >= min_uncensored]
    events = test.time_days[test.has(Event.EVENT)]
    if not len(reachable) or not len(events) or not len(train):
        return None
    return float(min(reachable.max(), events.max()))


def auc_at(outcome: Outcome, risk: Floats, censoring: StepCurve, horizon_days: float) -> PairStatistic:
    """Return the cumulative/dynamic AUC at a horizon, weighted by inverse probability of censoring (V19, V28).

    Cases have the event by the horizon and weigh 1 / G(T_i). Controls are free of it beyond the horizon, or ended by
    a competing event before it; the latter weigh 1 / G(T_j) against 1 / G(t) of the former.

    References
    ----------
    .. [1] Uno et al. Evaluating prediction rules for t-year survivors with censored regression models. JASA 102 (2007).
    .. [2] Blanche, Dartigues, Jacqmin-Gadda. Estimating and comparing time-dependent areas under ROC curves for
       censored event times with competing risks. Stat. Med. 32 (2013): 5381-5397.
    """
    within = outcome.time_days <= horizon_days
    case = np.flatnonzero(within & outcome.has(Event.EVENT))
    g_case = censoring.at(outcome.time_days[case])
    g_row, g_horizon = censoring.at(outcome.time_days), float(censoring.at(horizon_days))
    partner = np.zeros(len(outcome))
    if g_horizon > 0:
        partner[~within] = 1.0 / g_horizon
    competing = within & outcome.has(Event.COMPETING) & (g_row > 0)
    partner[competing] = 1.0 / g_row[competing]
    case, g_case = case[g_case > 0], g_case[g_case > 0]
    return _unordered(outcome, risk, case, 1.0 / g_case, partner)


def auroc(outcome: Outcome, risk: Floats, horizon_days: float) -> PairStatistic:
    """Return the area under the ROC curve of a window; studies censored within it are left out (V8, V20)."""
    label = outcome.window(horizon_days)
    case = np.flatnonzero(label == 1)
    partner = ((label == 0) & (label != UNKNOWN)).astype(np.float64)
    return _unordered(outcome, risk, case, np.ones(len(case)), partner)


def _ordered(outcome: Outcome, risk: Floats, case: NDArray[np.int64], weight: Floats) -> PairStatistic:
    return PairStatistic(
        risk, outcome.time_days, outcome.has(Event.EVENT), case, weight, np.ones(len(outcome)), ordered=True
    )


def _unordered(
    outcome: Outcome, risk: Floats, case: NDArray[np.int64], weight: Floats, partner: Floats
) -> PairStatistic:
    return PairStatistic(risk, outcome.time_days, outcome.has(Event.EVENT), case, weight, partner, ordered=False)
