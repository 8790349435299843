"""What an evaluation reads: predictions by arm, outcomes and splits from the label store, joined on study_id."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from presage_modeling.evaluation.outcome import SECONDS_PER_DAY, Outcome
from presage_platform.errors import InputError

if TYPE_CHECKING:
    from presage_platform.labeling.store import LabelStore

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
TRAIN, VALID, TEST = 0, 1, 2
SURVIVAL_SLACK = 1e-9


@dataclass(frozen=True)
class ArmScores:
    """Risks of one arm for one task.

    Parameters
    ----------
    study_id : array of int64, shape = (n,)
        Ascending.
    risk : array of float64, shape = (n,)
        Any monotone score; higher = earlier event.
    surv : array of float64, shape = (n, H) | None
        S(t | x) at `times_days`; None when the arm only ranks.
    times_days : tuple of float
    """

    study_id: Ints
    risk: Floats
    surv: Floats | None
    times_days: tuple[float, ...]

    def rows(self, study_id: Ints) -> ArmScores:
        """Return the scores of these studies, in their order; every one must be present."""
        place = np.searchsorted(self.study_id, study_id)
        surv = None if self.surv is None else self.surv[place]
        return ArmScores(study_id, self.risk[place], surv, self.times_days)


@dataclass(frozen=True)
class TaskCohort:
    """The rows of one task that can be scored, and how the others were lost.

    `train` fixes G and the cuts of risk groups; `test` is what is scored.
    """

    task: str
    train: Outcome
    train_study: Ints
    test: Outcome
    test_study: Ints
    test_person: Ints
    states: dict[str, dict[str, int]]
    share_late_entry: float
    lost: dict[str, int] = field(default_factory=dict)


def read_predictions(path: Path) -> dict[str, dict[str, ArmScores]]:
    """Read a predictions Parquet (evaluation V2) into arm → task → scores.

    Raises
    ------
    InputError
        When the file is not readable, lacks a column, repeats a row, or holds values outside their range.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid):
        raise InputError(
            f"{path.name} is not a readable Parquet file: expected predictions with study_id, task, arm"
        ) from None
    missing = {"study_id", "task", "arm"} - set(table.column_names)
    if missing or not {"risk", "surv"} & set(table.column_names):
        raise InputError(
            f"{path.name} lacks {', '.join(sorted(missing)) or 'risk or surv'}: expected a predictions table"
        )
    metadata = table.schema.metadata or {}
    times = tuple(float(time) for time in json.loads(metadata.get(b"times_days", b"[]")))
    scores: dict[str, dict[str, ArmScores]] = {}
    for arm in sorted(set(table["arm"].to_pylist())):
        of_arm = _filter(table, "arm", arm)
        for task in sorted(set(of_arm["task"].to_pylist())):
            scores.setdefault(arm, {})[task] = _scores(_filter(of_arm, "task", task), times, arm, task)
    return scores


def task_cohort(labels: LabelStore, task: str) -> TaskCohort:
    """Return the incident cohort of a task: who is at risk, in which split, and what became of everybody else."""
    view = labels.task_view(task, risk="incident")
    studies = labels.studies
    study_id = np.asarray(studies["study_id"], dtype=np.int64)
    place = _places(study_id, np.asarray(view.study_id, dtype=np.int64))
    split = np.asarray(studies["split"], dtype=np.int64)[place]
    person = np.asarray(studies["person_id"], dtype=np.int64)[place]
    at_risk = np.asarray(view.at_risk, dtype=np.bool_)
    outcome, rows = Outcome.from_labels(view), np.flatnonzero(at_risk)
    train, test = split[rows] == TRAIN, split[rows] == TEST
    entry = np.asarray(view.entry_s, dtype=np.float64)[rows]
    return TaskCohort(
        task=task,
        train=outcome.take(train),
        train_study=np.asarray(view.study_id, dtype=np.int64)[rows][train],
        test=outcome.take(test),
        test_study=np.asarray(view.study_id, dtype=np.int64)[rows][test],
        test_person=person[rows][test],
        states=_states(outcome, split, rows, at_risk),
        share_late_entry=float((entry[test] > SECONDS_PER_DAY).mean()) if test.any() else 0.0,
    )


def restrict(cohort: TaskCohort, arms: dict[str, ArmScores], *, intersect: bool) -> TaskCohort:
    """Return the cohort reduced to test studies that every arm scored.

    Raises
    ------
    InputError
        When arms score different test sets and `intersect` is off: numbers of different rows do not compare.
    """
    scored = {arm: np.isin(cohort.test_study, scores.study_id) for arm, scores in arms.items()}
    everywhere = np.all(list(scored.values()), axis=0)
    anywhere = np.any(list(scored.values()), axis=0)
    if (anywhere & ~everywhere).any() and not intersect:
        raise InputError(
            f"arms score different test studies of {cohort.task} ({int((anywhere & ~everywhere).sum())} not in all): "
            "evaluate arms of one cohort, or take what they share with --intersect"
        )
    return TaskCohort(
        task=cohort.task,
        train=cohort.train,
        train_study=cohort.train_study,
        test=cohort.test.take(everywhere),
        test_study=cohort.test_study[everywhere],
        test_person=cohort.test_person[everywhere],
        states=cohort.states,
        share_late_entry=cohort.share_late_entry,
        lost={"not_scored": int((~anywhere).sum()), "not_scored_by_all": int((anywhere & ~everywhere).sum())},
    )


def _filter(table: Any, column: str, value: str) -> Any:
    import pyarrow.compute as pc

    return table.filter(pc.equal(table[column], value))


def _scores(table: Any, times: tuple[float, ...], arm: str, task: str) -> ArmScores:
    study_id = table["study_id"].to_numpy().astype(np.int64)
    if len(np.unique(study_id)) != len(study_id):
        raise InputError(f"arm {arm} scores a study of {task} twice: expected one row a study, task, arm and fold")
    order = np.argsort(study_id)
    surv = _survival(table, times, arm, task)
    if "risk" in table.column_names:
        risk = table["risk"].to_numpy().astype(np.float64)
    else:
        assert surv is not None
        risk = 1.0 - surv[:, -1]
    if not np.isfinite(risk).all():
        raise InputError(
            f"arm {arm} holds {int((~np.isfinite(risk)).sum())} non-finite risks of {task}: expected numbers"
        )
    return ArmScores(study_id[order], risk[order], None if surv is None else surv[order], times)


def _survival(table: Any, times: tuple[float, ...], arm: str, task: str) -> Floats | None:
    if "surv" not in table.column_names or not times or table["surv"].null_count:
        return None
    surv = np.asarray(table["surv"].to_pylist(), dtype=np.float64).reshape(table.num_rows, -1)
    good = surv.shape[1] == len(times) and np.isfinite(surv).all() and (surv >= 0).all() and (surv <= 1).all()
    if not good or (np.diff(surv, axis=1) > SURVIVAL_SLACK).any():
        raise InputError(
            f"arm {arm} holds survival curves of {task} that are not probabilities falling with time: "
            "expected S(t) in [0, 1] at the file's times_days"
        )
    return surv


def _places(study_id: Ints, wanted: Ints) -> Ints:
    order = np.argsort(study_id)
    return order[np.searchsorted(study_id, wanted, sorter=order)].astype(np.int64)


def _states(outcome: Outcome, split: Ints, rows: Ints, at_risk: NDArray[np.bool_]) -> dict[str, dict[str, int]]:
    states: dict[str, dict[str, int]] = {}
    for name, code in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        kept = outcome.event[split[rows] == code]
        states[name] = {
            "not_at_risk": int((~at_risk & (split == code)).sum()),
            "censored": int((kept == 0).sum()),
            "event": int((kept == 1).sum()),
            "competing": int((kept == 2).sum()),
        }
    return states
