"""What the EHR knows of a scan: the order, the ImagingStudy and the report."""

from __future__ import annotations

from presage_etl.synthetic.clock import iso
from presage_etl.synthetic.identifiers import LOINC, SNOMED, accession, series_uid, study_uid
from presage_etl.synthetic.lives.persons import Person, Scan
from presage_etl.synthetic.records.fhir import (
    NUM_ROLES,
    ORGANIZATION,
    Json,
    accession_identifier,
    coding,
    concept,
    meta,
    practitioner_id,
    reference,
    role_id,
    visit_id,
)

DICOM_MODALITY = "http://dicom.nema.org/resources/ontology/DCM"
CT_CHEST = coding(LOINC, "24627-2", "CT Chest")


def service_request(person: Person, scan: Scan, visit: int, ordered: int, zone: str) -> Json:
    """The order, which carries the accession number."""
    return {
        "resourceType": "ServiceRequest",
        "id": f"{person.key}-order{scan.number}",
        "meta": meta(ordered, zone),
        "identifier": [accession_identifier(accession(person.index, scan.number))],
        "status": "completed",
        "intent": "order",
        "category": [concept(coding(SNOMED, "363679005", "Imaging"))],
        "code": concept(CT_CHEST, text="CT chest"),
        "subject": reference("Patient", person.key),
        "encounter": reference("Encounter", visit_id(person, visit)),
        "authoredOn": iso(ordered, zone),
        "requester": reference("Practitioner", practitioner_id(person.index + visit)),
    }


def imaging_study(person: Person, scan: Scan, visit: int, num_slices: int, seed: int, zone: str) -> Json:
    """The study with its UID, accession number and one series."""
    uid = study_uid(seed, person.index, scan.number)
    started = iso(scan.t0, zone)
    modality = coding(DICOM_MODALITY, "CT", "Computed Tomography")
    return {
        "resourceType": "ImagingStudy",
        "id": f"{person.key}-study{scan.number}",
        "meta": meta(scan.t0, zone),
        "identifier": [
            {"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"},
            accession_identifier(accession(person.index, scan.number)),
        ],
        "status": "available",
        "modality": [modality],
        "subject": reference("Patient", person.key),
        "encounter": reference("Encounter", visit_id(person, visit)),
        "started": started,
        "basedOn": [reference("ServiceRequest", f"{person.key}-order{scan.number}")],
        "numberOfSeries": 1,
        "numberOfInstances": num_slices,
        "series": [
            {
                "uid": series_uid(uid),
                "number": 1,
                "modality": modality,
                "started": started,
                "numberOfInstances": num_slices,
            }
        ],
    }


def diagnostic_report(person: Person, scan: Scan, visit: int, issued: int, zone: str) -> Json:
    """The report that belongs to the study; it says nothing about the latents."""
    return {
        "resourceType": "DiagnosticReport",
        "id": f"{person.key}-report{scan.number}",
        "meta": meta(issued, zone),
        "status": "final",
        "category": [concept(coding("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD", "Radiology"))],
        "code": concept(CT_CHEST, text="CT chest"),
        "subject": reference("Patient", person.key),
        "encounter": reference("Encounter", visit_id(person, visit)),
        "effectiveDateTime": iso(scan.t0, zone),
        "issued": iso(issued, zone),
        "performer": [reference("Organization", ORGANIZATION)],
        "resultsInterpreter": [reference("PractitionerRole", role_id(person.index % NUM_ROLES))],
        "imagingStudy": [reference("ImagingStudy", f"{person.key}-study{scan.number}")],
    }
