"""Truth, labels and oracles (rules S32, S43)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from presage_etl.synthetic.answers import oracle, scoring
from presage_etl.synthetic.answers.scoring import concordance
from presage_etl.synthetic.clock import DAY_S
from presage_etl.synthetic.lives.hazards import build_model
from presage_etl.synthetic.parameters import read_parameters
from tests.lib.synthetic import person_of, resources, tiny_parameters, truth

TABLES = {
    "persons", "scans", "coefficients", "onsets", "death_censor", "visits", "true_labels", "oracle_risk",
    "oracle_image",
    "ceilings", "planted_dicom", "planted_fhir", "links", "chosen", "joins", "join_persons", "expected_counts",
}  # fmt: skip


def test_s43_every_table_is_there_and_described(hospital: Path) -> None:
    assert {path.stem for path in (hospital / "truth").glob("*.parquet")} == TABLES
    readme = (hospital / "truth" / "README.md").read_text(encoding="utf-8")
    for name in TABLES:
        assert f"`{name}.parquet`" in readme
        section = readme.split(f"## `{name}.parquet`")[1].split("## ")[0]
        schema = pq.read_schema(hospital / "truth" / f"{name}.parquet")
        assert all(f"| {field.name} | {field.type} |" in section for field in schema), name


def test_s43_expected_rows_are_those_of_the_resources(hospital: Path) -> None:
    expected = {(row["stage"], row["kind"], row["name"]): row["expected"] for row in truth(hospital, "expected_counts")}
    counts = Counter(resource["resourceType"] for resource in resources(hospital))
    tables = {
        "person": sum(patient["active"] for patient in resources(hospital, "Patient")),
        "visit_occurrence": sum("partOf" not in stay for stay in resources(hospital, "Encounter")),
        "visit_detail": sum("partOf" in stay for stay in resources(hospital, "Encounter")),
        "condition_occurrence": counts["Condition"],
        "drug_exposure": counts["MedicationRequest"] + counts["Immunization"] + counts["MedicationAdministration"],
        "procedure_occurrence": counts["Procedure"] + counts["ImagingStudy"],
        "image_occurrence": counts["ImagingStudy"],
        "provider": counts["Practitioner"] + counts["PractitionerRole"],
        "care_site": counts["Organization"] + counts["Location"],
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
        codes = {coding["code"] for coding in condition["code"].get("coding", [])}
        if codes & {"60046008", "J90", "malignant_pleural_effusion"}:
            person = person_of(condition)
            when = condition.get("onsetDateTime", condition["recordedDate"])
            first[person] = min(first.get(person, "9"), when)
    scans = {row["study"]: row for row in truth(hospital, "scans")}
    labels = [
        row for row in truth(hospital, "true_labels") if (row["task"], row["view"]) == ("pleural_effusion", "incident")
    ]
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
        if label["state"] == "event" and (label["task"], label["view"]) == ("pleural_effusion", "incident"):
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
        known = join["imaging_study"] is not None
        for column, kind in (("service_request", "ServiceRequest"), ("diagnostic_report", "DiagnosticReport")):
            assert (join[column] is not None) == known
            assert not known or join[column] in {f"{kind}/{r['id']}" for r in resources(hospital, kind)}
    own = [r for r in resources(hospital, "Patient") if r["active"]]  # one that was merged is another's
    numbers = {r["id"]: {i["value"] for i in r["identifier"]} for r in own}
    assert {row["person"] for row in truth(hospital, "join_persons")} == set(numbers)
    assert all(row["patient_id"] in numbers[row["person"]] for row in truth(hospital, "join_persons"))
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


def test_s43_ceilings_score_both_oracles_by_every_metric(hospital: Path) -> None:
    """Recorded labels: C, AUC(t), AUROC and integrated Brier score, each with its standard error."""
    rows = {(r["task"], r["arm"], r["metric"]): r for r in truth(hospital, "ceilings")}
    metrics = {"harrell_c", "harrell_c_onset", "auc_30", "auc_180", "auc_365", "auroc_365", "ibs"}
    assert {key[2] for key in rows} == metrics
    assert len(rows) == 8 * 2 * len(metrics)
    assert all(row["se"] > 0 and 0 < row["value"] < 1 for row in rows.values())
    for task in {key[0] for key in rows}:
        assert rows[task, "oracle_risk", "ibs"]["value"] < 0.25
        for metric in metrics - {"ibs"}:
            all_known, picture = rows[task, "oracle_risk", metric], rows[task, "oracle_image", metric]
            assert all_known["value"] > picture["value"] - 3 * (all_known["se"] + picture["se"])


def test_s43_ceilings_are_measured_on_two_hundred_thousand_persons_in_the_large_presets() -> None:
    assert read_parameters("demo").ceiling_persons == 200_000
    assert read_parameters().ceiling_persons == 200_000


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


def test_s43_censoring_weighted_scores_agree_with_scikit_survival() -> None:
    from sksurv.metrics import brier_score, cumulative_dynamic_auc, integrated_brier_score

    rng = np.random.Generator(np.random.Philox(4))
    risk = rng.standard_normal(600)
    onset, stop = rng.exponential(size=600) / np.exp(risk), rng.exponential(2.0, 600)
    outcome = scoring.Outcome(np.minimum(onset, stop), onset <= stop, np.zeros(600, dtype=bool))
    seen = np.array(list(zip(outcome.event, outcome.time, strict=True)), dtype=[("event", bool), ("time", float)])
    censoring = scoring.censoring_of(outcome)
    times = np.array([0.2, 0.5, 1.0])
    free = np.exp(-np.outer(np.exp(risk), times))
    ours = [scoring.auc_at(outcome, risk, t, censoring) for t in times]
    np.testing.assert_allclose(ours, cumulative_dynamic_auc(seen, seen, risk, times)[0], atol=2e-3)
    ours = [scoring.brier_at(outcome, 1 - free[:, n], t, censoring) for n, t in enumerate(times)]
    np.testing.assert_allclose(ours, brier_score(seen, seen, free, times)[1], atol=2e-3)
    whole = scoring.integrated_brier(outcome, 1 - free, times, censoring)
    assert whole == pytest.approx(integrated_brier_score(seen, seen, free, times), abs=2e-3)


def test_s43_a_competing_end_is_no_event_and_never_censored() -> None:
    """Worked by hand: four persons, nobody censored."""
    outcome = scoring.Outcome(
        np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, False, True, False]), np.array([False, True, False, True])
    )
    censoring = scoring.censoring_of(outcome)
    assert scoring.auc_at(outcome, np.array([4.0, 3.0, 2.0, 1.0]), 3.5, censoring) == pytest.approx(3 / 4)
    p = np.array([0.9, 0.2, 0.6, 0.1])
    wanted = (0.1**2 + 0.2**2 + 0.4**2 + 0.1**2) / 4
    assert scoring.brier_at(outcome, p, 3.5, censoring) == pytest.approx(wanted)


def test_s43_the_curve_of_an_oracle_meets_its_horizons() -> None:
    model, some = build_model(tiny_parameters()), known(50)
    years = np.array(oracle.HORIZONS_DAYS) / 365.25
    for arm in oracle.ARMS:
        for condition in ("pleural_effusion", "death"):
            curve = oracle.incidence_of(arm, model, condition, some, years)
            np.testing.assert_allclose(curve, oracle.risk_of(arm, model, condition, some)[1], atol=1e-4)


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
