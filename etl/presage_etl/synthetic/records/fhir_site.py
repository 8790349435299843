"""What belongs to the hospital and not to a person: its organization, places, practitioners, their roles, its drugs."""

from __future__ import annotations

from presage_etl.synthetic.identifiers import RXNORM
from presage_etl.synthetic.records.fhir import (
    INTENSIVE_CARE,
    LOCATION,
    NUM_PRACTITIONERS,
    NUM_ROLES,
    ORGANIZATION,
    WARD,
    Json,
    coding,
    concept,
    medication_id,
    practitioner_id,
    reference,
    role_id,
)

PLACES = (
    (LOCATION, "Synthetic Radiology", "wi"),
    (WARD, "Synthetic Ward", "wa"),
    (INTENSIVE_CARE, "Synthetic ICU", "wa"),
)
STAFF_SYSTEM = "https://synthetic.example/staff"
NUM_CARE_SITES = 1 + len(PLACES)
NUM_PROVIDERS = NUM_PRACTITIONERS + NUM_ROLES
ADDRESS: Json = {
    "line": ["1 Example Street"],
    "city": "Exampleton",
    "state": "MA",
    "postalCode": "01000",
    "country": "US",
}
PHONE: Json = {"system": "phone", "value": "555-0100", "use": "work"}


def site_resources(drugs: list[tuple[str, str]]) -> dict[str, list[Json]]:
    """Resources of the site by type; `drugs` are (code, name) of what is prescribed."""
    return {
        "Organization": [_organization()],
        "Location": [_location(*place) for place in PLACES],
        "Practitioner": [_practitioner(number) for number in range(NUM_PRACTITIONERS)],
        "PractitionerRole": [_role(number) for number in range(NUM_ROLES)],
        "Medication": [_medication(*drug) for drug in sorted(drugs)],
    }


def _organization() -> Json:
    return {
        "resourceType": "Organization",
        "id": ORGANIZATION,
        "identifier": [{"system": STAFF_SYSTEM, "value": "SYNTHETIC-HOSPITAL"}],
        "active": True,
        "type": [concept(coding("http://terminology.hl7.org/CodeSystem/organization-type", "prov"))],
        "name": "Synthetic Hospital",
        "telecom": [PHONE],
    }


def _location(identity: str, name: str, physical: str) -> Json:
    return {
        "resourceType": "Location",
        "id": identity,
        "status": "active",
        "name": name,
        "telecom": [PHONE],
        "address": ADDRESS,
        "physicalType": concept(coding("http://terminology.hl7.org/CodeSystem/location-physical-type", physical)),
        "managingOrganization": reference("Organization", ORGANIZATION),
    }


def _practitioner(number: int) -> Json:
    return {
        "resourceType": "Practitioner",
        "id": practitioner_id(number),
        "identifier": [{"system": STAFF_SYSTEM, "value": f"STAFF-{number:03d}"}],
        "active": True,
        "name": [{"family": "Halyard", "given": [f"Test-{number:02d}"]}],
        "gender": "female" if number % 2 else "male",
    }


def _role(number: int) -> Json:
    """What one practitioner does here; a provider of its own to a reader."""
    return {
        "resourceType": "PractitionerRole",
        "id": role_id(number),
        "active": True,
        "practitioner": reference("Practitioner", practitioner_id(number)),
        "organization": reference("Organization", ORGANIZATION),
        "code": [concept(coding("http://terminology.hl7.org/CodeSystem/practitioner-role", "doctor", "Doctor"))],
        "location": [reference("Location", PLACES[number % len(PLACES)][0])],
        "telecom": [PHONE],
    }


def _medication(code: str, name: str) -> Json:
    return {
        "resourceType": "Medication",
        "id": medication_id(code),
        "status": "active",
        "code": concept(coding(RXNORM, code, name), text=name),
    }
