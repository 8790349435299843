"""Checks that run before any metric is believed; there is no switch to skip them (evaluation V10–V13)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from presage_modeling.evaluation import pairs
from presage_modeling.evaluation.inputs import ArmScores, TaskCohort
from presage_modeling.evaluation.outcome import Outcome
from presage_platform.errors import SelfCheckError
from presage_platform.labeling.event import Event

CANARY_SEED = 0xCA7A
CANARY_STANDARD_ERRORS = 4.0
LATE_SHARE = 0.5
LATE_PART = 0.95


@dataclass(frozen=True)
class Check:
    """One self-check: its rule, what was found, whether it is fatal, and whether it passed."""

    rule: str
    task: str
    passed: bool
    found: str
    fatal: bool = True


def run_checks(cohort: TaskCohort, arms: dict[str, ArmScores], declared: dict[str, int] | None) -> list[Check]:
    """Run every check of one task.

    Parameters
    ----------
    declared
        Number of test studies by state (`event`, `competing`, `censored`) as the label store's manifest says, or None
        when the store does not say.

    Raises
    ------
    SelfCheckError
        When a fatal check fails: no number of this evaluation may be believed then.
    """
    checks = [*oracle(cohort), *flipped(cohort, declared)]
    for arm, scores in sorted(arms.items()):
        checks.extend(canary(cohort, arm, scores.rows(cohort.test_study).risk))
    for check in checks:
        if check.fatal and not check.passed:
            raise SelfCheckError(
                f"self-check {check.rule} failed on {check.task}: {check.found}; "
                "the outcome or its alignment is wrong, no report is written"
            )
    return checks


def oracle(cohort: TaskCohort) -> list[Check]:
    """V10, V12: the outcome's own order scores exactly 1, its reverse exactly 0, a constant exactly one half."""
    risk = perfect_risk(cohort.test)
    best = pairs.harrell(cohort.test, risk).estimate()
    if best is None:
        return []
    worst = pairs.harrell(cohort.test, -risk).estimate()
    constant = pairs.harrell(cohort.test, np.zeros(len(risk))).estimate()
    return [
        Check("V10", cohort.task, best == 1.0 and worst == 0.0, f"oracle risk scores C = {best}, reversed {worst}"),
        Check("V12", cohort.task, constant == 0.5, f"constant risk scores C = {constant}"),
    ]


def perfect_risk(outcome: Outcome) -> NDArray[np.float64]:
    """Return −rank of (time, event before others): plain −time would tie an event with a censoring at its instant."""
    order = np.lexsort((~outcome.has(Event.EVENT), outcome.time_days))
    key = np.stack([outcome.time_days[order], (~outcome.has(Event.EVENT))[order].astype(np.float64)])
    new = np.concatenate([[0], np.cumsum((np.diff(key, axis=1) != 0).any(axis=0))])
    risk = np.empty(len(outcome))
    risk[order] = -new.astype(np.float64)
    return risk


def flipped(cohort: TaskCohort, declared: dict[str, int] | None) -> list[Check]:
    """V11: an indicator that points the wrong way does not agree with what the label store counted and looks late."""
    test = cohort.test
    checks = []
    if declared is not None and not cohort.lost.get("not_scored") and not cohort.lost.get("not_scored_by_all"):
        found = {"event": test.count(Event.EVENT), "competing": test.count(Event.COMPETING)}
        found["censored"] = test.count(Event.CENSORED)
        checks.append(
            Check(
                "V11",
                cohort.task,
                found == {name: declared.get(name, 0) for name in found},
                f"{found['event']} events among {len(test)} test studies, "
                f"the label store counted {declared.get('event', 0)}",
            )
        )
    checks.append(_late_events(cohort))
    return checks


def canary(cohort: TaskCohort, arm: str, risk: NDArray[np.float64]) -> list[Check]:
    """V13: predictions shuffled between persons must score like chance, or labels leak into the order of rows."""
    shuffled = np.random.default_rng(CANARY_SEED).permutation(risk)
    statistic = pairs.harrell(cohort.test, shuffled)
    estimate, error = statistic.estimate(), statistic.standard_error(cohort.test_person)
    if estimate is None or error is None:
        return []
    passed = abs(estimate - 0.5) <= CANARY_STANDARD_ERRORS * error
    return [
        Check("V13", cohort.task, passed, f"arm {arm} shuffled scores C = {estimate:.3f}, standard error {error:.3f}")
    ]


def _late_events(cohort: TaskCohort) -> Check:
    test = cohort.test
    events, censored = test.time_days[test.has(Event.EVENT)], test.time_days[test.has(Event.CENSORED)]
    longest = float(test.time_days.max()) if len(test) else 0.0
    late = bool(
        len(events)
        and len(censored)
        and np.median(events) > np.median(censored) + 0.2 * longest
        and (events > LATE_PART * longest).mean() > LATE_SHARE
    )
    found = (
        "events come late, as censorings do: is the indicator inverted?" if late else "events come before censorings"
    )
    return Check("V11b", cohort.task, not late, found, fatal=False)
