"""FHIR resources of a stay beyond its visit: intensive care, drugs given, specimens, their report, notes, smoking."""

from __future__ import annotations

import base64

from presage_etl.synthetic.clock import iso
from presage_etl.synthetic.identifiers import LOCAL_SYSTEM, LOINC, SNOMED
from presage_etl.synthetic.lives.events import Visit
from presage_etl.synthetic.lives.persons import Person
from presage_etl.synthetic.records.fhir import (
    ACT,
    INTENSIVE_CARE,
    ORGANIZATION,
    Json,
    coding,
    concept,
    medication_code,
    meta,
    practitioner_id,
    reference,
    visit_id,
)

SMOKING = (
    ("266919005", "Never smoked tobacco"),
    ("8517006", "Former smoker"),
    ("77176002", "Smoker"),
)
NOTE_WORDS = ("calm", "clear", "lantern", "harbor", "steady", "maple", "review", "planned", "usual", "quiet")
GIVEN: Json = {"sig": "1 dose", "quantity": 1.0, "dose_unit_source_value": "dose"}
"""What is said of a drug that was given, by the CDM's columns."""
V2_0074 = "http://terminology.hl7.org/CodeSystem/v2-0074"


def intensive_care(person: Person, visit: Visit, start: int, end: int, zone: str) -> Json:
    """The part of an inpatient stay that was spent in intensive care: a detail of the visit, no visit."""
    return {
        "resourceType": "Encounter",
        "id": f"{visit_id(person, visit.number)}-icu",
        "meta": meta(end, zone),
        "status": "finished",
        "class": coding(ACT, "ACUTE", "inpatient acute"),
        "type": [concept(coding(LOCAL_SYSTEM, "VISIT-ICU"), text="intensive care")],
        "subject": reference("Patient", person.key),
        "period": {"start": iso(start, zone), "end": iso(end, zone)},
        "location": [{"location": reference("Location", INTENSIVE_CARE)}],
        "serviceProvider": reference("Organization", ORGANIZATION),
        "partOf": reference("Encounter", visit_id(person, visit.number)),
    }


def medication_administration(
    person: Person, visit: Visit, drug: tuple[str, str], form: float, seconds: int, zone: str
) -> Json:
    """A drug that was given during a stay."""
    return {
        "resourceType": "MedicationAdministration",
        "id": f"{person.key}-g{visit.number}",
        "meta": meta(seconds, zone),
        "status": "completed",
        **medication_code(drug, form),
        "subject": reference("Patient", person.key),
        "context": reference("Encounter", visit_id(person, visit.number)),
        "effectiveDateTime": iso(seconds, zone),
        "dosage": {"text": GIVEN["sig"], "dose": {"value": GIVEN["quantity"], "unit": GIVEN["dose_unit_source_value"]}},
    }


def specimen(person: Person, visit: Visit, zone: str, *, contained: bool = False) -> Json:
    """Blood that was taken."""
    system = "http://terminology.hl7.org/CodeSystem/v2-0487"
    resource: Json = {
        "resourceType": "Specimen",
        "id": "blood" if contained else f"{person.key}-s{visit.number}",
        "status": "available",
        "type": concept(coding(system, "BLD", "Whole blood"), text="blood"),
        "subject": reference("Patient", person.key),
        "collection": {"collectedDateTime": iso(visit.start, zone)},
    }
    return resource if contained else resource | {"meta": meta(visit.start, zone)}


def laboratory_report(person: Person, visit: Visit, results: list[str], zone: str) -> Json:
    """The report that gathers a visit's laboratory results; it adds nothing to them."""
    return {
        "resourceType": "DiagnosticReport",
        "id": f"{person.key}-b{visit.number}",
        "meta": meta(visit.end, zone),
        "status": "final",
        "category": [concept(coding(V2_0074, "LAB", "Laboratory"))],
        "code": concept(coding(LOINC, "26436-6", "Laboratory studies (set)"), text="laboratory studies"),
        "subject": reference("Patient", person.key),
        "encounter": reference("Encounter", visit_id(person, visit.number)),
        "effectiveDateTime": iso(visit.start, zone),
        "issued": iso(visit.end, zone),
        "performer": [reference("Organization", ORGANIZATION)],
        "result": [reference("Observation", result) for result in results],
    }


def smoking_status(person: Person, status: int, visit: Visit, zone: str) -> Json:
    """Social history: asked once."""
    system = "http://terminology.hl7.org/CodeSystem/observation-category"
    return {
        "resourceType": "Observation",
        "id": f"{person.key}-h0",
        "meta": meta(visit.start, zone),
        "status": "final",
        "category": [concept(coding(system, "social-history", "Social History"))],
        "code": concept(coding(LOINC, "72166-2", "Tobacco smoking status"), text="Tobacco smoking status"),
        "subject": reference("Patient", person.key),
        "encounter": reference("Encounter", visit_id(person, visit.number)),
        "effectiveDateTime": iso(visit.start, zone),
        "issued": iso(visit.start, zone),
        "valueCodeableConcept": concept(coding(SNOMED, *SMOKING[status]), text=SMOKING[status][1]),
    }


def document(person: Person, visit: Visit, words: list[str], zone: str) -> Json:
    """A note: words of a list, that say nothing about anybody."""
    text = base64.b64encode(f"Synthetic note: {' '.join(words)}.\n".encode()).decode()
    category = "http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category"
    return {
        "resourceType": "DocumentReference",
        "id": f"{person.key}-n{visit.number}",
        "meta": meta(visit.end, zone),
        "identifier": [{"system": "https://synthetic.example/notes", "value": f"{person.key}-n{visit.number}"}],
        "status": "current",
        "type": concept(coding(LOINC, "34109-9", "Note"), text="Note"),
        "category": [concept(coding(category, "clinical-note", "Clinical Note"))],
        "subject": reference("Patient", person.key),
        "date": iso(visit.end, zone),
        "author": [reference("Practitioner", practitioner_id(person.index + visit.number))],
        "custodian": reference("Organization", ORGANIZATION),
        "content": [
            {
                "attachment": {"contentType": "text/plain", "data": text},
                "format": coding(
                    "http://ihe.net/fhir/ihe.formatcode.fhir/CodeSystem/formatcode",
                    "urn:ihe:iti:xds:2017:mimeTypeSufficient",
                ),
            }
        ],
        "context": {
            "encounter": [reference("Encounter", visit_id(person, visit.number))],
            "period": {"start": iso(visit.start, zone), "end": iso(visit.end, zone)},
        },
    }
