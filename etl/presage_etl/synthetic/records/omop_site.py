"""CDM rows of the hospital itself: its care sites, its practitioners, and what the database says about itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.records.fhir import NUM_PRACTITIONERS, NUM_ROLES, ORGANIZATION, practitioner_id, role_id
from presage_etl.synthetic.records.fhir_site import PLACES
from presage_etl.synthetic.records.omop import COUNTRY, GENDERS, Row

CDM_5_4 = 756265
RELEASE = "presage-demo 1"
HOSPITAL = f"Organization/{ORGANIZATION}"
ADDRESS = {
    "address_1": "1 Example Street",
    "city": "Exampleton",
    "state": "MA",
    "zip": "01000",
    "country_source_value": COUNTRY,
}


def site_rows() -> Iterator[Row]:
    """The organization, its places, the practitioners and their roles; no names of persons."""
    yield Row("care_site", HOSPITAL, _care_site("Synthetic Hospital", "prov", None))
    for identity, name, physical in PLACES:
        place = f"Location/{identity}"
        yield Row("location", place, dict(ADDRESS))
        yield Row("care_site", f"{place}#site", _care_site(name, physical, place))
    for number in range(NUM_ROLES):
        values = {"specialty_concept_id": 0, "specialty_source_value": "doctor", "specialty_source_concept_id": 0}
        yield Row("provider", f"PractitionerRole/{role_id(number)}", values | {"care_site_id": HOSPITAL})
    for number in range(NUM_PRACTITIONERS):
        gender, concept_id = GENDERS[number % 2 == 0]
        provider = {
            "specialty_concept_id": 0,
            "specialty_source_concept_id": 0,
            "gender_concept_id": concept_id,
            "gender_source_value": gender,
            "gender_source_concept_id": 0,
        }
        yield Row("provider", f"Practitioner/{practitioner_id(number)}", provider)


def _care_site(name: str, kind: str, location: str | None) -> dict[str, Any]:
    return {
        "care_site_name": name,
        "place_of_service_concept_id": 0,
        "place_of_service_source_value": kind,
        "location_id": location,
    }


def source_row(parameters: Parameters) -> Row:
    """The one row about the database; a generated one is released on the day of its data cut."""
    values = {
        "cdm_source_name": "Synthetic hospital",
        "cdm_source_abbreviation": "synthetic",
        "cdm_holder": "presage demonstration",
        "source_release_date": parameters.calendar.cut,
        "cdm_release_date": parameters.calendar.cut,
        "cdm_version": "5.4",
        "cdm_version_concept_id": CDM_5_4,
        "vocabulary_version": RELEASE,
    }
    return Row("cdm_source", "cdm_source", values)
