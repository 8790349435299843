"""A death and its cause come from two resources, in any order (E48)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from presage_platform.postgres.connection import open_database
from presage_platform.settings import Settings
from tests.lib.fhir_export import load, write_ndjson

PATIENT = {"resourceType": "Patient", "id": "a", "birthDate": "1940", "deceasedDateTime": "2024-02-01"}


def certificate(number: int, day: str, code: str) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": f"o{number}",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "69453-9"}]},
        "subject": {"reference": "Patient/a"},
        "effectiveDateTime": day,
        "valueCodeableConcept": {"coding": [{"system": "http://snomed.info/sct", "code": code}]},
    }


def cause(settings: Settings) -> tuple[Any, ...] | None:
    with open_database(settings, command="test") as database, database.connect() as connection:
        return connection.execute("SELECT cause_concept_id, cause_source_value FROM death").fetchone()


def test_e48_the_latest_certificate_names_the_cause(hospital: Settings, tmp_path: Path) -> None:
    resources = [certificate(1, "2024-02-03", "233604007"), PATIENT, certificate(2, "2024-02-02", "59282003")]
    write_ndjson(tmp_path / "export" / "a.ndjson", resources)
    load(hospital, tmp_path / "export")
    assert cause(hospital) == (255848, "233604007")


def test_e48_a_cause_may_come_later_and_a_full_reload_keeps_it(hospital: Settings, tmp_path: Path) -> None:
    write_ndjson(tmp_path / "first" / "a.ndjson", [PATIENT])
    load(hospital, tmp_path / "first")
    assert cause(hospital) == (None, None)
    write_ndjson(tmp_path / "second" / "a.ndjson", [certificate(1, "2024-02-03", "233604007")])
    load(hospital, tmp_path / "second")
    assert cause(hospital) == (255848, "233604007")
    again = load(hospital, tmp_path / "first", full=True)
    assert (again.num_inserted, again.num_updated) == (0, 0)
    assert cause(hospital) == (255848, "233604007")
