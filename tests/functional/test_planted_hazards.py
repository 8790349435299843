"""Labels of a cohort whose hazards are known: the coefficients come back, and a shuffled outcome says nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from presage_etl.synthetic.parameters import read_parameters
from presage_etl.synthetic.scale.cohort import make_cohort
from presage_platform.labeling.command import Request, label
from presage_platform.labeling.store import LabelStore
from presage_platform.settings import read_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

YEAR = 31_557_600
NUM_PERSONS = 2500
COVARIATES = [f"z{n}" for n in range(1, 9)] + [f"u{n}" for n in range(1, 5)] + ["decades", "male"]
CONDITIONS = {
    "pleural_effusion": "pleural_effusion",
    "atelectasis": "atelectasis",
    "lung_consolidation": "lung_consolidation",
    "cardiomegaly": "cardiomegaly",
    "pulmonary_edema": "pulmonary_edema",
    "pulmonary_hypertension": "pulmonary_hypertension",
    "heart_failure": "heart_failure",
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Timelines alone, dense, and every onset recorded soon.

    What is never recorded before a scan leaves persons at risk who are not: with the default shares of unreadable codes
    the coefficients of acute conditions come back at half their size, and rightly so. Here the labels are on trial.
    """
    folder = tmp_path_factory.mktemp("hazards") / "w"
    parameters = read_parameters(
        "paper",
        patients=NUM_PERSONS,
        ceiling_persons=2000,
        timeline={"events_per_person": 50, "concepts": 200},
        hazard={"leaves": 4, "onset_rate_scale": 2.5, "loss_years": 10.0, "leaf_coded": 1.0},
        coding={"both": 0.9, "one": 0.1, "local": 0.0, "text": 0.0},
        record={"visits_per_year": 12.0},
    )
    make_cohort(folder, parameters, workers=1)
    return folder


@pytest.fixture(scope="module")
def store(cohort: Path) -> LabelStore:
    snapshot = next(path.name for path in (cohort / "timeline").iterdir())
    files = {"index": cohort / "index.parquet", "vocabulary": cohort / "vocabulary"}
    report = label(read_settings(cohort), Request(snapshot=snapshot, allow_fewer=True, **files))
    return LabelStore.open(cohort / "labels" / report.label_hash)


def frame(cohort: Path, store: LabelStore, task: str) -> pd.DataFrame:
    """First scan of each person at risk: entry and end in years since the person's origin, event, true covariates."""
    view = store.task_view(task, risk="incident")
    labels = pd.DataFrame(
        {
            "study_id": view.study_id,
            "time_s": view.time_s,
            "entry_s": view.entry_s,
            "event": view.cause == 1,
            "at_risk": view.at_risk,
        }
    )
    scans = pq.read_table(cohort / "truth" / "scans.parquet", columns=["study_id", "person", "t0_s"]).to_pandas()
    persons = pq.read_table(cohort / "truth" / "persons.parquet").to_pandas().drop(columns=["races"])
    whole = labels.merge(scans, on="study_id").merge(persons, on="person").sort_values("t0_s").groupby("person").first()
    whole = whole[whole.at_risk]
    since = (whole.t0_s - whole.origin_s) / YEAR
    whole["entry"], whole["end"] = since + whole.entry_s / YEAR, since + whole.time_s / YEAR
    whole["decades"], whole["male"] = (whole.age_first_scan - 60) / 10, whole.male.astype(float)
    return whole[[*COVARIATES, "entry", "end", "event"]]


def true_coefficients(cohort: Path, condition: str) -> dict[str, float]:
    rows = pq.read_table(cohort / "truth" / "coefficients.parquet").to_pylist()
    (row,) = [row for row in rows if row["condition"] == condition]
    return {**{name: row[name] for name in COVARIATES[:12]}, "decades": row["age"], "male": row["male"]}


@pytest.mark.parametrize("task", CONDITIONS)
def test_l90_planted_hazards_come_back_from_labels_within_three_standard_errors(
    cohort: Path, store: LabelStore, task: str
) -> None:
    """Cox on the clock of the hazard (years since the record began), each scan entering when it comes under risk."""
    from lifelines import CoxPHFitter

    rows = frame(cohort, store, task)
    fitted = CoxPHFitter(penalizer=1e-6).fit(rows, "end", "event", entry_col="entry")
    wanted = true_coefficients(cohort, CONDITIONS[task])
    planted = [name for name in COVARIATES if wanted[name] != 0]
    error = {name: (fitted.params_[name] - wanted[name]) / fitted.standard_errors_[name] for name in COVARIATES}
    print(
        task, int(rows.event.sum()), {name: (round(float(fitted.params_[name]), 2), wanted[name]) for name in planted}
    )
    assert rows.event.sum() > 150
    assert max(abs(error[name]) for name in planted) < 3.0
    assert max(abs(value) for value in error.values()) < 4.0  # fourteen coefficients, most of them zero


def test_l90_a_shuffled_outcome_is_concordant_with_nothing(cohort: Path, store: LabelStore) -> None:
    from sksurv.metrics import concordance_index_censored

    rows = frame(cohort, store, "pleural_effusion")
    wanted = true_coefficients(cohort, "pleural_effusion")
    risk = sum(rows[name] * wanted[name] for name in COVARIATES).to_numpy()

    def concordance(order: Any) -> float:
        event, time = rows.event.to_numpy()[order], (rows.end - rows.entry).to_numpy()[order]
        return float(concordance_index_censored(event, time, risk)[0])

    assert concordance(np.arange(len(rows))) > 0.65
    assert concordance(np.random.default_rng(3).permutation(len(rows))) == pytest.approx(0.5, abs=0.03)
