"""Heads: fitted on train alone, penalties from valid, refused when events are few."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from presage_modeling.adaptation import fit_cox, fit_logistic
from presage_modeling.evaluation.outcome import Outcome
from presage_modeling.heads import (
    CoxHead,
    LogisticHead,
    Scaler,
    TooFew,
    breslow_baseline,
    partial_log_likelihood,
    ridge_cox,
)


def cohort(num_studies: int, width: int, seed: int = 0) -> tuple[np.ndarray, Outcome]:
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(num_studies, width)) * 3 + 1
    times = draw.exponential(400 / np.exp(0.5 * (features[:, 0] - 1) / 3 * 2))
    censoring = draw.uniform(50, 900, size=num_studies)
    event = np.where(times <= censoring, 1, np.where(np.arange(num_studies) % 7 == 0, 2, 0)).astype(np.uint8)
    return features, Outcome(np.minimum(times, censoring), event)


def test_m101_constant_columns_leave_by_name() -> None:
    features = np.column_stack([np.arange(5.0), np.full(5, 7.0), np.arange(5.0) ** 2])
    scaler = Scaler.fit(features, ["a", "b", "c"])
    assert scaler.dropped == ("b",) and scaler.kept.tolist() == [0, 2]
    scaled = scaler.apply(features)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(axis=0), 1)


def test_m102_a_cox_head_finds_the_column_that_matters() -> None:
    from sksurv.metrics import concordance_index_censored

    train, valid, test = (cohort(n, 6, seed) for seed, n in ((0, 400), (1, 100), (2, 300)))
    head = fit_cox(*train, *valid)
    assert isinstance(head, CoxHead) and head.method.startswith("CoxPHSurvivalAnalysis")
    assert np.abs(head.coefficient).argmax() == 0 and head.coefficient[0] > 0
    structured = test[1].survival()
    c_index = concordance_index_censored(structured["event"], structured["time"], head.risk(test[0]))[0]
    assert c_index > 0.68


def test_m102_above_128_columns_the_elastic_net_takes_over() -> None:
    head = fit_cox(*cohort(300, 150), *cohort(120, 150, seed=1))
    assert isinstance(head, CoxHead) and head.method.startswith("CoxnetSurvivalAnalysis")
    assert np.abs(head.coefficient).argmax() == 0


def test_m101_other_valid_rows_do_not_move_a_head_of_one_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("presage_modeling.adaptation.NUM_PENALTIES", 1)
    train = cohort(200, 4)
    first, second = (fit_cox(*train, *cohort(80, 4, seed)) for seed in (5, 6))
    assert isinstance(first, CoxHead) and isinstance(second, CoxHead)
    assert np.array_equal(first.coefficient, second.coefficient) and np.array_equal(
        first.scaler.mean, second.scaler.mean
    )


def test_m103_survival_follows_kaplan_meier_when_features_say_nothing() -> None:
    from sksurv.nonparametric import kaplan_meier_estimator

    _, outcome = cohort(500, 1)
    times, hazard = breslow_baseline(np.zeros(500), outcome)
    structured = outcome.survival()
    km_times, km = kaplan_meier_estimator(structured["event"], structured["time"])
    at = np.searchsorted(km_times, times)
    np.testing.assert_allclose(np.exp(-hazard[:400]), km[at][:400], atol=0.01)


def test_m103_survival_curves_fall_from_one_and_order_by_risk() -> None:
    train = cohort(300, 3)
    head = fit_cox(*train, *cohort(100, 3, seed=1))
    assert isinstance(head, CoxHead)
    curves = head.survival(train[0], np.array([0.0, 30.0, 180.0, 365.0]))
    assert (curves[:, 0] == 1).all() and (np.diff(curves, axis=1) <= 0).all()
    order = np.argsort(head.risk(train[0]))
    assert (np.diff(curves[order, 3]) <= 1e-12).all()


def test_the_partial_likelihood_is_efrons() -> None:
    # two deaths at time 1 among four: scores 0, risk set 4: log 1/4 + log 1/3; one at time 2 among two: log 1/2
    outcome = Outcome(np.array([1.0, 1, 2, 3]), np.array([1, 1, 1, 0], dtype=np.uint8))
    assert partial_log_likelihood(np.zeros(4), outcome) == pytest.approx(-np.log(4) - np.log(3) - np.log(2))


def test_the_partial_likelihood_agrees_with_lifelines() -> None:
    import pandas as pd
    from lifelines import CoxPHFitter

    features, outcome = cohort(150, 2)
    frame = pd.DataFrame(
        {"a": features[:, 0], "b": features[:, 1], "t": np.ceil(outcome.time_days / 60), "e": outcome.has()}
    )
    model = CoxPHFitter().fit(frame, "t", "e")
    tied = Outcome(frame["t"].to_numpy(), outcome.has().astype(np.uint8))
    scores = features @ model.params_.to_numpy()
    assert partial_log_likelihood(scores, tied) == pytest.approx(model.log_likelihood_, rel=1e-6)


@pytest.mark.parametrize("penalty", [1000.0, 10.0, 0.1])
@pytest.mark.parametrize("tied", [False, True])
def test_m102_the_fast_ridge_path_has_the_optimum_of_scikit_survival(penalty: float, tied: bool) -> None:
    from sksurv.linear_model import CoxPHSurvivalAnalysis

    features, outcome = cohort(250, 7)
    if tied:
        outcome = Outcome(np.ceil(outcome.time_days / 40), outcome.event)
    features = Scaler.fit(features).apply(features)
    ours = ridge_cox(features, outcome, penalty=penalty, start=np.zeros(7))
    theirs = CoxPHSurvivalAnalysis(alpha=penalty, ties="efron", tol=1e-12).fit(features, outcome.survival()).coef_
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("train", "valid"), [(19, 50), (50, 4)])
def test_m105_too_few_events_are_a_reason_not_a_head(train: int, valid: int) -> None:
    def with_events(number: int) -> tuple[np.ndarray, Outcome]:
        features, outcome = cohort(200, 2)
        event = (np.arange(200) < number).astype(np.uint8)
        return features, Outcome(outcome.time_days, event)

    few = fit_cox(*with_events(train), *with_events(valid))
    assert isinstance(few, TooFew) and f"{train} train and {valid} valid events" in few.reason
    labels = [(np.arange(200) < number).astype(np.int8) for number in (train, valid)]
    assert isinstance(fit_logistic(np.ones((200, 1)), labels[0], np.ones((200, 1)), labels[1]), TooFew)


@pytest.mark.parametrize("indicator", [np.ones(50, dtype=bool), [True] * 50, np.ones(50, dtype=int)])
def test_m100_a_bare_indicator_is_a_type_error(indicator: Any) -> None:
    features, outcome = cohort(50, 2)
    with pytest.raises(TypeError, match="expected an Outcome"):
        fit_cox(features, indicator, features, outcome)


def test_m104_a_logistic_head_ranks_and_leaves_out_the_unknown() -> None:
    from sklearn.metrics import roc_auc_score

    features, outcome = cohort(600, 3)
    label = outcome.window(200)
    assert (label == -1).any()
    head = fit_logistic(features[:400], label[:400], features[400:], label[400:])
    assert isinstance(head, LogisticHead)
    known = label[400:] != -1
    assert roc_auc_score(label[400:][known], head.risk(features[400:])[known]) > 0.65


def test_a_separated_outcome_is_fitted_with_a_penalty() -> None:
    features = np.linspace(-1, 1, 100)[:, None]
    label = (features[:, 0] > 0).astype(np.int8)
    head = fit_logistic(features, label, features, label)
    assert isinstance(head, LogisticHead) and np.isfinite(head.coefficient).all()


def test_constant_features_are_a_reason() -> None:
    _, outcome = cohort(100, 1)
    few = fit_cox(np.ones((100, 3)), outcome, np.ones((100, 3)), outcome)
    assert isinstance(few, TooFew) and "constant" in few.reason
