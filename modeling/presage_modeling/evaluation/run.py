"""What `platform eval` does once its arguments are read: gather arms, add the baseline, evaluate, write the report."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from presage_modeling.evaluation.evaluate import EvaluationSettings, evaluate
from presage_modeling.evaluation.inputs import ArmScores, read_predictions
from presage_modeling.evaluation.report import answer, comparison_words, interval, number, report_hash, write_report
from presage_platform.errors import InputError, UsageError
from presage_platform.labeling.hashing import hash_file
from presage_platform.labeling.store import LabelStore, open_labels
from presage_platform.settings import Settings, read_settings

BASELINE = "clinical"
ORACLES = ("oracle_risk", "oracle_image")
SEX_CODES = {"M": 1.0, "F": -1.0}

Arms = dict[str, dict[str, ArmScores]]


@dataclass(frozen=True)
class EvaluationReport:
    """Where the report lies and what it says."""

    page: Path
    document: dict[str, Any]

    @property
    def is_empty(self) -> bool:
        """True when every metric of the report is missing, each with its reason."""
        return all(metric["estimate"] is None for task in self.document["tasks"] for metric in task["metrics"])

    def summary(self) -> str:
        """Return the table of arms, the comparisons in words, and the path of the page as the last line."""
        lines = [f"{'arm':<18} {'mean Harrell C':<24} mean Uno C"]
        rows = {(row["arm"], row["name"]): row for row in self.document["summary"] if row["horizon_days"] is None}
        for arm in sorted({arm for arm, _ in rows}):
            cells = [f"{number(rows[arm, n]['estimate'])} {interval(rows[arm, n])}" for n in ("harrell_c", "uno_c")]
            lines.append(f"{arm:<18} {cells[0]:<24} {cells[1]}")
        means = [row for row in self.document["comparisons"] if row["task"] is None and row["name"] == "harrell_c"]
        lines += [comparison_words(row) for row in means]
        lines += [f"warning: {warning}" for warning in self.document["warnings"]]
        return "\n".join([*lines, f"report: {self.page}"])

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "report": str(self.page),
            "answer": answer(self.document),
            "summary": self.document["summary"],
            "comparisons": self.document["comparisons"],
            "warnings": self.document["warnings"],
        }


def evaluate_runs(
    runs: list[str],
    *,
    workspace: Path | None,
    labels: str | None = None,
    tasks: list[str] | None = None,
    options: EvaluationSettings,
    out: Path | None = None,
) -> EvaluationReport:
    """Evaluate run folders and predictions files side by side and write one report.

    Raises
    ------
    InputError
        When a run, labels or predictions are missing or do not fit together.
    SelfCheckError
        When a self-check fails; no report is written.
    """
    settings = read_settings(workspace)
    store = open_labels(settings, labels)
    names = headline_tasks(store, tasks)
    arms, inputs = gather_arms(runs, settings, store, names)
    arms[BASELINE] = baseline(store, names)
    chosen = replace(
        options,
        compare=options.compare or default_comparisons(list(arms)),
        synthetic=settings.eval.synthetic,
        min_cell=1 if settings.eval.synthetic else options.min_cell,
    )
    document = evaluate({arm: scores for arm, scores in arms.items() if scores}, store, names, chosen)
    document["inputs"] = {"labels": store.label_hash, "presage": version("presage"), **inputs}
    folder = out if out is not None else settings.reports_dir / report_hash(document["inputs"], document["settings"])
    return EvaluationReport(write_report(document, folder), document)


def headline_tasks(store: LabelStore, patterns: list[str] | None) -> list[str]:
    """Return the tasks to report: the outcome tasks of the label store, or those that the patterns name."""
    known = [*store.outcomes, *(name for name in store.task_names if name not in store.outcomes)]
    if patterns is None:
        if not store.outcomes:
            raise InputError("the label store holds no outcome task: add SQL tasks to the workspace, or name --tasks")
        return list(store.outcomes)
    found = [name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    if not found:
        raise InputError(
            f"no task matches {', '.join(patterns)}: the label store has {len(known)}, see `platform tasks list`"
        )
    return found


def gather_arms(
    runs: list[str], settings: Settings, store: LabelStore, tasks: list[str]
) -> tuple[Arms, dict[str, Any]]:
    """Return the scores of every arm of the runs and predictions files, and the hash of each input."""
    arms: Arms = {}
    inputs: dict[str, Any] = {}
    for name in runs:
        path = _predictions(name, settings, store, tasks)
        for arm, scores in read_predictions(path).items():
            if arm in arms:
                raise UsageError(f"arm {arm} is given twice: evaluate one run of each arm")
            arms[arm] = {task: of_task for task, of_task in scores.items() if task in tasks}
            inputs[f"predictions of {arm}"] = hash_file(path)
    return arms, inputs


def baseline(store: LabelStore, tasks: list[str]) -> dict[str, ArmScores]:
    """Return the clinical baseline: age and sex, fitted by the same heads as every arm (V7)."""
    from presage_modeling.adaptation import StudyFeatures, adapt_features

    covariates = store.covariates.sort_by("study_id")
    study_id = np.asarray(covariates["study_id"], dtype=np.int64)
    age = np.array([np.nan if value is None else float(value) for value in covariates["age_years"].to_pylist()])
    age = np.where(np.isnan(age), np.nanmean(age) if np.isfinite(age).any() else 0.0, age)
    sex = np.array([SEX_CODES.get(str(value), 0.0) for value in covariates["sex"].to_pylist()])
    features = StudyFeatures(study_id, np.stack([age, sex], axis=1))
    predictions, _ = adapt_features(features, store, arm=BASELINE, tasks=tasks)
    return scores_of(predictions).get(BASELINE, {})


def scores_of(predictions: Any) -> Arms:
    """Return arm → task → scores of a predictions table in memory, through the checks that a file meets."""
    import tempfile

    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.parquet"
        pq.write_table(predictions, path)
        return read_predictions(path)


def default_comparisons(arms: list[str]) -> tuple[tuple[str, str], ...]:
    """Return what is compared when nothing was declared: time_to_event with base, learnt arms with the baseline."""
    pairs = [("time_to_event", "base")] if {"time_to_event", "base"} <= set(arms) else []
    learnt = [arm for arm in sorted(arms) if arm not in (BASELINE, "base", *ORACLES)]
    return tuple(pairs + [(arm, BASELINE) for arm in learnt])


def _predictions(name: str, settings: Settings, store: LabelStore, tasks: list[str]) -> Path:
    from presage_modeling.adaptation import adapt_run
    from presage_modeling.commands import find_run

    if Path(name).is_file():
        return Path(name)
    return adapt_run(find_run(settings, name), store, tasks=tasks)
