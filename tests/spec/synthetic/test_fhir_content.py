"""What the FHIR resources of the synthetic hospital hold, and in which forms (rules S33, S35, S37)."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from presage_etl.synthetic.identifiers import BASE_URL, ICD10CM, LOCAL_SYSTEM, SNOMED
from presage_etl.synthetic.lives.events import History
from presage_etl.synthetic.records.chart import build_chart
from presage_etl.synthetic.records.chart_entries import Chart
from presage_etl.synthetic.records.codebook import Codebook
from presage_etl.synthetic.records.fhir_care import NOTE_WORDS
from presage_etl.synthetic.records.vocabulary import build_vocabulary
from tests.lib.synthetic import EXPORT, lines_of, lives, resources, truth

SECOND = Path("fhir") / "export-2"
TYPES = {
    "AllergyIntolerance", "Condition", "DiagnosticReport", "DocumentReference", "Encounter", "ImagingStudy",
    "Immunization", "Location", "Medication", "MedicationAdministration", "MedicationRequest", "Observation",
    "Organization", "Patient", "Practitioner", "PractitionerRole", "Procedure", "ServiceRequest", "Specimen",
}  # fmt: skip
# US Core 3.1.1: what a profile calls mandatory or must-support, as far as it applies to what happened here.
MUST_SUPPORT = {
    "AllergyIntolerance": "clinicalStatus verificationStatus code patient reaction.manifestation",
    "Condition": "clinicalStatus verificationStatus category code subject",
    "DiagnosticReport": "status category code subject encounter effectiveDateTime issued performer result",
    "DocumentReference": "identifier status type category subject date author custodian content.attachment.contentType "
    "content.attachment.data content.format context.encounter context.period",
    "Encounter": "identifier status class type subject participant.type participant.period participant.individual period "
    "reasonCode hospitalization.dischargeDisposition location.location",
    "Immunization": "status vaccineCode patient occurrenceDateTime primarySource",
    "Location": "status name telecom address.line address.city address.state address.postalCode managingOrganization",
    "Medication": "code",
    "MedicationRequest": "status intent reportedBoolean medicationCodeableConcept medicationReference subject authoredOn "
    "requester dosageInstruction.text",
    "Observation": "status category code subject effectiveDateTime valueQuantity valueCodeableConcept component "
    "component.code component.valueQuantity",
    "Organization": "identifier active name telecom",
    "Patient": "identifier.system identifier.value name.family name.given telecom.system telecom.value telecom.use gender "
    "birthDate address.line address.city address.state address.postalCode address.period communication.language",
    "Practitioner": "identifier.system identifier.value name.family",
    "PractitionerRole": "practitioner organization code location telecom",
    "Procedure": "status code subject performedDateTime",
}


@cache
def charts(number: int = 150) -> tuple[tuple[History, Chart], ...]:
    """Charts of the small preset, without files."""
    parameters, model, histories = lives("small", number)
    codes = Codebook(build_vocabulary(model))
    return tuple((history, build_chart(parameters, model, history, 32, codes)) for history in histories)


def written(kind: str) -> Iterator[dict[str, Any]]:
    for _, chart in charts():
        yield from chart.resources.get(kind, [])


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("reference"), str):
            yield value["reference"]
        value = list(value.values())
    for part in value if isinstance(value, list) else []:
        yield from references(part)


def has(value: Any, path: list[str]) -> bool:
    """Whether an element exists somewhere under a resource."""
    if isinstance(value, list):
        return any(has(part, path) for part in value)
    return not path or (isinstance(value, dict) and path[0] in value and has(value[path[0]], path[1:]))


# --- S33 ---


def test_s33_the_export_holds_every_type_and_us_core_extensions(hospital: Path) -> None:
    assert {resource["resourceType"] for resource in resources(hospital)} == TYPES
    urls = {extension["url"].rsplit("/", 1)[1] for p in resources(hospital, "Patient") for extension in p["extension"]}
    assert urls == {"us-core-race", "us-core-ethnicity", "us-core-birthsex"}


def test_s33_merged_patients_are_linked_both_ways_and_patients_have_several_identifiers(hospital: Path) -> None:
    patients = {patient["id"]: patient for patient in resources(hospital, "Patient")}
    links = {
        (key, link["type"], link["other"]["reference"].partition("/")[2])
        for key, patient in patients.items()
        for link in patient.get("link", [])
    }
    replaced = [(old, new) for old, kind, new in links if kind == "replaced-by"]
    assert replaced
    for old, new in replaced:
        assert (new, "replaces", old) in links
        assert not patients[old]["active"]
        named = {key for resource in resources(hospital) for key in references(resource)}
        assert any(key.partition("/_history")[0].endswith(f"Patient/{old}") for key in named)
    ordinary = [patient for patient in patients.values() if patient["active"]]
    assert all(len({i["system"] for i in patient["identifier"]}) == 2 for patient in ordinary)


def test_s33_intensive_care_is_a_part_within_its_stay(hospital: Path) -> None:
    stays = {stay["id"]: stay for stay in resources(hospital, "Encounter")}
    parts = [stay for stay in stays.values() if "partOf" in stay]
    assert parts
    for part in parts:
        whole = stays[part["partOf"]["reference"].partition("/")[2]]
        assert whole["class"]["code"] == "IMP"
        assert set(whole["hospitalization"]) == {"admitSource", "dischargeDisposition"}
        assert whole["period"]["start"] <= part["period"]["start"] <= part["period"]["end"] <= whole["period"]["end"]


def test_s33_medications_are_codes_references_and_contained() -> None:
    for kind in ("MedicationRequest", "MedicationAdministration"):
        forms = Counter(
            "medicationCodeableConcept" in r or r["medicationReference"]["reference"][0] for r in written(kind)
        )
        assert set(forms) == {True, "M", "#"}


def test_s33_notes_are_plain_text_of_the_word_list() -> None:
    notes = list(written("DocumentReference"))
    assert len(notes) > 100
    for note in notes:
        attachment = note["content"][0]["attachment"]
        assert attachment["contentType"] == "text/plain"
        text = base64.b64decode(attachment["data"]).decode()
        assert set(text.removeprefix("Synthetic note: ").rstrip(".\n").split()) <= set(NOTE_WORDS)


def test_s33_observations_are_laboratory_vital_signs_and_social_history() -> None:
    kinds = Counter(r["category"][0]["coding"][0]["code"] for r in written("Observation"))
    assert set(kinds) == {"laboratory", "vital-signs", "social-history"}
    for result in written("Observation"):
        if result["category"][0]["coding"][0]["code"] == "laboratory":
            assert result["valueQuantity"]["system"] == "http://unitsofmeasure.org"
            assert result["referenceRange"]
            assert result["specimen"]["reference"] == "#blood" or result["specimen"]["reference"].startswith(
                "Specimen/"
            )


# --- S35 ---


def test_s35_diagnoses_are_coded_in_the_planted_shares() -> None:
    _, model, _ = lives("small", 1)
    with_both = {place for place, leaf in enumerate(model.leaves) if leaf.icd10 and leaf.snomed}
    kinds: Counter[str] = Counter()
    for history, chart in charts():
        conditions = {r["id"]: r for r in chart.resources.get("Condition", [])}
        for number, diagnosis in enumerate(history.diagnoses):
            code = conditions[f"{chart.person.key}-c{number}"]["code"]
            assert code["text"]
            if diagnosis.leaf in with_both:
                kinds["+".join(coding["system"] for coding in code.get("coding", []))] += 1
    total = sum(kinds.values())
    wanted = {f"{ICD10CM}+{SNOMED}": 0.80, ICD10CM: 0.05, SNOMED: 0.05, LOCAL_SYSTEM: 0.05, "": 0.05}
    assert total > 1000
    assert set(kinds) == set(wanted)
    for kind, share in wanted.items():
        assert kinds[kind] / total == pytest.approx(share, abs=4 * (share * (1 - share) / total) ** 0.5)


def test_s35_what_a_reader_cannot_tell_is_not_in_first_recorded(hospital: Path) -> None:
    _, model, histories = lives("small", 60)
    lost = 0
    for history in histories:
        first = history.first_recorded(len(model.leaves))
        for leaf in {d.leaf for d in history.diagnoses if d.leaf >= 0}:
            seen = [d for d in history.diagnoses if d.leaf == leaf and d.form in ("both", "one")]
            lost += not seen
            assert (first[leaf] >= 0) == bool(seen)
    assert lost > 0
    expected = {row["name"]: row["expected"] for row in truth(hospital, "expected_counts") if row["kind"] == "unmapped"}
    odd = [
        r for r in resources(hospital, "Condition")
        if not r["code"].get("coding") or r["code"]["coding"][0]["system"] == LOCAL_SYSTEM
    ]  # fmt: skip
    assert expected == {"condition_occurrence": len(odd)}
    assert odd


def test_s35_references_have_six_forms(hospital: Path) -> None:
    forms: Counter[str] = Counter()
    for line in lines_of(hospital):
        for reference in references(line):
            forms[_form(reference)] += 1
    assert set(forms) == {"relative", "absolute", "urn:uuid", "contained", "conditional", "versioned"}


def _form(reference: str) -> str:
    starts = {"#": "contained", "urn:uuid:": "urn:uuid", BASE_URL: "absolute", "Patient?identifier=": "conditional"}
    found = next((form for start, form in starts.items() if reference.startswith(start)), "relative")
    return "versioned" if "/_history/" in reference else found


def test_s35_dates_have_four_precisions_and_their_days_are_those_of_the_record() -> None:
    forms = {4: "year", 7: "month", 10: "day", 25: "time"}
    for kind, element in (
        ("MedicationRequest", "authoredOn"), ("Immunization", "occurrenceDateTime"), ("Procedure", "performedDateTime"),
        ("Condition", "recordedDate"),
    ):  # fmt: skip
        assert {forms[len(resource[element])] for resource in written(kind)} == set(forms.values()), kind
    for _, chart in charts():
        for entry in chart.entries:
            shown = entry.resource.get("authoredOn") if entry.tables else None
            if shown and len(shown) < 10:  # a year or month means its first day
                assert min(entry.days) * 86_400 == _seconds(f"{shown}-01-01"[:10])


def _seconds(day: str) -> int:
    from datetime import UTC, datetime

    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())


def test_s35_conditions_of_a_task_are_dated_to_the_day() -> None:
    for history, chart in charts():
        for number, diagnosis in enumerate(history.diagnoses):
            if diagnosis.leaf >= 0:
                found = next(r for r in chart.resources["Condition"] if r["id"] == f"{chart.person.key}-c{number}")
                assert len(found["recordedDate"]) >= 10


def test_s35_every_clinical_resource_says_when_it_changed(hospital: Path) -> None:
    for resource in resources(hospital):
        if resource["resourceType"] not in (
            "Organization",
            "Location",
            "Practitioner",
            "PractitionerRole",
            "Medication",
        ):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d-0[45]:00", resource["meta"]["lastUpdated"])
            assert resource["meta"]["versionId"] in ("1", "2")


# --- S37 ---


@pytest.mark.parametrize("export", [EXPORT, SECOND], ids=["first", "second"])
def test_s37_every_resource_validates_as_r4(delivered: Path, export: Path) -> None:
    from fhir.resources.R4B import get_fhir_model_class

    kinds: Counter[str] = Counter()
    for line in lines_of(delivered, export=export):
        get_fhir_model_class(line["resourceType"]).model_validate(line)
        kinds[line["resourceType"]] += 1
    assert sum(kinds.values()) > 100


def test_s37_ids_are_unique_in_each_export(hospital: Path, delivered: Path) -> None:
    for folder, export in ((hospital, EXPORT), (delivered, EXPORT), (delivered, SECOND)):
        seen = Counter(f"{r['resourceType']}/{r['id']}" for r in resources(folder, export=export))
        assert max(seen.values()) == 1


@pytest.mark.parametrize("kind", sorted(MUST_SUPPORT))
def test_s37_must_supports_of_us_core_are_present(kind: str) -> None:
    from presage_etl.synthetic.lives.care import DRUGS
    from presage_etl.synthetic.records.fhir_site import site_resources

    found = list(written(kind)) + site_resources([drug.code for drug in DRUGS.values()]).get(kind, [])
    missing = [path for path in MUST_SUPPORT[kind].split() if not any(has(r, path.split(".")) for r in found)]
    assert missing == []


def test_s37_every_reference_has_its_target(hospital: Path) -> None:
    known = {f"{r['resourceType']}/{r['id']}" for r in resources(hospital)}
    known |= {
        f"Patient?identifier={identifier['system']}|{identifier['value']}"
        for patient in resources(hospital, "Patient")
        for identifier in patient["identifier"]
    }
    wanted = {
        reference.removeprefix(f"{BASE_URL}/").partition("/_history/")[0]
        for line in lines_of(hospital)
        for reference in references(line)
        if not reference.startswith(("#", "urn:uuid:"))
    }
    assert wanted <= known
    for line in lines_of(hospital):
        if line["resourceType"] == "Bundle":
            names = {entry["fullUrl"] for entry in line["entry"]}
            inside = {reference for reference in references(line) if reference.startswith("urn:uuid:")}
            assert inside <= names
