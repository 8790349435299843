"""Figures of a report: their data (into report.json) and their drawing (SVG inside the page).

Data first: a figure is drawn from what report.json holds and nothing else, so the page can be rendered again from it.
Curves lie on a fixed grid and end where fewer than `min_cell` rows are at risk: no curve gives a person away.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from presage_modeling.evaluation.calibration import grouped
from presage_modeling.evaluation.curves import censoring_distribution, cumulative_incidence, kaplan_meier
from presage_modeling.evaluation.inputs import ArmScores, TaskCohort
from presage_modeling.evaluation.outcome import Outcome
from presage_platform.labeling.event import Event

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]
GRID_POINTS = 100
ROC_POINTS = 51
# Okabe–Ito colours with distinct dashes: readable without colour, and by colour-blind readers.
STYLES = (("#0072B2", "-"), ("#E69F00", "--"), ("#D55E00", "-."), ("#009E73", ":"), ("#CC79A7", (0, (5, 1))))
TERTILES = ("low", "middle", "high")


def task_figures(
    cohort: TaskCohort, arms: dict[str, ArmScores], horizons: tuple[float, ...], min_cell: int
) -> list[dict[str, Any]]:
    """Return the data of a task's figures for each arm: risk groups, calibration and ROC at the longest horizon."""
    if not cohort.test.count(Event.EVENT):
        return []
    horizon = max(horizons)
    found = [roc_figure(cohort, arms, horizon, min_cell)]
    for arm, all_scores in arms.items():
        scores = all_scores.rows(cohort.test_study)
        found.append(groups_figure(cohort, arm, all_scores, min_cell))
        if scores.surv is not None and horizon in scores.times_days:
            predicted = 1.0 - scores.surv[:, scores.times_days.index(horizon)]
            found.append(calibration_figure(cohort, arm, predicted, horizon, min_cell))
    return found


def groups_figure(cohort: TaskCohort, arm: str, scores: ArmScores, min_cell: int) -> dict[str, Any]:
    """Return observed survival (or incidence, when death competes) by thirds of predicted risk, cut on train."""
    competing = cohort.test.count(Event.COMPETING) > 0
    train = scores.risk[np.isin(scores.study_id, cohort.train_study)]
    risk = scores.rows(cohort.test_study).risk
    cuts = np.quantile(train if len(train) else risk, [1 / 3, 2 / 3])
    group = np.searchsorted(cuts, risk, side="right")
    grid = np.linspace(0.0, float(cohort.test.time_days.max()), GRID_POINTS)
    curves = []
    for number, name in enumerate(TERTILES):
        rows = np.flatnonzero(group == number)
        if len(rows) >= min_cell:
            curves.append({"group": name, **_curve(cohort.test.take(rows), grid, competing, min_cell)})
    p = _log_rank_p(cohort.test, group) if len(curves) > 1 else None
    kind = "incidence" if competing else "survival"
    ends = ", ".join(f"{curve['group']} {curve['value'][-1]:.2f}" for curve in curves)
    return {
        "id": f"groups-{arm}",
        "kind": kind,
        "task": cohort.task,
        "arm": arm,
        "curves": curves,
        "log_rank_p": p,
        "cuts_from": "train" if len(train) else "test",
        "alt": f"Observed {kind} of {cohort.task} by third of risk predicted by {arm}; curves end at {ends}.",
    }


def calibration_figure(
    cohort: TaskCohort, arm: str, predicted: Floats, horizon: float, min_cell: int
) -> dict[str, Any]:
    """Return groups of predicted risk with the observed risk and its interval; small groups are left out."""
    groups = [g for g in grouped(cohort.test, predicted, horizon) if g.num_studies >= min_cell]
    worst = max((abs(g.predicted - g.observed) for g in groups), default=0.0)
    return {
        "id": f"calibration-{arm}",
        "kind": "calibration",
        "task": cohort.task,
        "arm": arm,
        "horizon_days": horizon,
        "groups": [{"predicted": g.predicted, "observed": g.observed, "low": g.low, "high": g.high} for g in groups],
        "alt": f"Calibration of {arm} for {cohort.task} at {horizon:.0f} days in {len(groups)} groups of predicted "
        f"risk; largest gap between predicted and observed risk {worst:.2f}.",
    }


def roc_figure(cohort: TaskCohort, arms: dict[str, ArmScores], horizon: float, min_cell: int) -> dict[str, Any]:
    """Return each arm's ROC at a horizon, weighted by inverse probability of censoring, on a fixed grid."""
    censoring = censoring_distribution(cohort.train) if len(cohort.train) else None
    curves = []
    test = cohort.test
    within = test.time_days <= horizon
    case, control = within & test.has(Event.EVENT), ~within | (within & test.has(Event.COMPETING))
    if censoring is not None and case.sum() >= min_cell and control.sum() >= min_cell:
        g = np.maximum(censoring.at(np.minimum(test.time_days, horizon)), 1e-9)
        for arm, scores in arms.items():
            risk = scores.rows(cohort.test_study).risk
            curves.append({"arm": arm, **_roc(risk, case / g, control / g)})
    shown = ", ".join(curve["arm"] for curve in curves) or "nothing: too few cases or controls"
    return {
        "id": "roc",
        "kind": "roc",
        "task": cohort.task,
        "horizon_days": horizon,
        "curves": curves,
        "alt": f"ROC of {cohort.task} at {horizon:.0f} days, weighted for censoring, for {shown}.",
    }


def draw(figure: dict[str, Any]) -> str:
    """Return the SVG of a figure from its data: text as text, no script, no request, the same bytes each time."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib.figure import Figure

    salt = f"{figure['task']}/{figure['id']}"
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        canvas = Figure(figsize=(4.6, 3.4), layout="constrained")
        axes = canvas.add_subplot()
        {"roc": _draw_roc, "calibration": _draw_calibration}.get(figure["kind"], _draw_groups)(axes, figure)
        axes.spines[["top", "right"]].set_visible(False)
        stream = io.StringIO()
        canvas.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


def _curve(outcome: Outcome, grid: Floats, competing: bool, min_cell: int) -> dict[str, Any]:
    curve = cumulative_incidence(outcome) if competing else kaplan_meier(outcome)
    at_risk = np.array([curve.at_risk_at(time) for time in grid])
    shown = at_risk >= min_cell
    shown[0] = True
    marks = np.linspace(0, len(grid) - 1, 5).astype(int)
    return {
        "time_days": [round(float(time), 3) for time in grid[shown]],
        "value": [round(float(value), 6) for value in curve.at(grid[shown])],
        "at_risk": [[round(float(grid[mark]), 1), int(at_risk[mark])] for mark in marks if shown[mark]],
    }


def _log_rank_p(outcome: Outcome, group: NDArray[np.int64]) -> float | None:
    from sksurv.compare import compare_survival

    if len(np.unique(group)) < 2 or not outcome.count(Event.EVENT):
        return None
    _, p = compare_survival(outcome.survival(), group)
    return float(p) if np.isfinite(p) else None


def _roc(risk: Floats, case_weight: Floats, control_weight: Floats) -> dict[str, Any]:
    order = np.argsort(-risk, kind="stable")
    last_of_tie = np.append(np.diff(risk[order]) != 0, True)
    sensitivity = np.cumsum(case_weight[order])[last_of_tie] / case_weight.sum()
    false_positive = np.cumsum(control_weight[order])[last_of_tie] / control_weight.sum()
    grid = np.linspace(0, 1, ROC_POINTS)
    values = np.interp(grid, np.append(0.0, false_positive), np.append(0.0, sensitivity))
    return {
        "false_positive": [round(float(x), 4) for x in grid],
        "sensitivity": [round(float(y), 4) for y in values],
    }


def _draw_groups(axes: Axes, figure: dict[str, Any]) -> None:
    for (colour, dash), curve in zip(STYLES, figure["curves"], strict=False):
        axes.step(
            np.asarray(curve["time_days"]) / 365.25, curve["value"], where="post", color=colour, linestyle=dash,
            label=f"{curve['group']} risk",
        )  # fmt: skip
    axes.set_xlabel("years since the scan")
    axes.set_ylabel("cumulative incidence" if figure["kind"] == "incidence" else "free of the event")
    axes.set_ylim(0, None if figure["kind"] == "incidence" else 1.02)
    p = figure["log_rank_p"]
    axes.set_title(f"thirds of risk{'' if p is None else f', log-rank p {_p(p)}'}", fontsize=10)
    if figure["curves"]:
        axes.legend(frameon=False)


def _draw_calibration(axes: Axes, figure: dict[str, Any]) -> None:
    groups = figure["groups"]
    predicted = np.array([group["predicted"] for group in groups])
    observed = np.array([group["observed"] for group in groups])
    bars = np.array([[g["observed"] - g["low"], g["high"] - g["observed"]] for g in groups]).reshape(-1, 2).T
    top = max(0.05, *predicted, *(group["high"] for group in groups)) if groups else 1.0
    axes.plot([0, top], [0, top], color="#555555", linestyle=":", label="perfect")
    axes.errorbar(
        predicted, observed, yerr=np.maximum(bars, 0), color=STYLES[0][0], marker="o", capsize=2, label="groups"
    )
    axes.set_xlabel(f"predicted risk at {figure['horizon_days']:.0f} days")
    axes.set_ylabel("observed risk")
    axes.set_title("calibration", fontsize=10)
    axes.legend(frameon=False)


def _draw_roc(axes: Axes, figure: dict[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], color="#555555", linestyle=":")
    for (colour, dash), curve in zip(STYLES, figure["curves"], strict=False):
        axes.plot(curve["false_positive"], curve["sensitivity"], color=colour, linestyle=dash, label=curve["arm"])
    axes.set_xlabel("1 − specificity")
    axes.set_ylabel("sensitivity")
    axes.set_title(f"ROC at {figure['horizon_days']:.0f} days", fontsize=10)
    if figure["curves"]:
        axes.legend(frameon=False)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
