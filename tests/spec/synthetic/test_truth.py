"""Truth, labels and oracles (rules S32, S43)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from presage_etl.synthetic import oracle
from presage_etl.synthetic.ceilings import concordance
from presage_etl.synthetic.clock import DAY_S
from presage_etl.synthetic.hazards import build_model
from tests.lib.synthetic import resources, tiny_parameters, truth

TABLES = {
    "persons", "scans", "coefficients", "onsets", "death_censor", "visits", "true_labels", "oracle_risk",
    "oracle_image",
    "ceilings", "planted_dicom", "planted_fhir", "links", "chosen", "joins", "expected_counts",
}  # fmt: skip


def test_s43_every_table_is_there_and_described(hospital: Path) -> None:
    assert {path.stem for path in (hospital / "truth").glob("*.parquet")} == TABLES
    readme = (hospital / "truth" / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}.parquet`" in readme for name in TABLES)


def test_s43_expected_rows_are_those_of_the_resources(hospital: Path) -> None:
    expected = {(row["stage"], row["kind"], row["name"]): row["expected"] for row in truth(hospital, "expected_counts")}
    counts = Counter(resource["resourceType"] for resource in resources(hospital))
    tables = {
        "person": counts["Patient"],
        "visit_occurrence": counts["Encounter"],
        "condition_occurrence": counts["Condition"],
        "drug_exposure": counts["MedicationRequest"] + counts["Immunization"],
        "procedure_occurrence": counts["Procedure"] + counts["ImagingStudy"],
        "image_occurrence": counts["ImagingStudy"],
        "provider": counts["Practitioner"],
        "death": sum("deceasedDateTime" in patient for patient in resources(hospital, "Patient")),
    }
    for name, number in tables.items():
        assert expected["etl", "table", name] == number, name
    measured = 0
    for observation in resources(hospital, "Observation"):
        category = observation["category"][0]["coding"][0]["code"]
        if category in ("laboratory", "vital-signs"):
            measured += len(observation.get("component", [])) or 1
    assert expected["etl", "table", "measurement"] == measured


def test_s43_true_labels_are_a_reading_of_the_resources(hospital: Path) -> None:
    """First pleural effusion code of each person, from the NDJSON alone, against the truth."""
    first: dict[str, str] = {}
    for condition in resources(hospital, "Condition"):
        codes = {coding["code"] for coding in condition["code"]["coding"]}
        if codes & {"60046008", "J90", "malignant_pleural_effusion"}:
            person = condition["subject"]["reference"].split("/")[1]
            when = condition.get("onsetDateTime", condition["recordedDate"])
            first[person] = min(first.get(person, "9"), when)
    scans = {row["study"]: row for row in truth(hospital, "scans")}
    labels = [row for row in truth(hospital, "true_labels") if row["task"] == "pleural_effusion"]
    assert labels
    for label in labels:
        scan = scans[label["study"]]
        when = first.get(scan["person"])
        if when is None:
            assert label["state"] in ("censored", "competing", "masked")
            continue
        stamp = np.datetime64(when[:19], "s").astype(int)
        if label["state"] == "event":
            assert label["time_s"] == stamp - scan["t0_s"]
        elif label["state"] == "prevalent":
            assert label["prevalent"]
        if stamp <= scan["t0_s"]:
            assert label["prevalent"]


def test_s43_labels_hold_the_rules_of_time(hospital: Path) -> None:
    for label in truth(hospital, "true_labels"):
        assert (label["state"] == "event") <= (label["time_s"] is not None)
        if label["state"] == "event":
            assert 0 < label["time_s"] <= label["end_s"]
        if label["state"] == "event" and label["view"] == "incident":
            assert label["time_s"] > DAY_S
        assert not (label["state"] == "event" and label["view"] == "incident" and label["prevalent"])


def test_s43_joins_name_real_resources_and_files(hospital: Path) -> None:
    studies = {r["id"] for r in resources(hospital, "ImagingStudy")}
    patients = {r["id"] for r in resources(hospital, "Patient")}
    links = {row["study"]: row for row in truth(hospital, "links")}
    for join in truth(hospital, "joins"):
        assert (join["imaging_study"] is not None) == (links[join["study"]]["confidence"] == "high")
        assert join["imaging_study"] is None or join["imaging_study"].split("/")[1] in studies
        assert (join["patient"] is None) == (links[join["study"]]["reason"] == "unknown_patient")
        assert join["patient"] is None or join["patient"].split("/")[1] in patients
    chosen = {row["study"]: row["series_uid"] for row in truth(hospital, "chosen")}
    assert chosen == {row["study"]: row["series_uid"] for row in truth(hospital, "scans")}


def known(number: int) -> oracle.Covariates:
    rng = np.random.Generator(np.random.Philox(9))
    return oracle.Covariates(
        rng.standard_normal((number, 8)),
        rng.standard_normal((number, 4)),
        rng.uniform(40, 80, number),
        rng.integers(0, 2, number).astype(float),
        rng.uniform(2, 5, number),
        np.zeros(number),
    )


def test_s43_the_oracles_probability_is_that_of_a_simulation() -> None:
    model = build_model(tiny_parameters())
    one = known(1)
    mu, risk = oracle.risk_of("oracle_risk", model, "pleural_effusion", one)
    rng = np.random.Generator(np.random.Philox(10))
    origin = one.origin_years[0]
    onset = (origin**model.kappa + rng.exponential(size=400_000) / np.exp(mu[0])) ** (1 / model.kappa) - origin
    nu = np.exp(model.death_log_rate + model.death_predictor(one.z, one.u, one.age)[0])
    death = rng.exponential(size=len(onset)) / nu
    for place, days in enumerate(oracle.HORIZONS_DAYS):
        simulated = np.mean((onset <= days / 365.25) & (onset < death))
        assert risk[0, place] == pytest.approx(simulated, abs=4 * np.sqrt(simulated / len(onset)) + 1e-4)


def test_s43_without_invisible_effects_both_oracles_agree() -> None:
    """Pleural effusion has no coefficient on u: only the competing death differs, and little."""
    model = build_model(tiny_parameters())
    both = known(200)
    given_all, _ = oracle.risk_of("oracle_risk", model, "pleural_effusion", both)
    given_image, _ = oracle.risk_of("oracle_image", model, "pleural_effusion", both)
    np.testing.assert_allclose(given_all, given_image, atol=1e-9)
    frail_all, _ = oracle.risk_of("oracle_risk", model, "death", both)
    frail_image, _ = oracle.risk_of("oracle_image", model, "death", both)
    assert np.abs(frail_all - frail_image).max() > 0.3


def test_s43_oracles_of_the_files_are_probabilities_that_grow_with_the_horizon(hospital: Path) -> None:
    for arm in oracle.ARMS:
        table = pq.read_table(hospital / "truth" / f"{arm}.parquet")
        p = np.array(table["probability"]).reshape(-1, 3)
        assert np.all((p > 0) & (p < 1))
        assert np.all(np.diff(p, axis=1) > 0)


def test_s43_ceilings_reach_what_the_demonstration_needs(hospital: Path) -> None:
    rows = [row for row in truth(hospital, "ceilings") if row["metric"] == "harrell_c" and row["arm"] == "oracle_image"]
    assert len(rows) == 8
    assert np.mean([row["value"] for row in rows]) >= 0.72
    assert all(0 < row["se"] < 0.05 for row in rows)


def test_s43_concordance_agrees_with_scikit_survival() -> None:
    from sksurv.metrics import concordance_index_censored

    rng = np.random.Generator(np.random.Philox(3))
    time, event, risk = rng.exponential(size=300), rng.random(300) < 0.6, rng.standard_normal(300).round(1)
    assert concordance(time, event, risk) == pytest.approx(concordance_index_censored(event, time, risk)[0])


def test_s43_predictions_carry_both_arms_and_their_horizons(hospital: Path, tmp_path: Path) -> None:
    joins = truth(hospital, "joins")
    numbers = {row["study"]: place + 1 for place, row in enumerate(joins)}
    table = pa.concat_tables([oracle._predictions(hospital, arm, numbers) for arm in oracle.ARMS])
    assert table.column_names == ["study_id", "task", "arm", "fold", "risk", "surv"]
    assert set(table["arm"].to_pylist()) == {"oracle_risk", "oracle_image"}
    surv = np.array(table["surv"].to_pylist())
    assert np.all((surv > 0) & (surv < 1))
    assert np.all(np.diff(surv, axis=1) < 0)
    linked = sum(row["patient"] is not None for row in joins)
    assert len(table) == 2 * 8 * linked
