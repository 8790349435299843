"""Sixty real-looking patients against a real vocabulary subset: how many main codes reach a standard concept."""

from __future__ import annotations

import gzip
from collections import Counter
from datetime import date
from pathlib import Path

import msgspec
import pytest

from presage_etl.fhir.coding import CodingSet
from presage_etl.fhir.context import open_context
from presage_etl.fhir.mapping import Decoded, collect, decode, map_decoded
from presage_etl.fhir.outcome import Dead, Excluded, Loaded, Outcome
from presage_etl.omop.athena import load_vocabulary
from presage_platform.postgres.connection import open_database
from presage_platform.settings import Settings

MAIN_CONCEPTS = (
    "condition_concept_id",
    "procedure_concept_id",
    "drug_concept_id",
    "measurement_concept_id",
    "observation_concept_id",
    "device_concept_id",
)


def resources(folder: Path) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for path in sorted(folder.glob("*.json.gz")):
        for entry in msgspec.json.decode(gzip.decompress(path.read_bytes()))["entry"]:
            resource = entry["resource"]
            found.append((resource["resourceType"], msgspec.json.encode(resource)))
    return found


def is_standard(outcome: Loaded) -> bool:
    values = outcome.rows[0].values
    return any(values.get(column) for column in MAIN_CONCEPTS)


@pytest.mark.real_data
def test_e109_main_codes_of_the_synthea_patients_reach_standard_concepts(settings: Settings, real_data: Path) -> None:
    outcomes: list[tuple[str, Outcome]] = []
    with open_database(settings, command="test") as database, database.connect() as connection:
        report = load_vocabulary(real_data / "vocabulary", connection)
        assert report.release == "v5.0 18-JAN-19"
        context = open_context(connection, settings, extraction_date=date(2019, 6, 1))
        codings = CodingSet()
        decoded = [(name, decode(name, raw, context)) for name, raw in resources(real_data / "fhir_synthea")]
        for _, resource in decoded:
            if isinstance(resource, Decoded):
                collect(resource, codings)
        context.prefetch(codings)
        for name, resource in decoded:
            outcomes.append((name, map_decoded(resource, context) if isinstance(resource, Decoded) else resource))

    in_all, standard = Counter[str](), Counter[str]()
    for name, outcome in outcomes:
        if isinstance(outcome, Loaded) and outcome.rows:
            in_all[name] += 1
            standard[name] += is_standard(outcome)
    shares = {name: round(100 * standard[name] / in_all[name], 1) for name in in_all}
    wanted = {"Condition": 92.0, "Observation": 98.1, "Immunization": 96.5, "Procedure": 59.8}
    wanted |= {"MedicationRequest": 86.3, "AllergyIntolerance": 96.2}
    assert {name: shares[name] for name in wanted} == wanted
    dead = Counter((name, outcome.reason) for name, outcome in outcomes if isinstance(outcome, Dead))
    # their study UIDs stand under urn:ietf:rfc:3986, E68 reads urn:dicom:uid only
    assert dead == {("ImagingStudy", "no-study-uid"): 40}
    excluded = {name for name, outcome in outcomes if isinstance(outcome, Excluded)}
    assert excluded == {"CarePlan", "Claim", "ExplanationOfBenefit", "Goal"}
    assert in_all["Patient"] == 60
