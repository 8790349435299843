"""FHIR Practitioner and PractitionerRole → provider: a specialty and a site, not a name (E67)."""

from __future__ import annotations

from typing import Any

from presage_etl.fhir.coding import CodingSet
from presage_etl.fhir.context import Context
from presage_etl.fhir.elements import CodeableConcept, Element, Identifier, Reference, Resource, key_of
from presage_etl.fhir.identifiers import hashed
from presage_etl.fhir.outcome import Dead, Excluded, Loaded, Note, Outcome, Row
from presage_etl.fhir.patient import GENDERS

NPI_SYSTEM = "http://hl7.org/fhir/sid/us-npi"
NUCC = "nucc.org/provider-taxonomy"


class Qualification(Element):
    code: CodeableConcept | None = None


class Practitioner(Resource):
    """The elements of Practitioner that are read."""

    identifier: tuple[Identifier, ...] = ()
    gender: str | None = None
    qualification: tuple[Qualification, ...] = ()


class PractitionerRole(Resource):
    """The elements of PractitionerRole that are read."""

    identifier: tuple[Identifier, ...] = ()
    practitioner: Reference | None = None
    organization: Reference | None = None
    specialty: tuple[CodeableConcept, ...] = ()
    code: tuple[CodeableConcept, ...] = ()


def gate(resource: Resource, context: Context) -> Excluded | Dead | None:
    """Every Practitioner is admitted, active or not."""
    return None


def collect(resource: Practitioner | PractitionerRole, codings: CodingSet) -> None:
    """Add the codings that mapping will ask for."""
    for concept in _specialties(resource):
        codings.add(concept.coding)


def rows(resource: Practitioner | PractitionerRole, context: Context) -> Outcome:
    """Map one Practitioner or one role; each is a provider of its own."""
    notes: list[Note] = []
    concept_id, source_concept_id, source_value = 0, 0, None
    for concept in _specialties(resource):
        choice = context.choose(concept, "general", f"{type(resource).__name__}.specialty", notes)
        pick = choice.picks[0]
        concept_id, source_concept_id, source_value = pick.concept_id, pick.source_concept_id, pick.source_value
        if concept_id:
            break
    values: dict[str, Any] = {
        "specialty_concept_id": concept_id,
        "specialty_source_value": source_value,
        "specialty_source_concept_id": source_concept_id,
    }
    refs: dict[str, str] = {}
    if isinstance(resource, Practitioner):
        values["gender_concept_id"] = context.concepts.literal(GENDERS.get(resource.gender or "", 0))
        values["gender_source_value"] = resource.gender
        values["gender_source_concept_id"] = 0
        if context.policies["provider_identity"] == "npi":
            values["npi"] = next((known.value for known in resource.identifier if known.system == NPI_SYSTEM), None)
    else:
        site = key_of(resource.organization, "Organization")
        if site is not None:
            refs["care_site_id"] = site
    return Loaded([Row("provider", "main", 67, values, refs)], hashed(resource.identifier), notes)


def _specialties(resource: Practitioner | PractitionerRole) -> list[CodeableConcept]:
    """Return what says the specialty; of a Practitioner's qualifications only those of the provider taxonomy."""
    if isinstance(resource, PractitionerRole):
        return [*resource.specialty, *resource.code]
    return [
        qualification.code
        for qualification in resource.qualification
        if qualification.code and any(NUCC in (coding.system or "") for coding in qualification.code.coding)
    ]
