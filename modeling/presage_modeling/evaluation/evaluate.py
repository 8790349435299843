"""From predictions and labels to one report document: every number with its n, its interval or the reason why not."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from presage_modeling.evaluation import bootstrap, figures, pairs, selfcheck
from presage_modeling.evaluation.calibration import observed_over_expected
from presage_modeling.evaluation.curves import StepCurve, censoring_distribution
from presage_modeling.evaluation.inputs import ArmScores, TaskCohort, restrict, task_cohort
from presage_modeling.evaluation.outcome import Outcome
from presage_platform.errors import InputError
from presage_platform.labeling.event import Event

if TYPE_CHECKING:
    from presage_platform.labeling.store import LabelStore

Floats = NDArray[np.float64]
SCHEMA_VERSION = "1.0.0"
MIN_CENSORING_SURVIVAL = 0.05
EXPLORATORY_RESAMPLES = 200


@dataclass(frozen=True)
class EvaluationSettings:
    """What is computed; every field is printed in the report."""

    horizons_days: tuple[float, ...] = (30.0, 180.0, 365.0)
    resamples: int = 1000
    seed: int = 20250101
    compare: tuple[tuple[str, str], ...] = ()
    intersect: bool = False
    min_cell: int = 11
    synthetic: bool = False


@dataclass(frozen=True)
class Metric:
    """One estimate. `estimate` is None exactly when `missing_reason` says why."""

    name: str
    arm: str
    horizon_days: float | None
    estimate: float | None
    low: float | None
    high: float | None
    se: float | None
    method: str
    num_studies: int
    num_persons: int
    num_events: int
    num_competing: int
    missing_reason: str | None = None
    interval_missing_reason: str | None = None
    replicates: Floats = field(default_factory=lambda: np.empty(0), repr=False, compare=False)

    def document(self) -> dict[str, Any]:
        """Return the metric as it stands in report.json."""
        document = asdict(self)
        del document["replicates"]
        return document


def evaluate(
    predictions: dict[str, dict[str, ArmScores]], labels: LabelStore, tasks: list[str], settings: EvaluationSettings
) -> dict[str, Any]:
    """Score every arm on every task and return the report's document (without inputs and versions).

    Parameters
    ----------
    predictions
        Arm → task → scores; an arm that lacks a task is listed as missing there.
    tasks
        Names of the headline tasks.

    Raises
    ------
    SelfCheckError
        When the outcome or its alignment contradicts itself; nothing may be reported then.
    InputError
        When the arms do not fit together.
    """
    if not any(task in scores for scores in predictions.values() for task in tasks):
        raise InputError(
            "no arm has a head for any of these tasks: too few events in train or valid (predictions/*.json of the run "
            "says for each), or no embeddings yet (`platform embed`)"
        )
    cohorts, arms = {}, {}
    for task in tasks:
        arms[task] = {arm: scores[task] for arm, scores in sorted(predictions.items()) if task in scores}
        if arms[task]:
            cohorts[task] = restrict(task_cohort(labels, task), arms[task], intersect=settings.intersect)
    persons = np.concatenate([cohort.test_person for cohort in cohorts.values()])
    plan = bootstrap.draw_plan(persons, resamples=settings.resamples, seed=settings.seed)
    checks, documents, metrics = [], [], {}
    for task, cohort in cohorts.items():
        checks += selfcheck.run_checks(cohort, arms[task], _declared(labels, task))
        metrics[task] = _task_metrics(cohort, arms[task], plan, settings)
        documents.append(_task_document(cohort, arms[task], metrics[task], settings))
    return {
        "schema_version": SCHEMA_VERSION,
        "synthetic": settings.synthetic,
        "settings": _settings_document(settings),
        "cohort": _cohort(cohorts, labels),
        "self_checks": [asdict(check) for check in checks],
        "tasks": documents,
        "summary": _summary(metrics, num_persons=len(plan.person)),
        "comparisons": _comparisons(metrics, settings, num_persons=len(plan.person)),
        "warnings": [*_cautions(labels, cohorts), *_warnings(checks, metrics, settings)],
    }


def _task_metrics(
    cohort: TaskCohort, arms: dict[str, ArmScores], plan: bootstrap.Plan, settings: EvaluationSettings
) -> list[Metric]:
    censoring = censoring_distribution(cohort.train) if len(cohort.train) else None
    weights = plan.rows(cohort.test_person)
    found = []
    for arm, all_scores in arms.items():
        scores = all_scores.rows(cohort.test_study)
        for name, horizon, statistic, reason in _statistics(cohort, scores.risk, censoring, settings.horizons_days):
            found.append(_metric(cohort, arm, name, horizon, statistic, reason, weights))
        found += _calibration_metrics(cohort, arm, scores, settings.horizons_days)
    return found


def _statistics(
    cohort: TaskCohort, risk: Floats, censoring: StepCurve | None, horizons: tuple[float, ...]
) -> list[tuple[str, float | None, pairs.PairStatistic | None, str | None]]:
    test = cohort.test
    no_events = None if test.count(Event.EVENT) else "no_events"
    found: list[tuple[str, float | None, pairs.PairStatistic | None, str | None]] = [
        ("harrell_c", None, pairs.harrell(test, risk), no_events)
    ]
    tau = pairs.uno_tau_days(cohort.train, test, censoring) if censoring else None
    if censoring is None or tau is None:
        found.append(("uno_c", None, None, no_events or "horizon_beyond_followup"))
    else:
        found.append(("uno_c", tau, pairs.uno(test, risk, censoring, tau), no_events))
    for horizon in horizons:
        reason = no_events or _horizon_reason(test, censoring, horizon)
        found.append(("auc_t", horizon, pairs.auc_at(test, risk, censoring, horizon) if censoring else None, reason))
        label = test.window(horizon)
        single = None if (label == 1).any() and (label == 0).any() else "single_class"
        found.append(("auroc", horizon, pairs.auroc(test, risk, horizon), reason or single))
    return found


def _horizon_reason(test: Outcome, censoring: StepCurve | None, horizon: float) -> str | None:
    if censoring is None or float(censoring.at(horizon)) < MIN_CENSORING_SURVIVAL:
        return "horizon_beyond_followup"
    return None if len(test) and test.time_days.max() >= horizon else "horizon_beyond_followup"


def _metric(
    cohort: TaskCohort,
    arm: str,
    name: str,
    horizon: float | None,
    statistic: pairs.PairStatistic | None,
    reason: str | None,
    weights: Floats,
) -> Metric:
    estimate = statistic.estimate() if statistic is not None and reason is None else None
    if estimate is None:
        return _missing(cohort, arm, name, horizon, reason or "no_comparable_pairs")
    assert statistic is not None
    replicates = statistic.resample(weights)
    num_persons = len(np.unique(cohort.test_person))
    limits = bootstrap.interval(replicates, num_persons=num_persons)
    return Metric(
        name=name,
        arm=arm,
        horizon_days=horizon,
        estimate=estimate,
        low=limits.low,
        high=limits.high,
        se=statistic.standard_error(cohort.test_person),
        method=METHODS[name],
        interval_missing_reason=limits.missing_reason,
        replicates=replicates,
        **_counts(cohort),
    )


METHODS = {
    "harrell_c": "Harrell's C, cause-specific",
    "uno_c": "Uno's C up to tau, G from train",
    "auc_t": "cumulative/dynamic AUC, IPCW",
    "auroc": "AUROC of the window, censored studies left out",
    "observed_expected": "Aalen-Johansen incidence over mean prediction",
}


def _missing(cohort: TaskCohort, arm: str, name: str, horizon: float | None, reason: str) -> Metric:
    return Metric(name, arm, horizon, None, None, None, None, METHODS[name], **_counts(cohort), missing_reason=reason)


def _counts(cohort: TaskCohort) -> dict[str, Any]:
    return {
        "num_studies": len(cohort.test),
        "num_persons": len(np.unique(cohort.test_person)),
        "num_events": cohort.test.count(Event.EVENT),
        "num_competing": cohort.test.count(Event.COMPETING),
    }


def _calibration_metrics(cohort: TaskCohort, arm: str, scores: ArmScores, horizons: tuple[float, ...]) -> list[Metric]:
    found = []
    for horizon in horizons:
        predicted = predicted_at(scores, horizon)
        ratio = None if predicted is None else observed_over_expected(cohort.test, predicted, horizon)
        if ratio is None:
            found.append(_missing(cohort, arm, "observed_expected", horizon, "needs_absolute_risk"))
            continue
        found.append(
            Metric(
                "observed_expected",
                arm,
                horizon,
                ratio,
                None,
                None,
                None,
                METHODS["observed_expected"],
                **_counts(cohort),
                interval_missing_reason="not_resampled",
            )
        )
    return found


def predicted_at(scores: ArmScores, horizon_days: float) -> Floats | None:
    """Return F(t | x) at a horizon that the arm has a survival probability for; None otherwise."""
    if scores.surv is None or horizon_days not in scores.times_days:
        return None
    return 1.0 - scores.surv[:, scores.times_days.index(horizon_days)]


def _task_document(
    cohort: TaskCohort, arms: dict[str, ArmScores], metrics: list[Metric], settings: EvaluationSettings
) -> dict[str, Any]:
    return {
        "task": cohort.task,
        "states": cohort.states,
        "lost": cohort.lost,
        "share_late_entry": cohort.share_late_entry,
        "median_follow_up_days": _median_follow_up(cohort.test),
        "metrics": [metric.document() for metric in metrics],
        "figures": figures.task_figures(cohort, arms, settings.horizons_days, settings.min_cell),
    }


def _median_follow_up(outcome: Outcome) -> float | None:
    """Return the reverse Kaplan–Meier median of follow-up, days."""
    if not len(outcome):
        return None
    curve = censoring_distribution(outcome)
    below = np.flatnonzero(curve.value <= 0.5)
    return float(curve.time_days[below[0]]) if len(below) else None


def _summary(metrics: dict[str, list[Metric]], *, num_persons: int) -> list[dict[str, Any]]:
    """Return the mean over tasks of each arm's metrics, with the interval that the shared plan gives."""
    rows = []
    arms = sorted({metric.arm for found in metrics.values() for metric in found})
    for arm in arms:
        for name, horizon in _averaged(metrics):
            chosen = [_find(found, arm, name, horizon) for found in metrics.values()]
            known = [metric for metric in chosen if metric is not None and metric.estimate is not None]
            if len(known) != len(metrics):
                rows.append(
                    {"arm": arm, "name": name, "horizon_days": horizon, "estimate": None, "num_tasks": len(known)}
                )
                continue
            limits = bootstrap.interval(np.mean([m.replicates for m in known], axis=0), num_persons=num_persons)
            rows.append(
                {
                    "arm": arm,
                    "name": name,
                    "horizon_days": horizon,
                    "estimate": float(np.mean([metric.estimate for metric in known if metric.estimate is not None])),
                    "low": limits.low,
                    "high": limits.high,
                    "num_tasks": len(known),
                }
            )
    return rows


def _averaged(metrics: dict[str, list[Metric]]) -> list[tuple[str, float | None]]:
    horizons = sorted(
        {m.horizon_days for found in metrics.values() for m in found if m.name == "auroc" and m.horizon_days}
    )
    return [("harrell_c", None), ("uno_c", None), *(("auroc", horizon) for horizon in horizons)]


def _find(found: list[Metric], arm: str, name: str, horizon: float | None) -> Metric | None:
    matches = (m for m in found if m.arm == arm and m.name == name and (horizon is None or m.horizon_days == horizon))
    return next(matches, None)


def _comparisons(
    metrics: dict[str, list[Metric]], settings: EvaluationSettings, *, num_persons: int
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for first, second in settings.compare:
        for name in ("uno_c", "harrell_c"):
            differences = {}
            for task, found in metrics.items():
                a, b = _find(found, first, name, None), _find(found, second, name, None)
                if a is not None and b is not None and a.estimate is not None and b.estimate is not None:
                    differences[task] = (a.estimate - b.estimate, a.replicates - b.replicates)
            rows += [
                _comparison(first, second, name, task, estimate, replicates, num_persons)
                for task, (estimate, replicates) in differences.items()
            ]
            if differences and len(differences) == len(metrics):
                estimate = float(np.mean([value for value, _ in differences.values()]))
                replicates = np.mean([drawn for _, drawn in differences.values()], axis=0)
                rows.append(_comparison(first, second, name, None, estimate, replicates, num_persons))
    family = [row["p"] if row["name"] == "uno_c" and row["task"] is not None else None for row in rows]
    for row, adjusted in zip(rows, bootstrap.holm(family), strict=True):
        row["p_holm"] = adjusted
    return rows


def _comparison(
    first: str, second: str, name: str, task: str | None, estimate: float, replicates: Floats, num_persons: int
) -> dict[str, Any]:
    limits = bootstrap.interval(replicates, num_persons=num_persons)
    return {
        "first": first,
        "second": second,
        "name": name,
        "task": task,
        "difference": estimate,
        "low": limits.low,
        "high": limits.high,
        "p": bootstrap.two_sided_p(replicates),
    }


def _declared(labels: LabelStore, task: str) -> dict[str, int] | None:
    """Return the test states of an outcome task as the label store counted them; None for a task of the task set."""
    path = labels.path / "outcomes.json"
    if task not in labels.outcomes or not path.is_file():
        return None
    states: dict[str, dict[str, int]] = json.loads(path.read_text(encoding="utf-8"))[task].get("states", {})
    return states.get("test")


def _cautions(labels: LabelStore, tasks: Iterable[str]) -> list[str]:
    """Return what the label store says of the outcomes themselves."""
    return [text for task in tasks if task in labels.outcomes for text in labels.outcome_cautions(task)]


def _cohort(cohorts: dict[str, TaskCohort], labels: LabelStore) -> dict[str, Any]:
    split = np.asarray(labels.studies["split"])
    person = np.asarray(labels.studies["person_id"])
    return {
        "num_studies": {name: int((split == code).sum()) for code, name in enumerate(("train", "valid", "test"))},
        "num_persons": {
            name: len(np.unique(person[split == code])) for code, name in enumerate(("train", "valid", "test"))
        },
        "num_tasks": len(cohorts),
    }


def _settings_document(settings: EvaluationSettings) -> dict[str, Any]:
    document = asdict(settings)
    return {**document, "compare": [list(pair) for pair in settings.compare], "interval_level": bootstrap.LEVEL}


def _warnings(
    checks: list[selfcheck.Check], metrics: dict[str, list[Metric]], settings: EvaluationSettings
) -> list[str]:
    found = [f"{check.rule} on {check.task}: {check.found}" for check in checks if not check.passed]
    if settings.resamples < EXPLORATORY_RESAMPLES:
        found.append(f"exploratory: {settings.resamples} resamples, expected at least {EXPLORATORY_RESAMPLES}")
    for task, of_task in metrics.items():
        for metric in of_task:
            if metric.name == "harrell_c" and metric.estimate is not None:
                if metric.estimate > 0.95 and not metric.arm.startswith("oracle"):
                    found.append(f"V14 on {task}: arm {metric.arm} scores C = {metric.estimate:.3f}; look for a leak")
                if metric.estimate == 0.5 and metric.se == 0.0:
                    found.append(f"constant_prediction: arm {metric.arm} on {task}")
    return found
