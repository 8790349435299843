"""Condition and drug eras: their bounds, their counts, and touched persons only (E83, E85, E86)."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

from presage_platform.postgres.connection import open_database
from presage_platform.settings import Settings
from tests.lib.fhir_export import condition, load, patient, rows_of, write_ndjson

DRUG, INGREDIENT = 2_000_009_001, 2_000_009_002
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
CONDITION_ERAS = (
    "SELECT person_id, condition_era_start_date, condition_era_end_date, condition_occurrence_count"
    " FROM condition_era ORDER BY 1, 2"
)
DRUG_ERAS = (
    "SELECT drug_concept_id, drug_era_start_date, drug_era_end_date, drug_exposure_count, gap_days"
    " FROM drug_era ORDER BY 1, 2"
)


def order(name: str, start: str, end: str) -> dict[str, Any]:
    return {
        "resourceType": "MedicationRequest",
        "id": name,
        "status": "completed",
        "intent": "order",
        "subject": {"reference": "Patient/a"},
        "medicationCodeableConcept": {"coding": [{"system": RXNORM, "code": "tablet"}]},
        "authoredOn": start,
        "dosageInstruction": [{"timing": {"repeat": {"boundsPeriod": {"start": start, "end": end}}}}],
    }


def add_drug(settings: Settings, *, with_ancestor: bool) -> None:
    """A clinical drug of one ingredient, which the tiny vocabulary does not have."""
    with open_database(settings, command="test") as database, database.connect() as connection:
        for number, code, kind in ((DRUG, "tablet", "Clinical Drug"), (INGREDIENT, "substance", "Ingredient")):
            connection.execute(
                "INSERT INTO concept VALUES (%s, %s, 'Drug', 'RxNorm', %s, 'S', %s, '1970-01-01', '2099-12-31', NULL)",
                [number, code, kind, code],
            )
            connection.execute(
                "INSERT INTO concept_relationship VALUES (%s, %s, 'Maps to', '1970-01-01', '2099-12-31', NULL)",
                [number, number],
            )
        if with_ancestor:
            connection.execute("INSERT INTO concept_ancestor VALUES (%s, %s, 1, 1)", [INGREDIENT, DRUG])
        connection.commit()


def test_e85_an_era_ends_when_more_than_thirty_days_pass(hospital: Settings, tmp_path: Path) -> None:
    made = [
        patient("a"),
        condition("long", "a", "2020-01-01", abatementDateTime="2020-03-01"),
        condition("inside", "a", "2020-02-01"),
        condition("joins", "a", "2020-03-31"),
        condition("alone", "a", "2020-05-01"),
        condition("unmapped", "a", "2020-05-01", code="1"),
    ]
    load(hospital, write_ndjson(tmp_path / "a.ndjson", made))
    assert rows_of(hospital, CONDITION_ERAS) == [
        (1, date(2020, 1, 1), date(2020, 3, 31), 3),
        (1, date(2020, 5, 1), date(2020, 5, 1), 1),
    ]


def test_e86_days_of_a_drug_era_without_exposure_are_its_gap(hospital: Settings, tmp_path: Path) -> None:
    add_drug(hospital, with_ancestor=True)
    made = [
        patient("a"),
        order("m1", "2020-01-01", "2020-01-10"),
        order("m2", "2020-01-05", "2020-01-12"),
        order("m3", "2020-01-20", "2020-01-21"),
        order("m4", "2020-02-21", "2020-02-21"),
    ]
    load(hospital, write_ndjson(tmp_path / "a.ndjson", made))
    assert rows_of(hospital, DRUG_ERAS) == [
        (INGREDIENT, date(2020, 1, 1), date(2020, 1, 21), 3, 7),
        (INGREDIENT, date(2020, 2, 21), date(2020, 2, 21), 1, 0),
    ]


def test_e86_without_ingredients_there_are_no_drug_eras_and_the_report_says_why(
    hospital: Settings, tmp_path: Path
) -> None:
    add_drug(hospital, with_ancestor=False)
    report = load(hospital, write_ndjson(tmp_path / "a.ndjson", [patient("a"), order("m", "2020-01-01", "2020-01-10")]))
    assert rows_of(hospital, DRUG_ERAS) == []
    assert "no-ingredient-ancestors" in report.text()


def test_e83_eras_of_touched_persons_are_those_of_a_load_of_everything(
    hospital: Settings, second: Settings, tmp_path: Path
) -> None:
    before = [patient("a"), patient("b")]
    before += [condition(f"{who}{n}", who, f"2020-0{n}-01") for who in "ab" for n in (1, 2, 5, 8)]
    between = [
        condition("bridge", "a", "2020-03-01"),
        condition("a8", "a", "2020-05-20"),
        condition("b9", "b", "2021-01-01"),
    ]
    first = write_ndjson(tmp_path / "1.ndjson", before)
    load(hospital, first)
    kept = rows_of(hospital, "SELECT condition_era_id FROM condition_era ORDER BY 1")
    load(hospital, write_ndjson(tmp_path / "2.ndjson", between))
    load(second, first, tmp_path / "2.ndjson")
    assert rows_of(hospital, CONDITION_ERAS) == rows_of(second, CONDITION_ERAS)
    ids = [row[0] for row in rows_of(hospital, "SELECT condition_era_id FROM condition_era ORDER BY 1")]
    assert len(set(ids) & {row[0] for row in kept}) >= len(kept) - 1  # an era keeps its id while it keeps its place
    load(hospital, deletes=("Patient/a",))
    assert {row[0] for row in rows_of(hospital, CONDITION_ERAS)} == {2}
