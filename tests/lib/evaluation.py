"""A made-up cohort for evaluation tests: known risks, competing deaths, a label store that answers from memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from presage_modeling.evaluation.inputs import ArmScores

HORIZONS = (30.0, 180.0, 365.0)
TASKS = ("pleural_effusion", "all_cause_mortality")


@dataclass(frozen=True)
class View:
    """What `LabelStore.task_view` returns."""

    study_id: np.ndarray
    time_s: np.ndarray
    cause: np.ndarray
    at_risk: np.ndarray
    entry_s: np.ndarray


@dataclass
class Labels:
    """A label store in memory."""

    views: dict[str, View]
    studies: pa.Table
    path: Path = field(default_factory=lambda: Path("nowhere"))
    outcomes: tuple[str, ...] = ()

    def task_view(self, task: str, risk: str = "incident") -> View:
        return self.views[task]


def made_up(num_studies: int = 600, seed: int = 0) -> tuple[Labels, np.ndarray]:
    """Return labels whose hazard is exp(0.8 z) / 900 days, and z."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=num_studies)
    split = np.searchsorted([0.6, 0.7], np.arange(num_studies) / num_studies, side="right").astype(np.uint8)
    study_id = np.arange(1, num_studies + 1)
    studies = pa.table({"study_id": study_id, "person_id": (study_id + 1) // 2, "split": split})
    views = {}
    for task in TASKS:
        event = rng.exponential(900 / np.exp(0.8 * z))
        censor, death = rng.exponential(1500, num_studies), rng.exponential(4000, num_studies)
        time = np.minimum(np.minimum(event, censor), death)
        cause = np.where(time == event, 1, np.where(time == death, 2, 0)).astype(np.uint8)
        seconds = (time * 86400).astype(np.int64) + 1
        views[task] = View(study_id, seconds, cause, rng.random(num_studies) > 0.1, np.zeros(num_studies, np.int64))
    return Labels(views, studies), z


def arm(z: np.ndarray, noise: float, seed: int) -> dict[str, ArmScores]:
    """Return scores of an arm that sees z through noise."""
    linear = z + noise * np.random.default_rng(seed).normal(size=len(z))
    surv = np.exp(-np.outer(np.exp(0.8 * linear) / 900, HORIZONS))
    return {task: ArmScores(np.arange(1, len(z) + 1), linear, surv, HORIZONS) for task in TASKS}


def document(**settings: Any) -> dict[str, Any]:
    """Return the evaluation of two arms on the made-up cohort."""
    from presage_modeling.evaluation.evaluate import EvaluationSettings, evaluate

    labels, z = made_up()
    arms = {"base": arm(z, 5.0, 1), "time_to_event": arm(z, 0.5, 2)}
    chosen = EvaluationSettings(**{"compare": (("time_to_event", "base"),), "resamples": 200, **settings})
    found = evaluate(arms, labels, list(TASKS), chosen)  # type: ignore[arg-type]
    return {**found, "inputs": {"labels": "made up"}}
