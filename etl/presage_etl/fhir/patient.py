"""FHIR Patient → person, the state they live in, and death (E45–E48); names and addresses never leave the export."""

from __future__ import annotations

from datetime import date
from typing import Any

import msgspec

from presage_etl.fhir.coding import CodingSet
from presage_etl.fhir.context import Context
from presage_etl.fhir.elements import (
    Address,
    CodeableConcept,
    Coding,
    Element,
    Extension,
    Identifier,
    Reference,
    Resource,
    key_of,
)
from presage_etl.fhir.identifiers import hashed
from presage_etl.fhir.outcome import Dead, Excluded, Loaded, Note, Outcome, RefusedError, Row
from presage_etl.fhir.routing import Timing, first_provider, type_concept_id
from presage_etl.fhir.states import state_code

GENDERS = {"male": 8507, "female": 8532}
RACES = {"1002-5": 8657, "2028-9": 8515, "2054-5": 8516, "2076-8": 8557, "2106-3": 8527}
SEVERAL_RACES = 1546847
RACE_QUESTION = 4013886
ETHNICITIES = {"2135-2": 38003563, "2186-5": 38003564}

US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/"
BIRTH_TIME = "http://hl7.org/fhir/StructureDefinition/patient-birthTime"


class BirthDateElement(Element):
    extension: tuple[Extension, ...] = ()


class Link(Element):
    other: Reference | None = None
    type: str | None = None


class Patient(Resource):
    """The elements of Patient that are read."""

    extension: tuple[Extension, ...] = ()
    identifier: tuple[Identifier, ...] = ()
    gender: str | None = None
    birth_date: str | None = None
    birth_date_element: BirthDateElement | None = msgspec.field(name="_birthDate", default=None)
    deceased_boolean: bool | None = None
    deceased_date_time: str | None = None
    address: tuple[Address, ...] = ()
    general_practitioner: tuple[Reference, ...] = ()
    managing_organization: Reference | None = None
    link: tuple[Link, ...] = ()
    marital_status: CodeableConcept | None = None


def gate(resource: Patient, context: Context) -> Excluded | Dead | None:
    """Refuse a Patient without birth date (E45)."""
    return Dead("no-birth-date", "Patient.birthDate") if not resource.birth_date else None


def collect(resource: Patient, codings: CodingSet) -> None:
    """Add the codings that mapping will ask for."""
    for kind in ("us-core-race", "us-core-ethnicity"):
        categories, detailed = _us_core(resource, kind)
        for coding in (*categories, *detailed):
            codings.add_code(coding.system, coding.code)


def rows(resource: Patient, context: Context) -> Outcome:
    """Map one Patient: the person, a shared location, a death, and observations for what one column cannot hold."""
    alias = _replaced_by(resource)
    if alias is not None:
        return Loaded([Row("ledger.person_alias", "alias", 22, {}, {"person_id": alias})], hashed(resource.identifier))
    notes: list[Note] = []
    values = {
        **_birth(resource, context),
        "gender_concept_id": context.concepts.literal(GENDERS.get(resource.gender or "", 0)),
        "gender_source_value": resource.gender,
        "gender_source_concept_id": 0,
        "person_source_value": _source_value(resource, context, notes),
    }
    refs: dict[str, str] = {}
    person = Row("person", "main", 45, values, refs)
    made = [person, *_race_and_ethnicity(resource, values, context, notes)]
    location = _location(resource, context)
    if location is not None:
        refs["location_id"] = "slot:address"
        made.append(location)
    provider = first_provider(list(resource.general_practitioner))
    if provider is not None:
        refs["provider_id"] = provider
    care_site = key_of(resource.managing_organization, "Organization")
    if care_site is not None:
        refs["care_site_id"] = care_site
    if resource.marital_status:
        notes.append(Note("loss", "Patient.maritalStatus"))
    made += _death(resource, context)
    return Loaded(made, hashed(resource.identifier), notes)


def _replaced_by(resource: Patient) -> str | None:
    """Return the Patient that this one is only another name of (E22)."""
    for link in resource.link:
        other = key_of(link.other, "Patient")
        if link.type in ("replaced-by", "refer") and other is not None:
            if other == f"Patient/{resource.id}":
                raise RefusedError(Dead("link-cycle", "Patient.link"))
            return other
    return None


def _birth(resource: Patient, context: Context) -> dict[str, Any]:
    """Return the birth date by its precision; nothing is imputed."""
    text = (resource.birth_date or "").strip()
    day = context.clock.read(text, "Patient.birthDate").day
    moment = None
    for extension in resource.birth_date_element.extension if resource.birth_date_element else ():
        if extension.url == BIRTH_TIME and extension.value_date_time:
            moment = context.clock.read(extension.value_date_time, "Patient.birthDate.extension").moment
    return {
        "year_of_birth": day.year,
        "month_of_birth": day.month if len(text) >= len("2000-01") else None,
        "day_of_birth": day.day if len(text) >= len("2000-01-01") else None,
        "birth_datetime": moment,
    }


def _source_value(resource: Patient, context: Context, notes: list[Note]) -> str | None:
    if context.policies["person_source_value"] == "none":
        return None
    if any(identifier.value == resource.id for identifier in resource.identifier):
        notes.append(Note("withheld", "Patient.id", "it is an identifier too"))
        return None
    return resource.id


def _us_core(resource: Patient, name: str) -> tuple[list[Coding], list[Coding]]:
    parts = [
        part for extension in resource.extension if extension.url == US_CORE + name for part in extension.extension
    ]
    return (
        [part.value_coding for part in parts if part.url == "ombCategory" and part.value_coding],
        [part.value_coding for part in parts if part.url == "detailed" and part.value_coding],
    )


def _race_and_ethnicity(resource: Patient, values: dict[str, Any], context: Context, notes: list[Note]) -> list[Row]:
    """Fill race and ethnicity of the person; several answers become observations, one each (E46)."""
    made: list[Row] = []
    for column, name, table in (("race", "us-core-race", RACES), ("ethnicity", "us-core-ethnicity", ETHNICITIES)):
        categories, detailed = _us_core(resource, name)
        known = [coding for coding in categories if coding.code in table]
        concepts = [context.concepts.literal(table[coding.code or ""]) for coding in known]
        concept_id = concepts[0] if len(concepts) == 1 else 0
        if len(concepts) > 1 and column == "race":
            concept_id = context.concepts.literal(SEVERAL_RACES)
        source = 0
        if detailed:
            choice = context.choose(CodeableConcept(tuple(detailed[:1])), "general", f"Patient.{column}", notes)
            source = choice.picks[0].source_concept_id
            if not categories:
                concept_id = choice.concept_id
        codes = [coding.code for coding in (categories or detailed) if coding.code]
        values[f"{column}_concept_id"] = concept_id
        values[f"{column}_source_value"] = "|".join(codes) or None
        values[f"{column}_source_concept_id"] = source
        if len(concepts) > 1:
            made += [
                _answer(resource, column, coding, concept, context)
                for coding, concept in zip(known, concepts, strict=True)
            ]
    return made


def _answer(resource: Patient, column: str, coding: Coding, concept_id: int, context: Context) -> Row:
    question = context.concepts.literal(RACE_QUESTION) if column == "race" else 0
    return Row(
        table="observation",
        slot=f"{column}:{coding.code}",
        rule=46,
        values={
            "observation_concept_id": question,
            "observation_type_concept_id": context.concepts["ehr"],
            "observation_date": _last_known(resource, context),
            "observation_datetime": None,
            "observation_source_value": column,
            "observation_source_concept_id": 0,
            "value_as_concept_id": concept_id,
            "value_source_value": coding.code,
        },
        refs={"person_id": f"Patient/{resource.id}"},
        required_date="observation_date",
        date_source="@last-visit",
    )


def _last_known(resource: Patient, context: Context) -> date:
    updated = resource.meta.last_updated if resource.meta else None
    return context.clock.read(updated, "Patient.meta.lastUpdated").day if updated else context.extraction_date


def _location(resource: Patient, context: Context) -> Row | None:
    """Return what of the home address may be kept: state and country, three digits of the postal code (E47)."""
    policy = context.policies["patient_address"]
    if policy == "none" or not resource.address:
        return None
    home = next((address for address in resource.address if address.use == "home"), resource.address[0])
    state = state_code(home.state, home.country)
    values: dict[str, Any] = {"state": state, "country_source_value": home.country}
    if policy == "zip3" and home.postal_code:
        values["zip"] = home.postal_code[:3]
    if not any(values.values()):
        return None
    return Row("location", "address", 47, values, {})


def _death(resource: Patient, context: Context) -> list[Row]:
    """Return the death, or an observation when it has no date (E48)."""
    refs = {"person_id": f"Patient/{resource.id}"}
    if resource.deceased_date_time:
        when = context.clock.read(resource.deceased_date_time, "Patient.deceasedDateTime")
        values = {
            "death_date": when.day,
            "death_datetime": when.moment,
            "death_type_concept_id": type_concept_id("ehr", Timing(when), context),
        }
        return [Row("death", "death", 48, values, refs, "death_date", "Patient.deceasedDateTime", when.imputed)]
    if not resource.deceased_boolean or context.policies["death_boolean"] != "observation":
        return []
    observed: dict[str, Any] = {
        "observation_concept_id": context.concepts["dead"],
        "observation_type_concept_id": context.concepts["ehr"],
        "observation_date": _last_known(resource, context),
        "observation_datetime": None,
        "observation_source_value": "deceasedBoolean",
        "observation_source_concept_id": 0,
    }
    return [Row("observation", "deceased", 48, observed, refs, "observation_date", "@last-event")]
