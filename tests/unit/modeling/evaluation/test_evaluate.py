"""An evaluation of known risks: what it finds, what it refuses, what it hides."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from presage_modeling.evaluation import selfcheck
from presage_modeling.evaluation.bootstrap import holm, interval
from presage_modeling.evaluation.calibration import grouped, observed_over_expected
from presage_modeling.evaluation.evaluate import EvaluationSettings, evaluate
from presage_modeling.evaluation.inputs import read_predictions, restrict, task_cohort
from presage_modeling.evaluation.outcome import Outcome
from presage_modeling.evaluation.report import answer, suppressed, write_report
from presage_platform.errors import InputError, SelfCheckError
from tests.lib import evaluation as made


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return made.document()


def test_v42_an_arm_that_sees_more_is_better_and_the_paired_interval_says_so(document: dict[str, Any]) -> None:
    mean = next(r for r in document["comparisons"] if r["task"] is None and r["name"] == "harrell_c")
    assert mean["first"] == "time_to_event" and mean["low"] > 0 < mean["difference"]
    assert "clear of zero" in answer(document)


def test_v30_every_estimate_carries_its_numbers(document: dict[str, Any]) -> None:
    for task in document["tasks"]:
        for metric in task["metrics"]:
            assert (metric["estimate"] is None) == (metric["missing_reason"] is not None)
            assert metric["num_studies"] >= metric["num_persons"] > 0 and metric["num_events"] > 0


def test_v9_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    write_report(made.document(synthetic=True), tmp_path / "a")
    write_report(made.document(synthetic=True), tmp_path / "b")
    for name in ("report.json", "report.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_v53_no_nan_reaches_the_json(tmp_path: Path, document: dict[str, Any]) -> None:
    write_report(document, tmp_path)
    json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda word: pytest.fail(word))


def test_v13_a_label_that_leaks_into_the_order_of_rows_stops_the_run() -> None:
    labels, z = made.made_up()
    cohort = task_cohort(labels, made.TASKS[0])  # type: ignore[arg-type]
    scores = made.arm(z, 0.1, 1)[made.TASKS[0]]
    assert all(check.passed for check in selfcheck.run_checks(cohort, {"a": scores}, None))
    order = np.random.default_rng(selfcheck.CANARY_SEED).permutation(len(cohort.test_study))
    perfect = selfcheck.perfect_risk(cohort.test)
    leaked = np.empty(len(order))
    leaked[order] = perfect  # so that the canary's own shuffle brings the outcome's order back
    risk = scores.risk.copy()
    risk[np.searchsorted(scores.study_id, cohort.test_study)] = leaked
    with pytest.raises(SelfCheckError, match="V13"):
        selfcheck.run_checks(cohort, {"a": dataclasses.replace(scores, risk=risk)}, None)


def test_v11_a_flipped_indicator_is_found() -> None:
    labels, _ = made.made_up()
    cohort = task_cohort(labels, made.TASKS[0])  # type: ignore[arg-type]
    counts = {name: cohort.test.count(code) for code, name in enumerate(("censored", "event", "competing"))}  # type: ignore[arg-type]
    assert all(check.passed for check in selfcheck.run_checks(cohort, {}, counts))
    swapped = np.array([1, 0, 2], np.uint8)[cohort.test.event]
    flipped = dataclasses.replace(cohort, test=Outcome(cohort.test.time_days, swapped))
    with pytest.raises(SelfCheckError, match="V11"):
        selfcheck.run_checks(flipped, {}, counts)


def test_v11_late_events_alone_are_a_warning() -> None:
    late = Outcome(
        np.r_[np.full(30, 990.0), np.linspace(1, 500, 30)], np.r_[np.ones(30), np.zeros(30)].astype(np.uint8)
    )
    labels, _ = made.made_up()
    cohort = dataclasses.replace(task_cohort(labels, made.TASKS[0]), test=late, test_person=np.arange(60))  # type: ignore[arg-type]
    (check,) = [c for c in selfcheck.run_checks(cohort, {}, None) if c.rule == "V11b"]
    assert not check.passed and not check.fatal


def test_l71_what_a_label_store_says_of_its_outcomes_is_printed_in_every_report(tmp_path: Path) -> None:
    class Noted:
        outcomes = (made.TASKS[0],)

        def outcome_cautions(self, name: str) -> list[str]:
            return [f"task {name}: its own tests were not run (--skip-tests)"]

    from presage_modeling.evaluation.evaluate import _cautions

    found = _cautions(Noted(), made.TASKS)  # type: ignore[arg-type]
    assert found == [f"task {made.TASKS[0]}: its own tests were not run (--skip-tests)"]
    write_report(made.document() | {"warnings": found}, tmp_path)
    for name in ("report.json", "report.html"):
        assert "its own tests were not run (--skip-tests)" in (tmp_path / name).read_text()


def test_v62_arms_of_different_test_sets_are_refused_unless_asked_for() -> None:
    labels, z = made.made_up()
    task = made.TASKS[0]
    whole = made.arm(z, 1.0, 1)[task]
    part = dataclasses.replace(whole, study_id=whole.study_id[:-40], risk=whole.risk[:-40], surv=None)
    cohort = task_cohort(labels, task)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="different test studies"):
        restrict(cohort, {"a": whole, "b": part}, intersect=False)
    shared = restrict(cohort, {"a": whole, "b": part}, intersect=True)
    assert set(shared.test_study) <= set(part.study_id.tolist()) and shared.lost["not_scored_by_all"] > 0


def test_v51_small_counts_are_hidden_and_zero_is_not() -> None:
    before = {
        "states": {"test": {"event": 3, "competing": 0, "censored": 11}},
        "num_events": 10,
        "estimate": 0.5,
        "n": 4,
    }
    after = suppressed(before)
    assert after["states"]["test"] == {"event": "<11", "competing": 0, "censored": 11}
    assert after["num_events"] == "<11" and after["estimate"] == 0.5


def test_v51_curves_stop_where_few_are_at_risk(document: dict[str, Any]) -> None:
    for task in document["tasks"]:
        for figure in task["figures"]:
            for curve in figure.get("curves", []):
                assert all(number >= 11 or time == 0.0 for time, number in curve.get("at_risk", []))


def test_v70_a_task_without_events_is_missing_with_its_reason() -> None:
    labels, z = made.made_up()
    task = made.TASKS[0]
    view = labels.views[task]
    labels.views[task] = dataclasses.replace(view, cause=np.where(view.cause == 1, 0, view.cause).astype(np.uint8))
    arms = {"base": made.arm(z, 1.0, 1)}
    found = evaluate(arms, labels, [task], EvaluationSettings(resamples=50))  # type: ignore[arg-type]
    reasons = {m["missing_reason"] for m in found["tasks"][0]["metrics"] if m["name"] != "observed_expected"}
    assert reasons == {"no_events"} and found["tasks"][0]["figures"] == []


def test_v41_too_many_void_resamples_give_no_interval() -> None:
    assert interval(np.array([np.nan] * 10 + [0.5] * 90), num_persons=9).missing_reason == "too_few_valid_resamples"
    assert interval(np.array([0.5] * 100), num_persons=1).missing_reason == "one_cluster"


def test_v44_holm_adjusts_in_order() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]


def test_v25_groups_of_a_calibrated_risk_lie_on_the_diagonal() -> None:
    rng = np.random.default_rng(3)
    rate = np.exp(rng.normal(size=20_000)) / 900
    event, censor = rng.exponential(1 / rate), rng.exponential(1500, 20_000)
    outcome = Outcome(np.minimum(event, censor), (event <= censor).astype(np.uint8))
    predicted = 1 - np.exp(-rate * 365)
    for group in grouped(outcome, predicted, 365.0):
        assert group.observed == pytest.approx(group.predicted, abs=0.04)
    assert observed_over_expected(outcome, predicted, 365.0) == pytest.approx(1.0, abs=0.03)
    assert observed_over_expected(outcome, predicted**2, 365.0) > 1.3  # type: ignore[operator]


def write(path: Path, **columns: Any) -> Path:
    table = pa.table({"study_id": [1, 2], "task": ["t", "t"], "arm": ["a", "a"], "fold": [0, 0], **columns})
    pq.write_table(table.replace_schema_metadata({"times_days": "[30.0, 365.0]"}), path)
    return path


def test_v2_predictions_are_checked_at_the_door(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    good = read_predictions(write(path, risk=[0.1, 0.2], surv=[[0.9, 0.8], [1.0, 0.5]]))
    assert good["a"]["t"].times_days == (30.0, 365.0)
    for columns, words in (
        ({"risk": [0.1, float("nan")]}, "non-finite"),
        ({"risk": [0.1, 0.2], "surv": [[0.9, 0.95], [1.0, 0.5]]}, "not probabilities falling"),
        ({"risk": [0.1, 0.2], "study_id": [7, 7]}, "twice"),
        ({"other": [1, 2]}, "risk or surv"),
    ):
        with pytest.raises(InputError, match=words):
            read_predictions(write(path, **columns))
    path.write_text("no parquet")
    with pytest.raises(InputError, match="not a readable Parquet"):
        read_predictions(path)
