"""Heads on frozen features: Cox models for times, logistic regression for windows.

Heads read embeddings, labels and splits; the encoder is not loaded. Everything is fitted on train, penalties are chosen
on valid, and what has too few events is left out with a reason, never fitted.

scikit-survival is GPL-3.0-or-later: it is imported inside functions only.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from presage_modeling.evaluation.outcome import UNKNOWN, Outcome
from presage_modeling.heads import (
    CoxHead,
    LogisticHead,
    Matrix,
    Scaler,
    TooFew,
    breslow_baseline,
    partial_log_likelihood,
    ridge_cox,
)
from presage_platform.errors import InputError
from presage_platform.labeling.event import SECONDS_PER_DAY
from presage_platform.labeling.hashing import hash_file
from presage_platform.labeling.store import LabelStore, Risk, TaskView
from presage_platform.runs import canonical_json, sha256_json, write_atomically

MIN_TRAIN_EVENTS, MIN_VALID_EVENTS = 20, 5
LARGEST_RIDGE_WIDTH = 128
NUM_PENALTIES = 20
COXNET_L1_RATIO = 0.05
HORIZONS_DAYS = (30.0, 90.0, 180.0, 365.0, 730.0, 1095.0, 1825.0)
FOLLOW_UP_QUANTILE = 0.95
SPLITS = ("train", "valid", "test")
RIDGE = "CoxPHSurvivalAnalysis, Efron ties, ridge"
COXNET = "CoxnetSurvivalAnalysis, Breslow ties, l1 share 0.05"

PenaltyPath = list[tuple[float, NDArray[np.float64]]]  # penalty and coefficients, from strong to weak


def fit_cox(train: Matrix, train_outcome: Outcome, valid: Matrix, valid_outcome: Outcome) -> CoxHead | TooFew:
    """Fit a penalised Cox model on train; the penalty is the best partial log-likelihood on valid.

    Ridge with Efron ties up to 128 columns, elastic net (l1 share 0.05, Breslow ties) above. Ties between penalties go
    to the stronger one.
    """
    _check_outcomes(train_outcome, valid_outcome)
    counts = train_outcome.count(), valid_outcome.count()
    if (few := _too_few(*counts)) is not None:
        return few
    scaler = Scaler.fit(train)
    if len(scaler.kept) == 0:
        return TooFew("all features are constant on train", *counts)
    x, z = scaler.apply(train), scaler.apply(valid)
    ridge = x.shape[1] <= LARGEST_RIDGE_WIDTH
    path = _ridge_path(x, train_outcome) if ridge else _coxnet_path(x, train_outcome)
    scores = [partial_log_likelihood(z @ coefficient, valid_outcome) for _, coefficient in path]
    penalty, coefficient = path[int(np.argmax(scores))]  # from strong to weak: a tie keeps the stronger
    if ridge:
        coefficient = _fit_ridge(x, train_outcome, penalty)
    times_days, hazard = breslow_baseline(x @ coefficient, train_outcome)
    return CoxHead(scaler, coefficient, times_days, hazard, penalty, RIDGE if ridge else COXNET)


def fit_logistic(
    train: Matrix, train_label: NDArray[np.int8], valid: Matrix, valid_label: NDArray[np.int8]
) -> LogisticHead | TooFew:
    """Fit an L2 logistic regression; labels are 1, 0 and -1 = unknown, which is left out."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    known, known_valid = train_label != UNKNOWN, valid_label != UNKNOWN
    y, y_valid = train_label[known], valid_label[known_valid]
    counts = int((y == 1).sum()), int((y_valid == 1).sum())
    few = _too_few(*counts) or _too_few(int((y == 0).sum()), int((y_valid == 0).sum()), what="rows without the event")
    if few is not None:
        return few
    scaler = Scaler.fit(train[known])
    if len(scaler.kept) == 0:
        return TooFew("all features are constant on train", *counts)
    x, z = scaler.apply(train[known]), scaler.apply(valid[known_valid])
    best: tuple[float, LogisticHead] | None = None
    for inverse in np.logspace(-5, 1, NUM_PENALTIES):  # from strong to weak
        model = LogisticRegression(C=inverse, max_iter=1000).fit(x, y)
        loss = log_loss(y_valid, model.predict_proba(z)[:, 1], labels=[0, 1])
        if best is None or loss < best[0]:
            best = loss, LogisticHead(scaler, model.coef_[0], float(model.intercept_[0]), 1.0 / inverse)
    assert best is not None
    return best[1]


@dataclass(frozen=True, slots=True, eq=False)
class StudyFeatures:
    """One row of features a study: the volume of the lowest rank."""

    study_id: NDArray[np.int64]
    features: Matrix

    def rows(self, study_id: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Matrix]:
        """Return which of the studies have features, and those features."""
        place = np.minimum(np.searchsorted(self.study_id, study_id), len(self.study_id) - 1)
        found = np.asarray(self.study_id[place] == study_id)
        return found, self.features[place[found]]


def study_features(embeddings: pa.Table) -> StudyFeatures:
    """Return the features of each study of an embeddings table, in ascending order of study."""
    if embeddings.num_rows == 0:
        raise InputError("no embeddings: make them with `platform embed`")
    ordered = embeddings.sort_by([("study_id", "ascending"), ("rank", "ascending"), ("volume_id", "ascending")])
    ids = np.asarray(ordered.column("study_id").fill_null(-1)).astype(np.int64)
    column = ordered.column("embedding").combine_chunks()
    matrix = np.asarray(column.flatten()).reshape(len(ids), -1).astype(np.float64)
    _, first = np.unique(ids, return_index=True)
    first = first[ids[first] >= 0]
    return StudyFeatures(ids[first], matrix[first])


def adapt_features(
    features: StudyFeatures, labels: LabelStore, *, arm: str, tasks: list[str] | None = None, risk: Risk = "incident"
) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Fit one head a task and predict every study with features.

    Returns
    -------
    predictions : pa.Table
        Columns study_id, task, arm, fold, risk, surv; `times_days` in the metadata (evaluation V2).
    heads : list of dict
        One entry a task: what was fitted with which penalty, or why not.
    """
    horizons = usable_horizons(labels)
    tables, heads = [], []
    for task in tasks if tasks is not None else labels.outcomes:
        predicted, facts = _adapt_task(features, labels, task, risk, horizons)
        heads.append({"task": task, **facts})
        if predicted is not None:
            tables.append(_prediction_table(features.study_id, task, arm, *predicted))
    schema = _PREDICTIONS.with_metadata({"times_days": json.dumps(horizons.tolist())})
    merged = pa.concat_tables(tables) if tables else _PREDICTIONS.empty_table()
    return merged.replace_schema_metadata(schema.metadata), heads


def adapt_run(run: Path, labels: LabelStore, *, tasks: list[str] | None = None, risk: Risk = "incident") -> Path:
    """Fit heads on a run's embeddings and write `predictions/<hash>.parquet`, `<hash>.json` beside it.

    The same run, labels and tasks give the same file; it is not made twice.
    """
    from presage_modeling.embedding import read_embeddings
    from presage_modeling.pretraining import run_recipe

    embeddings = read_embeddings(run)
    names = tasks if tasks is not None else labels.outcomes
    identity = {
        "weights": embeddings.column("weights_sha256")[0].as_py(),
        "volumes": sorted(embeddings.column("volume_id").to_pylist()),
        "labels": labels.label_hash,
        "tasks": {name: _outcome_fingerprint(labels, name) for name in names},
        "risk": risk,
    }
    folder = run / "predictions"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{sha256_json(identity)[:16]}.parquet"
    if path.is_file():
        return path
    arm = run_recipe(run).objective.arm
    predictions, heads = adapt_features(study_features(embeddings), labels, arm=arm, tasks=names, risk=risk)
    sink = pa.BufferOutputStream()
    pq.write_table(predictions, sink, compression="zstd")
    write_atomically(
        path.with_suffix(".json"), canonical_json({"arm": arm, "risk": risk, "heads": heads}, indent=2).encode()
    )
    write_atomically(path, sink.getvalue().to_pybytes())
    return path


def _outcome_fingerprint(labels: LabelStore, task: str) -> str:
    file = labels.path / "outcomes" / f"{task}.parquet"
    return hash_file(file) if file.is_file() else labels.label_hash


def usable_horizons(labels: LabelStore) -> NDArray[np.float64]:
    """Return the horizons that lie within the follow-up of most training studies (its 95th percentile)."""
    split = np.asarray(labels.studies.column("split"))
    mask = np.asarray(labels.studies.column("mask"))
    end_s = np.asarray(labels.studies.column("end_s"))[(split == 0) & (mask == 0)]
    longest = float(np.quantile(end_s, FOLLOW_UP_QUANTILE)) / SECONDS_PER_DAY if len(end_s) else 0.0
    return np.array([days for days in HORIZONS_DAYS if days <= longest])


_PREDICTIONS = pa.schema(
    [
        ("study_id", pa.int64()),
        ("task", pa.string()),
        ("arm", pa.string()),
        ("fold", pa.int16()),
        ("risk", pa.float64()),
        ("surv", pa.list_(pa.float64())),
    ]
)


def _adapt_task(
    features: StudyFeatures, labels: LabelStore, task: str, risk: Risk, horizons: NDArray[np.float64]
) -> tuple[tuple[NDArray[np.float64], Matrix | None] | None, dict[str, Any]]:
    view = labels.task_view(task, risk=risk)
    split_of = dict(
        zip(labels.studies.column("study_id").to_pylist(), labels.studies.column("split").to_pylist(), strict=True)
    )
    split = np.array([split_of[study] for study in view.study_id.tolist()])
    rows = {name: _rows_at_risk(features, view, split == number) for number, name in enumerate(SPLITS[:2])}
    if view.window_label is not None:
        label = {name: view.window_label[chosen] for name, (chosen, _) in rows.items()}
        logistic = fit_logistic(rows["train"][1], label["train"], rows["valid"][1], label["valid"])
        if isinstance(logistic, TooFew):
            return None, _refusal(logistic)
        return (logistic.risk(features.features), None), _fitted("logistic", logistic.penalty, logistic.scaler)
    outcome = {name: _outcome(view, chosen) for name, (chosen, _) in rows.items()}
    cox = fit_cox(rows["train"][1], outcome["train"], rows["valid"][1], outcome["valid"])
    if isinstance(cox, TooFew):
        return None, _refusal(cox)
    survival = cox.survival(features.features, horizons)
    return (cox.risk(features.features), survival), _fitted(cox.method, cox.penalty, cox.scaler)


def _rows_at_risk(
    features: StudyFeatures, view: TaskView, chosen: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], Matrix]:
    rows = np.flatnonzero(chosen & view.at_risk)
    found, matrix = features.rows(view.study_id[rows])
    return rows[found], matrix


def _outcome(view: TaskView, rows: NDArray[np.int64]) -> Outcome:
    return Outcome(view.time_s[rows] / SECONDS_PER_DAY, view.cause[rows])


def _prediction_table(
    study_id: NDArray[np.int64], task: str, arm: str, risk: NDArray[np.float64], survival: Matrix | None
) -> pa.Table:
    number = len(study_id)
    curves = (
        pa.nulls(number, pa.list_(pa.float64()))
        if survival is None
        else pa.array(list(survival), pa.list_(pa.float64()))
    )
    return pa.table(
        {
            "study_id": study_id,
            "task": pa.array([task] * number, pa.string()),
            "arm": pa.array([arm] * number, pa.string()),
            "fold": np.zeros(number, dtype=np.int16),
            "risk": risk,
            "surv": curves,
        },
        schema=_PREDICTIONS,
    )


def _fitted(method: str, penalty: float, scaler: Scaler) -> dict[str, Any]:
    return {"fitted": True, "method": method, "penalty": penalty, "dropped_columns": list(scaler.dropped)}


def _refusal(few: TooFew) -> dict[str, Any]:
    return {"fitted": False, "reason": few.reason, "train_events": few.train_events, "valid_events": few.valid_events}


def _too_few(train_events: int, valid_events: int, what: str = "events") -> TooFew | None:
    if train_events >= MIN_TRAIN_EVENTS and valid_events >= MIN_VALID_EVENTS:
        return None
    needed = f"{MIN_TRAIN_EVENTS} and {MIN_VALID_EVENTS}"
    reason = f"{train_events} train and {valid_events} valid {what}, expected at least {needed}"
    return TooFew(reason, train_events, valid_events)


def _check_outcomes(*outcomes: Outcome) -> None:
    for outcome in outcomes:
        if not isinstance(outcome, Outcome):
            raise TypeError(f"found {type(outcome).__name__}, expected an Outcome(time_days, event)")


def _ridge_path(x: Matrix, outcome: Outcome) -> PenaltyPath:
    coefficient, path = np.zeros(x.shape[1]), []
    for penalty in np.logspace(4, -1, NUM_PENALTIES):  # from strong to weak
        coefficient = ridge_cox(x, outcome, penalty=float(penalty), start=coefficient)
        path.append((float(penalty), coefficient))
    return path


def _fit_ridge(x: Matrix, outcome: Outcome, penalty: float) -> NDArray[np.float64]:
    from sksurv.linear_model import CoxPHSurvivalAnalysis

    model = CoxPHSurvivalAnalysis(alpha=penalty, ties="efron").fit(x, outcome.survival())
    return np.asarray(model.coef_)


def _coxnet_path(x: Matrix, outcome: Outcome) -> PenaltyPath:
    from sksurv.linear_model import CoxnetSurvivalAnalysis

    model = CoxnetSurvivalAnalysis(n_alphas=NUM_PENALTIES, l1_ratio=COXNET_L1_RATIO, alpha_min_ratio=0.01)
    with warnings.catch_warnings():
        # sksurv warns when the path ends early because the deviance has stopped improving: the path so far is right
        warnings.filterwarnings("ignore", message=".*iterations.*")
        model.fit(x, outcome.survival())
    return [(float(alpha), np.asarray(model.coef_[:, number])) for number, alpha in enumerate(model.alphas_)]
