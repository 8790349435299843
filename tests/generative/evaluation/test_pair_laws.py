"""Laws of the concordance statistics, on random small cohorts with ties in time and risk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presage_modeling.evaluation import pairs
from presage_modeling.evaluation.bootstrap import draw_plan
from presage_modeling.evaluation.curves import censoring_distribution, cumulative_incidence, kaplan_meier
from presage_modeling.evaluation.outcome import Outcome
from presage_modeling.evaluation.selfcheck import perfect_risk


@st.composite
def cohorts(draw: st.DrawFn, competing: bool = False) -> tuple[Outcome, np.ndarray]:
    size = draw(st.integers(4, 60))
    time = draw(st.lists(st.integers(1, 25), min_size=size, max_size=size))
    event = draw(st.lists(st.integers(0, 2 if competing else 1), min_size=size, max_size=size))
    risk = draw(st.lists(st.integers(-8, 8), min_size=size, max_size=size))
    return Outcome(np.array(time, float), np.array(event, np.uint8)), np.array(risk, float)


@settings(max_examples=150, deadline=None)
@given(cohorts())
def test_v32_harrell_equals_scikit_survival(cohort: tuple[Outcome, np.ndarray]) -> None:
    from sksurv.metrics import concordance_index_censored

    outcome, risk = cohort
    structured = outcome.survival()
    found = pairs.harrell(outcome, risk).estimate()
    later = outcome.time_days > outcome.time_days[:, None]
    beside = (outcome.time_days == outcome.time_days[:, None]) & (outcome.event == 0)
    if not ((later | beside) & (outcome.event == 1)[:, None]).any():
        assert found is None
        return
    expected = concordance_index_censored(structured["event"], structured["time"], risk)[0]
    assert found == pytest.approx(expected, abs=1e-10)


@settings(max_examples=80, deadline=None)
@given(cohorts(competing=True), st.integers(0, 2**31))
def test_v71_order_preserving_changes_change_nothing(cohort: tuple[Outcome, np.ndarray], seed: int) -> None:
    outcome, risk = cohort
    censoring = censoring_distribution(outcome)
    order = np.random.default_rng(seed).permutation(len(outcome))
    for build in (
        lambda o, r: pairs.harrell(o, r),
        lambda o, r: pairs.auc_at(o, r, censoring, 12.0),
        lambda o, r: pairs.auroc(o, r, 12.0),
    ):
        found = build(outcome, risk).estimate()
        if found is None:
            continue
        assert build(outcome, np.exp(risk)).estimate() == pytest.approx(found, abs=1e-12)
        assert build(outcome, -risk).estimate() == pytest.approx(1 - found, abs=1e-12)
        assert build(outcome.take(order), risk[order]).estimate() == pytest.approx(found, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(cohorts(competing=True), st.lists(st.integers(0, 3), min_size=60, max_size=60))
def test_v71_a_weight_is_a_repetition(cohort: tuple[Outcome, np.ndarray], counts: list[int]) -> None:
    outcome, risk = cohort
    weight = np.array(counts[: len(outcome)])
    repeated = np.repeat(np.arange(len(outcome)), weight)
    resampled = pairs.harrell(outcome, risk).resample(weight[None].astype(float))[0]
    if not len(repeated):
        assert np.isnan(resampled)
        return
    expected = pairs.harrell(outcome.take(repeated), risk[repeated]).estimate()
    # Repetitions of one row are pairs of equal times and are never comparable, so weights and copies agree exactly.
    if expected is None:
        assert np.isnan(resampled)
    else:
        assert resampled == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(cohorts())
def test_v72_without_competing_ends_incidence_is_one_minus_survival(cohort: tuple[Outcome, np.ndarray]) -> None:
    outcome, _ = cohort
    times = np.arange(0, 27.0)
    assert cumulative_incidence(outcome).at(times) == pytest.approx(1 - kaplan_meier(outcome).at(times), abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(cohorts(competing=True))
def test_v10_the_outcome_scores_itself_perfectly(cohort: tuple[Outcome, np.ndarray]) -> None:
    outcome, _ = cohort
    best = pairs.harrell(outcome, perfect_risk(outcome)).estimate()
    assert best in (None, 1.0)
    assert pairs.harrell(outcome, -perfect_risk(outcome)).estimate() in (None, 0.0)


def test_v40_the_plan_is_a_function_of_persons_and_seed() -> None:
    person = np.array([5, 3, 3, 9, 7])
    plan = draw_plan(person, resamples=40, seed=1)
    again = draw_plan(person[::-1], resamples=40, seed=1)
    assert (plan.count == again.count).all()
    assert (plan.count.sum(axis=1) == 4).all()
    rows = plan.rows(person)
    assert (rows[:, 1] == rows[:, 2]).all(), "studies of one person enter together"
    assert not (plan.count == draw_plan(person, resamples=40, seed=2).count).all()
