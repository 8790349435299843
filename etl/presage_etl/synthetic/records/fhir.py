"""FHIR R4 resources of the synthetic hospital, one pure function a resource type."""

from __future__ import annotations

from typing import Any

from presage_etl.synthetic.clock import iso, iso_day
from presage_etl.synthetic.identifiers import (
    ACCESSION_SYSTEM,
    CVX,
    ENTERPRISE_SYSTEM,
    LOCAL_SYSTEM,
    LOINC,
    MRN_SYSTEM,
    RXNORM,
    SNOMED,
    UCUM,
)
from presage_etl.synthetic.lives.events import NEVER, Diagnosis, History, Visit
from presage_etl.synthetic.lives.persons import Person

Json = dict[str, Any]

ORGANIZATION = "synthetic-hospital"
LOCATION = "radiology"
WARD, INTENSIVE_CARE = "ward", "intensive-care"
NUM_PRACTITIONERS = 20
NUM_ROLES = 10
US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/"
OMB = "urn:oid:2.16.840.1.113883.6.238"
ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"
VERIFIED = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
RACE_NAMES = {
    "1002-5": "American Indian or Alaska Native",
    "2028-9": "Asian",
    "2054-5": "Black or African American",
    "2076-8": "Native Hawaiian or Other Pacific Islander",
    "2106-3": "White",
}
ETHNICITY_NAMES = {"2135-2": "Hispanic or Latino", "2186-5": "Not Hispanic or Latino"}
STAY_SYSTEM = "https://synthetic.example/stays"
CLASS_NAMES = {"AMB": "ambulatory", "EMER": "emergency", "IMP": "inpatient encounter"}
SYMPTOM_CODES = {
    "cough": ("49727002", "Cough"),
    "dyspnea": ("267036007", "Dyspnea"),
    "fever": ("386661006", "Fever"),
    "headache": ("25064002", "Headache"),
    "fatigue": ("84229001", "Fatigue"),
}


def coding(system: str, code: str, display: str | None = None) -> Json:
    """One Coding."""
    return {"system": system, "code": code} | ({"display": display} if display else {})


def concept(*codings: Json, text: str | None = None) -> Json:
    """One CodeableConcept."""
    return {"coding": list(codings)} | ({"text": text} if text else {})


def reference(kind: str, identity: str) -> Json:
    """A relative reference."""
    return {"reference": f"{kind}/{identity}"}


def meta(seconds: int, zone: str) -> Json:
    """Version and time of the last change."""
    return {"versionId": "1", "lastUpdated": iso(seconds, zone)}


def patient(history: History, changed: int, zone: str) -> Json:
    """Patient with US Core race, ethnicity and birth sex; `changed` is when it last was."""
    person = history.person
    gender = "male" if person.male else "female"
    resource: Json = {
        "resourceType": "Patient",
        "id": person.key,
        "meta": meta(changed, zone),
        "extension": [
            _omb("us-core-race", [(code, RACE_NAMES[code]) for code in person.races]),
            _omb(
                "us-core-ethnicity", [(person.ethnicity, ETHNICITY_NAMES[person.ethnicity])] if person.ethnicity else []
            ),
            {"url": f"{US_CORE}us-core-birthsex", "valueCode": "M" if person.male else "F"},
        ],
        "identifier": [
            {"use": "usual", "type": _identifier_type("MR"), "system": MRN_SYSTEM, "value": person.mrn},
            {"use": "official", "system": ENTERPRISE_SYSTEM, "value": f"SYE{person.index:09d}"},
        ],
        "active": True,
        "name": [{"use": "official", "family": person.family, "given": [person.given]}],
        "telecom": [{"system": "phone", "value": f"555-01{person.index % 100:02d}", "use": "home"}],
        "gender": gender,
        "birthDate": str(person.birth.year) if person.birth_year_only else person.birth.isoformat(),
        "address": [
            {
                "use": "home",
                "line": [f"{person.index % 900 + 1} Example Street"],
                "city": "Exampleton",
                "state": person.state,
                "postalCode": f"{person.zip3}00",
                "country": "US",
                "period": {"start": iso_day(person.origin)},
            }
        ],
        "communication": [{"language": concept(coding("urn:ietf:bcp:47", "en"))}],
        "managingOrganization": reference("Organization", ORGANIZATION),
    }
    if history.death != NEVER:
        resource["deceasedDateTime"] = iso_day(history.death) if history.death_day_only else iso(history.death, zone)
    return resource


def encounter(person: Person, visit: Visit, zone: str) -> Json:
    """Encounter: ambulatory, emergency or inpatient."""
    resource: Json = {
        "resourceType": "Encounter",
        "id": visit_id(person, visit.number),
        "meta": meta(visit.end, zone),
        "status": "finished",
        "class": coding(ACT, visit.kind, CLASS_NAMES[visit.kind]),
        "type": [concept(coding(LOCAL_SYSTEM, f"VISIT-{visit.kind}"), text=CLASS_NAMES[visit.kind])],
        "subject": reference("Patient", person.key),
        "participant": [{"individual": reference("Practitioner", practitioner_id(person.index + visit.number))}],
        "period": {"start": iso(visit.start, zone), "end": iso(visit.end, zone)},
        "serviceProvider": reference("Organization", ORGANIZATION),
    }
    if visit.kind == "IMP":
        system = "http://terminology.hl7.org/CodeSystem/"
        resource["hospitalization"] = {
            "admitSource": concept(coding(f"{system}admit-source", admit_source(visit))),
            "dischargeDisposition": concept(coding(f"{system}discharge-disposition", "home", "Home")),
        }
        resource["identifier"] = [{"system": STAY_SYSTEM, "value": visit_id(person, visit.number)}]
        resource["reasonCode"] = [{"text": "planned stay"}]
        resource["location"] = [{"location": reference("Location", WARD)}]
        resource["participant"][0] |= _attending(resource["period"])
    return resource


def condition(person: Person, diagnosis: Diagnosis, identity: str, code: Json, when: str, zone: str) -> Json:
    """Condition, recorded after its visit or stamped at the visit's start; `when` is the date as it is written."""
    resource: Json = {
        "resourceType": "Condition",
        "id": identity,
        "meta": meta(diagnosis.recorded, zone),
        "clinicalStatus": concept(coding(CLINICAL, "active")),
        "verificationStatus": concept(coding(VERIFIED, "confirmed")),
        "category": [
            concept(coding("http://terminology.hl7.org/CodeSystem/condition-category", "encounter-diagnosis"))
        ],
        "code": code,
        "subject": reference("Patient", person.key),
        "recordedDate": when,
    }
    if diagnosis.visit != NEVER:
        resource["encounter"] = reference("Encounter", visit_id(person, diagnosis.visit))
    if diagnosis.at_start:
        resource["onsetDateTime"] = when
    return resource


def observation(
    person: Person, visit: Visit, identity: str, category: str, code: tuple[str, str], seconds: int, zone: str
) -> Json:
    """Observation without its value."""
    system = "http://terminology.hl7.org/CodeSystem/observation-category"
    return {
        "resourceType": "Observation",
        "id": identity,
        "meta": meta(seconds, zone),
        "status": "final",
        "category": [concept(coding(system, category))],
        "code": concept(coding(LOINC, *code), text=code[1]),
        "subject": reference("Patient", person.key),
        "encounter": reference("Encounter", visit_id(person, visit.number)),
        "effectiveDateTime": iso(seconds, zone),
    }


def quantity(value: float, unit: str) -> Json:
    """A UCUM quantity."""
    return {"value": float(value), "unit": unit, "system": UCUM, "code": unit}


def procedure(
    person: Person, visit: Visit, identity: str, code: tuple[str, str], seconds: int, when: str, zone: str
) -> Json:
    """Completed procedure."""
    return {
        "resourceType": "Procedure",
        "id": identity,
        "meta": meta(seconds, zone),
        "status": "completed",
        "code": concept(coding(SNOMED, *code), text=code[1]),
        "subject": reference("Patient", person.key),
        "encounter": reference("Encounter", visit_id(person, visit.number)),
        "performedDateTime": when,
    }


def medication_request(
    person: Person, identity: str, drug: tuple[str, str], form: float, seconds: int, when: str, zone: str
) -> Json:
    """Order of a clinical drug."""
    return {
        "resourceType": "MedicationRequest",
        "id": identity,
        "meta": meta(seconds, zone),
        "status": "completed",
        "intent": "order",
        "reportedBoolean": False,
        **medication_code(drug, form),
        "subject": reference("Patient", person.key),
        "authoredOn": when,
        "requester": reference("Practitioner", practitioner_id(person.index)),
        "dosageInstruction": [{"text": "1 a day"}],
        "dispenseRequest": {"numberOfRepeatsAllowed": 1, "quantity": {"value": 30}},
    }


def medication_code(drug: tuple[str, str], form: float) -> Json:
    """What a drug is: a code, a reference, or a contained Medication."""
    code = drug_concept(drug)
    if form < 0.8:
        return {"medicationCodeableConcept": code}
    if form < 0.9:
        return {"medicationReference": reference("Medication", medication_id(drug[0]))}
    contained = {"resourceType": "Medication", "id": "drug", "code": code}
    return {"contained": [contained], "medicationReference": {"reference": "#drug"}}


def drug_concept(drug: tuple[str, str]) -> Json:
    """The CodeableConcept of a drug."""
    return concept(coding(RXNORM, *drug), text=drug[1])


def immunization(person: Person, identity: str, vaccine: tuple[str, str], seconds: int, when: str, zone: str) -> Json:
    """Completed vaccination."""
    return {
        "resourceType": "Immunization",
        "id": identity,
        "meta": meta(seconds, zone),
        "status": "completed",
        "vaccineCode": concept(coding(CVX, *vaccine), text=vaccine[1]),
        "patient": reference("Patient", person.key),
        "occurrenceDateTime": when,
        "primarySource": True,
    }


def allergy(person: Person, identity: str, code: tuple[str, str], seconds: int, when: str, zone: str) -> Json:
    """Confirmed allergy, and how it showed."""
    clinical = "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical"
    verified = "http://terminology.hl7.org/CodeSystem/allergyintolerance-verification"
    return {
        "resourceType": "AllergyIntolerance",
        "id": identity,
        "meta": meta(seconds, zone),
        "clinicalStatus": concept(coding(clinical, "active")),
        "verificationStatus": concept(coding(verified, "confirmed")),
        "code": concept(coding(SNOMED, *code), text=code[1]),
        "patient": reference("Patient", person.key),
        "recordedDate": when,
        "reaction": [{"manifestation": [{"text": "rash"}]}],
    }


def admit_source(visit: Visit) -> str:
    """Where an inpatient came from."""
    return ("emd", "outp", "gp")[visit.number % 3]


def visit_id(person: Person, number: int) -> str:
    """FHIR id of a visit."""
    return f"{person.key}-v{number}"


def practitioner_id(number: int) -> str:
    """FHIR id of one of the practitioners."""
    return f"practitioner-{number % NUM_PRACTITIONERS:02d}"


def role_id(number: int) -> str:
    """FHIR id of what one practitioner does."""
    return f"role-{number:02d}"


def medication_id(code: str) -> str:
    """FHIR id of the Medication of a clinical drug."""
    return f"medication-{code}"


def accession_identifier(value: str) -> Json:
    """Accession number of an order or a study."""
    return {"type": _identifier_type("ACSN"), "system": ACCESSION_SYSTEM, "value": value}


def _attending(period: Json) -> Json:
    system = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
    return {"type": [concept(coding(system, "ATND", "attender"))], "period": period}


def _identifier_type(code: str) -> Json:
    return concept(coding("http://terminology.hl7.org/CodeSystem/v2-0203", code))


def _omb(name: str, categories: list[tuple[str, str]]) -> Json:
    parts: list[Json] = [{"url": "ombCategory", "valueCoding": coding(OMB, *category)} for category in categories]
    if not categories:
        system = "http://terminology.hl7.org/CodeSystem/v3-NullFlavor"
        parts = [{"url": "ombCategory", "valueCoding": coding(system, "UNK", "Unknown")}]
    text = ", ".join(name for _, name in categories) or "Unknown"
    return {"url": f"{US_CORE}{name}", "extension": [*parts, {"url": "text", "valueString": text}]}
