"""Words that stand for a patient, planted wherever an input can hold one, and the search for where they came out.

A canary is a word that occurs nowhere else. Its kind says what it stands for: `identity` (names, identifiers, homes,
telephone numbers, narrative), `text` (displays, values, comments: a column of the CDM may hold them), `key` (ids of
resources) and `path` (names of files and folders). None may be in what a command prints, logs or reports.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydicom.dataset import Dataset

from tests.lib.dicom_factory import Spec, sequence, uid, write_series
from tests.lib.fhir_export import LOINC, SNOMED, Resource, condition, encounter, observation, patient, write_bundle

Kind = Literal["identity", "text", "key", "path"]
BIRTH_DATE = "1913-02-17"
BIRTH_FORMS = (b"1913-02-17", b"19130217", b"17.02.1913", b"1913, 2, 17")
WORD = re.compile(rb"qzk[0-9]{5}v", re.IGNORECASE)
NUM_PERSONS = 14


@dataclass
class Canaries:
    """Mints canaries and knows what each stands for."""

    planted: dict[str, tuple[Kind, str]] = field(default_factory=dict)

    def new(self, kind: Kind, where: str) -> str:
        """Return a new word for one place."""
        word = f"qzk{len(self.planted):05d}v"
        self.planted[word] = kind, where
        return word

    def found_in(self, data: bytes, kinds: tuple[Kind, ...] = ("identity", "text", "key", "path")) -> set[str]:
        """Return the places whose canaries are in these bytes, never the words themselves."""
        words = {word.decode().lower() for word in WORD.findall(data)}
        found = {
            f"{kind}: {where}" for kind, where in (self.planted.get(w, ("key", w)) for w in words) if kind in kinds
        }
        if "identity" in kinds and any(form in data for form in BIRTH_FORMS):
            found.add("identity: birth date")
        return found


@dataclass(frozen=True)
class Inputs:
    """An export, an archive and crosswalks in which every field that can name a patient does."""

    canaries: Canaries
    fhir: Path
    dicom: Path
    mapping: Path
    bad_mappings: tuple[Path, ...]


def plant(folder: Path) -> Inputs:
    """Write all inputs below `folder`."""
    canaries = Canaries()
    persons = [canaries.new("key", "Patient.id") for _ in range(NUM_PERSONS)]
    numbers = [canaries.new("identity", "DICOM PatientID") for _ in persons]
    fhir = folder / "export"
    _write_export(fhir / canaries.new("path", "folder of the export"), canaries, persons)
    dicom = folder / "archive"
    for number, patient_id in enumerate(numbers):
        _write_study(dicom, canaries, number, patient_id)
    _write_broken_images(dicom, canaries)
    mapping = folder / "map.csv"
    pairs = list(zip(numbers, persons, strict=True))
    mapping.write_text("patient_id,fhir_patient_id\n" + "".join(f"{a},{b}\n" for a, b in pairs))
    return Inputs(canaries, fhir, dicom, mapping, tuple(_bad_mappings(folder, canaries)))


# --- FHIR ------------------------------------------------------------------------------------------------------------


def _write_export(folder: Path, canaries: Canaries, persons: list[str]) -> None:
    folder.mkdir(parents=True)
    made = [resource for number, key in enumerate(persons) for resource in _person(canaries, number, key)]
    resources = [_rich(canaries, resource) for resource in made]
    lines = [json.dumps(resource) for resource in resources] + list(_broken_lines(canaries, persons[0]))
    (folder / f"{canaries.new('path', 'name of an NDJSON file')}.ndjson").write_text("\n".join(lines) + "\n")
    bundled = [_rich(canaries, resource) for resource in _others(canaries, persons[0])]
    write_bundle(folder / f"{canaries.new('path', 'name of a Bundle')}.json", bundled)
    (folder / f"{canaries.new('path', 'name of a broken file')}.json").write_text(
        '{"resourceType": "Bundle", "entry": [{"resource": "' + canaries.new("identity", "broken Bundle")
    )


def _person(canaries: Canaries, number: int, key: str) -> Iterator[Resource]:
    def name(what: str) -> str:
        return canaries.new("key", f"{what}.id")

    yield _rich_patient(canaries, patient(key, BIRTH_DATE))
    for year in range(2015, 2023):
        yield encounter(name("Encounter"), key, f"{year}-0{1 + number % 9}-02T08:00:00Z")
    visit = name("Encounter")
    yield encounter(visit, key, "2019-03-04T08:00:00Z", "2019-03-04T12:00:00Z")
    here = {"encounter": {"reference": f"Encounter/{visit}"}}
    codes = ("44054006", "233604007", "59282003", "400047006")
    for place, code in enumerate(codes):
        if (number + place) % 3:
            yield condition(
                name("Condition"), key, f"20{20 + place % 3}-0{1 + (number * 7 + place) % 9}-11", code, **here
            )
    yield observation(name("Observation"), key, "2019-04-05T06:00:00Z", 11.0 + number / 10, **here)
    yield {
        **observation(name("Observation"), key, "2019-05-05", value=0),
        "code": {"coding": [{"system": LOINC, "code": "72166-2", "display": canaries.new("text", "display")}]},
        "valueQuantity": None,
        "valueString": canaries.new("text", "Observation.valueString"),
        "component": [
            {
                "code": {"text": canaries.new("text", "component.code.text")},
                "valueString": canaries.new("text", "component.valueString"),
            }
        ],
    }


def _rich_patient(canaries: Canaries, resource: Resource) -> Resource:
    def new(where: str) -> str:
        return canaries.new("identity", f"Patient.{where}")

    return {
        **resource,
        "name": [{"family": new("family"), "given": [new("given")], "prefix": [new("prefix")], "text": new("name")}],
        "telecom": [{"system": "phone", "value": new("telecom")}, {"system": "email", "value": new("e-mail")}],
        "address": [
            {
                "use": "home", "text": new("address.text"), "line": [new("line")], "city": new("city"),
                "district": new("district"), "state": "MA", "postalCode": new("postalCode"), "country": "US",
            }
        ],
        "contact": [{"name": {"family": new("contact")}, "telecom": [{"value": new("contact.telecom")}]}],
        "photo": [{"contentType": "image/png", "data": base64.b64encode(new("photo").encode()).decode()}],
        "generalPractitioner": [{"display": new("generalPractitioner")}],
        "maritalStatus": {"text": canaries.new("text", "maritalStatus.text")},
        "communication": [{"language": {"text": canaries.new("text", "language.text")}}],
    }  # fmt: skip


def _rich(canaries: Canaries, resource: Resource) -> Resource:
    """Add what any resource may carry: narrative, identifiers, notes, contained resources, extensions."""
    kind = resource["resourceType"]

    def new(where: str, sort: Kind = "identity") -> str:
        return canaries.new(sort, f"{kind}.{where}")

    more: Resource = {
        "text": {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{new("text.div")}</div>'},
        "identifier": [
            {"system": "urn:mrn", "value": new("identifier"), "assigner": {"display": new("assigner")}},
        ],
        "note": [{"authorString": new("note.author"), "text": new("note")}],
        "contained": [{"resourceType": "Practitioner", "id": "c", "name": [{"family": new("contained")}]}],
        "extension": [{"url": "urn:x", "valueString": new("extension")}],
        "bodySite": {"text": new("bodySite.text", "text")},
    }
    if kind in ("Condition", "Procedure", "Observation"):
        if kind != "Observation":
            more["bodySite"] = [more["bodySite"]]
        more["recorder"] = {"display": new("recorder")}
        performer = {"display": new("performer")}
        more["performer"] = [{"actor": performer} if kind == "Procedure" else performer]
        resource = json.loads(json.dumps(resource))
        resource["code"]["text"] = new("code.text", "text")
        for coding in resource["code"].get("coding", []):
            coding["display"] = new("display", "text")
    if kind == "Encounter":
        more["reasonCode"] = [{"text": new("reasonCode", "text")}]
        more["participant"] = [{"individual": {"display": new("participant")}}]
        more["location"] = [{"location": {"display": new("location")}}]
        del more["bodySite"]
    if kind == "Patient":
        del more["bodySite"], more["note"]
    return {**{key: value for key, value in resource.items() if value is not None}, **more}


def _others(canaries: Canaries, person: str) -> list[Resource]:
    """One resource of the remaining types, in a Bundle."""
    subject = {"subject": {"reference": f"Patient/{person}"}}
    people = {"patient": {"reference": f"Patient/{person}"}}

    def made(kind: str, **more: Any) -> Resource:
        return {"resourceType": kind, "id": canaries.new("key", f"{kind}.id"), "status": "active", **more}

    def named(where: str) -> str:
        return canaries.new("identity", where)

    def coded(code: str, system: str = SNOMED) -> Resource:
        return {"coding": [{"system": system, "code": code}], "text": canaries.new("text", "code.text")}

    address = {
        "line": [canaries.new("text", "line of a site")],
        "city": canaries.new("text", "city of a site"),
        "state": "MA",
    }
    return [
        made("Practitioner", name=[{"family": named("Practitioner.name")}], telecom=[{"value": named("telecom")}]),
        made("Location", name=canaries.new("text", "Location.name"), address=address),
        made("Organization", name=canaries.new("text", "Organization.name"), address=[address]),
        made("Procedure", **subject, status="completed", code=coded("399208008"), performedDateTime="2019-03-04"),
        made("AllergyIntolerance", **people, code=coded("91936005"), recordedDate="2018-01-01",
             reaction=[{"description": named("reaction")}]),
        made("Immunization", **people, status="completed", vaccineCode=coded("140", "http://hl7.org/fhir/sid/cvx"),
             occurrenceDateTime="2018-02-01", lotNumber=canaries.new("text", "lotNumber")),
        made("MedicationRequest", **subject, intent="order", authoredOn="2018-03-01",
             medicationCodeableConcept=coded(canaries.new("text", "code"), "urn:local"),
             dosageInstruction=[{"text": canaries.new("text", "dosageInstruction")}]),
        made("DiagnosticReport", **subject, status="final", code=coded("24627-2", LOINC),
             conclusion=named("conclusion"), effectiveDateTime="2019-03-04",
             presentedForm=[{"data": base64.b64encode(named("form").encode()).decode()}]),
        made("ImagingStudy", **subject, status="available", started="2019-03-04", description=named("description"),
             series=[{"uid": "2.25.7", "modality": {"code": "CT"}, "description": named("series.description")}]),
        made("Medication", code=coded("308182", "http://www.nlm.nih.gov/research/umls/rxnorm")),
        made("Basic", **subject, code={"text": canaries.new("text", "Basic.code")}),
    ]  # fmt: skip


def _broken_lines(canaries: Canaries, person: str) -> Iterator[str]:
    def new(where: str) -> str:
        return canaries.new("identity", where)

    good = observation(canaries.new("key", "Observation.id"), person, "2019-01-01")
    yield '{"resourceType": "Patient", "id": "x", "name": [{"family": "' + new("broken line")
    yield new("a line that is no JSON")
    for change in (
        {"effectiveDateTime": f"2019-13-45 {new('date')}"},
        {"effectiveDateTime": {"year": new("date as an object")}},
        {"code": [new("code as a list")]},
        {"subject": {"reference": f"Patient/{new('reference to nobody')}"}},
        {"subject": {"reference": f"Patient?identifier=urn:mrn|{new('conditional reference')}"}},
        {"resourceType": new("resourceType")},
        {"id": new("id with blanks") + " and more"},
        {"meta": {"lastUpdated": new("lastUpdated"), "versionId": new("versionId")}},
        {"status": new("status")},
        {"modifierExtension": [{"url": f"urn:{new('modifier')}", "valueBoolean": True}]},
        {"implicitRules": f"urn:{new('implicitRules')}"},
        {"valueQuantity": {"value": new("a number that is none"), "unit": "g/dL"}},
        {"valueQuantity": {"value": 1.0, "unit": canaries.new("text", "unit")}},
    ):
        yield json.dumps({**good, "id": canaries.new("key", "Observation.id"), **change})
    unknown = {"coding": [{"system": f"urn:{canaries.new('text', 'system')}", "code": canaries.new("text", "code")}]}
    yield json.dumps({**condition(canaries.new("key", "Condition.id"), person, "2019-06-06"), "code": unknown})
    yield json.dumps({**patient(canaries.new("key", "Patient.id"), new("birth date that is none"))})


# --- DICOM -----------------------------------------------------------------------------------------------------------

IDENTITY = (
    "PatientName", "OtherPatientNames", "PatientAddress", "PatientTelephoneNumbers", "MilitaryRank", "AccessionNumber",
    "ReferringPhysicianName", "PerformingPhysicianName", "NameOfPhysiciansReadingStudy", "OperatorsName", "StationName",
    "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "DeviceSerialNumber", "PatientBirthName",
    "PatientMotherBirthName", "RequestingPhysician", "Occupation", "OtherPatientIDs", "StudyID",
    "PatientReligiousPreference",
)  # fmt: skip
TEXTS = (
    "StudyDescription", "PatientComments", "ImageComments", "AdditionalPatientHistory", "AdmittingDiagnosesDescription",
    "RequestedProcedureDescription", "PerformedProcedureStepDescription", "SeriesDescription", "ProtocolName",
    "RequestingService", "StudyComments", "Allergies", "MedicalAlerts", "RequestedContrastAgent",
)  # fmt: skip


def _write_study(folder: Path, canaries: Canaries, number: int, patient_id: str) -> None:
    values = {keyword: canaries.new("identity", f"DICOM {keyword}") for keyword in IDENTITY}
    values |= {keyword: canaries.new("text", f"DICOM {keyword}") for keyword in TEXTS}
    hidden = [canaries.new("identity", f"DICOM {what}") for what in ("private tag", "sequence", "file meta", "creator")]

    def change(data: Dataset, k: int) -> None:
        data.RescaleIntercept = -1024 - number  # no two persons may have equal volumes
        for keyword, value in values.items():
            setattr(data, keyword, value)
        data.PatientBirthDate = BIRTH_DATE.replace("-", "")
        data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = "20190304"
        data.RequestAttributesSequence = sequence({"ScheduledProcedureStepDescription": hidden[1]})
        data.private_block(0x0011, hidden[3], create=True).add_new(0x01, "LO", hidden[0])
        data.file_meta.SourceApplicationEntityTitle = hidden[2]
        if number == 1:
            for keyword in ("SliceThickness", "InstanceNumber", "PatientAge", "StudyTime"):
                data.add_new(keyword, "LO", hidden[1])

    names = [canaries.new("path", "name of a DICOM file") for _ in range(6)]
    inside = folder / canaries.new("path", "folder of a DICOM study")
    spec = Spec(study=f"study {number}", patient=patient_id, rows=16, columns=16, step_mm=4.0, num_slices=6)
    write_series(inside, spec, change=change, file_name=lambda k: f"{names[k]}.dcm")


def _write_broken_images(folder: Path, canaries: Canaries) -> None:
    """A series whose pixels are cut short, one with impossible values, files that are no images."""
    cut = [canaries.new("identity", "DICOM of a cut series") for _ in range(3)]

    def shorten(data: Dataset, k: int) -> None:
        data.PatientName, data.PatientID = cut[:2]
        data.PixelData = data.PixelData[: 16 * (k + 1)]
        data["PixelData"].VR = "OW"

    def spoil(data: Dataset, k: int) -> None:
        data.PatientName, data.PatientID = cut[:2]
        for keyword in ("RescaleSlope", "PixelSpacing", "ImagePositionPatient"):
            data.add_new(keyword, "LO", cut[2])

    for study, change in (("cut", shorten), ("spoilt", spoil)):
        inside = folder / canaries.new("path", "folder of a broken series")
        write_series(inside, Spec(study=study, rows=16, columns=16, num_slices=5), change=change)
    spoilt = canaries.new("identity", "text file").encode()
    (folder / f"{canaries.new('path', 'name of a text file')}.dcm").write_bytes(spoilt)
    torn = folder / f"{canaries.new('path', 'name of a torn file')}.dcm"
    torn.write_bytes(b"\0" * 128 + b"DICM" + b"\x10\x00\x10\x00PN\xff\xff" + canaries.new("identity", "torn").encode())


# --- crosswalks ------------------------------------------------------------------------------------------------------


def _bad_mappings(folder: Path, canaries: Canaries) -> Iterator[Path]:
    def new() -> str:
        return canaries.new("identity", "crosswalk")

    texts = {
        "header": f"{new()},{new()}\n{new()},{new()}\n",
        "row": f"patient_id,fhir_patient_id\n{new()}\n",
        "quotes": f'patient_id,fhir_patient_id\n{new()},"{new()}\n{new()},{new()}\n',
        "semicolons": f"{new()};{new()}\n{new()};{new()}\n",
        "empty_cell": f"patient_id,fhir_patient_id\n{new()},\n",
        "person": f"patient_id,person_id\n{new()},{new()}\n",
        "uid": f"study_uid,person_id\n{uid('study 0')},{new()}\n",
        "twice": f"study_uid,fhir_patient_id\n{uid('study 0')},{new()}\n{uid('study 0')},{new()}\n",
    }
    for name, text in texts.items():
        path = folder / f"{name}.csv"
        path.write_text(text)
        yield path
    path = folder / "latin.csv"
    path.write_bytes(b"patient_id,fhir_patient_id\n" + new().encode() + b"\xe9," + new().encode() + b"\n")
    yield path
