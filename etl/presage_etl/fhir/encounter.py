"""FHIR Encounter → visit_occurrence, or visit_detail for a part of another Encounter (E49–E53).

Which Encounter is the root of a chain of `partOf`, and whether an emergency stay became an inpatient one, is settled
in the merge, where all of a person's encounters are known.
"""

from __future__ import annotations

from typing import Any

import msgspec

from presage_etl.fhir.coding import CodingSet
from presage_etl.fhir.context import Context
from presage_etl.fhir.dates import When
from presage_etl.fhir.elements import (
    CodeableConcept,
    Coding,
    Element,
    Period,
    Reference,
    Resource,
    code_of,
    codes_of,
    key_of,
)
from presage_etl.fhir.outcome import Dead, Excluded, Imputed, Loaded, Note, Outcome, RefusedError, Row
from presage_etl.fhir.routing import Timing, first_provider, ordered_end, person_refs, span, type_concept_id

ADMITTED = frozenset({"finished", "in-progress", "arrived", "triaged", "onleave"})
INPATIENT = frozenset({9201, 262})
ICU = 32037

CLASSES = {
    "IMP": 9201,
    "ACUTE": 9201,
    "NONAC": 42898160,
    "AMB": 9202,
    "EMER": 9203,
    "HH": 581476,
    "FLD": 581476,
    "VR": 722455,
}
ADMIT_SOURCES = {
    "hosp-trans": 38004515,
    "born": 38004515,
    "emd": 8870,
    "outp": 8756,
    "gp": 8940,
    "mp": 8940,
    "nursing": 8676,
    "psych": 8971,
    "rehab": 38004254,
}
DISCHARGES = {
    "home": 8536,
    "alt-home": 8536,
    "hosp": 8546,
    "snf": 8863,
    "long": 38004277,
    "exp": 32218,
    "aadvice": 32216,
    "psy": 8971,
    "rehab": 32266,
    "other-hcf": 33007,
}
ADMIT_SYSTEM = "admit-source"
DISCHARGE_SYSTEM = "discharge-disposition"
ROLES = {"AD": "admission", "DD": "discharge"}


class Participant(Element):
    type: tuple[CodeableConcept, ...] = ()
    individual: Reference | None = None


class Stay(Element):
    """One `Encounter.location`."""

    location: Reference | None = None
    physical_type: CodeableConcept | None = None
    period: Period | None = None


class StatusHistory(Element):
    period: Period | None = None


class Hospitalization(Element):
    admit_source: CodeableConcept | None = None
    discharge_disposition: CodeableConcept | None = None


class Diagnosis(Element):
    condition: Reference | None = None
    use: CodeableConcept | None = None
    rank: int | None = None


class Encounter(Resource):
    """The elements of Encounter that are read; `class` and `actualPeriod` of R5 only to be recognised."""

    status: str | None = None
    class_: Coding | list[msgspec.Raw] | None = msgspec.field(name="class", default=None)
    actual_period: Any = None
    type: tuple[CodeableConcept, ...] = ()
    service_type: CodeableConcept | None = None
    subject: Reference | None = None
    participant: tuple[Participant, ...] = ()
    period: Period | None = None
    status_history: tuple[StatusHistory, ...] = ()
    hospitalization: Hospitalization | None = None
    diagnosis: tuple[Diagnosis, ...] = ()
    location: tuple[Stay, ...] = ()
    service_provider: Reference | None = None
    part_of: Reference | None = None
    reason_code: tuple[CodeableConcept, ...] = ()


def gate(resource: Encounter, context: Context) -> Excluded | Dead | None:
    """Admit what took place or takes place; refuse shapes of R5 (E7, E23, E49, E50)."""
    if resource.actual_period is not None:
        return Dead("fhir-version", "Encounter.actualPeriod")
    if isinstance(resource.class_, list):
        return Dead("fhir-version", "Encounter.class")
    status = resource.status
    if status is None:
        return Dead("structure", "Encounter.status")
    if status == "entered-in-error":
        return Excluded("entered-in-error")
    if status not in ADMITTED:
        return Excluded(f"status:{status}")
    return Excluded("class:PRENC") if resource.class_ and resource.class_.code == "PRENC" else None


def collect(resource: Encounter, codings: CodingSet) -> None:
    """Add the codings that mapping will ask for."""
    for concept in (*resource.type, resource.service_type):
        if concept:
            codings.add(concept.coding)
    if resource.hospitalization:
        for concept in (resource.hospitalization.admit_source, resource.hospitalization.discharge_disposition):
            if concept:
                codings.add(concept.coding)


def rows(resource: Encounter, context: Context) -> Outcome:
    """Map one Encounter that passed its gate: the visit, its stays at locations, the roles of its diagnoses."""
    notes: list[Note] = []
    if resource.reason_code:
        notes.append(Note("loss", "Encounter.reasonCode"))
    parent = key_of(resource.part_of, "Encounter")
    if parent is not None and parent == f"Encounter/{resource.id}":
        return Dead("link-cycle", "Encounter.partOf")
    prefix, table = ("visit_detail", "visit_detail") if parent else ("visit", "visit_occurrence")
    refs = person_refs(resource.subject, "Encounter.subject")
    provider = _provider(resource)
    if provider is not None:
        refs["provider_id"] = provider
    care_site = key_of(resource.service_provider, "Organization")
    if care_site is not None:
        refs["care_site_id"] = care_site
    concept_id, source_value, source_concept_id = _visit_concept(resource, context, notes)
    start, source = _start(resource, context)
    end, imputed = _end(resource, start, concept_id, context, notes)
    still_there = imputed == "extraction" and end is not None
    values = {
        f"{prefix}_concept_id": concept_id,
        f"{prefix}_start_date": start.day,
        f"{prefix}_start_datetime": start.moment,
        f"{prefix}_end_date": (end or start).day,
        f"{prefix}_end_datetime": end.moment if end else None,
        f"{prefix}_type_concept_id": type_concept_id("ehr_encounter_record", Timing(start), context),
        f"{prefix}_source_value": source_value,
        f"{prefix}_source_concept_id": source_concept_id,
        **_hospitalization(resource, still_there=still_there, context=context, notes=notes),
    }
    if parent is not None:
        refs["part_of"] = parent
    visit = Row(
        table, "main", 52 if parent else 49, values, refs, f"{prefix}_start_date", source, start.imputed or imputed
    )
    made = [visit, *_stays(resource, visit, concept_id, context, notes), *_roles(resource, context)]
    return Loaded(made, notes=notes)


def _provider(resource: Encounter) -> str | None:
    """Return the attender, else the primary performer, else the first practitioner (E49)."""
    participants = sorted(
        resource.participant,
        key=lambda participant: next(
            (rank for rank, code in enumerate(("ATND", "PPRF")) if code in codes_of(participant.type)), 2
        ),
    )
    return first_provider([participant.individual for participant in participants])


def _visit_concept(resource: Encounter, context: Context, notes: list[Note]) -> tuple[int, str | None, int]:
    """Return visit concept, source value and source concept: the class decides, without one the type may (E49, E50)."""
    class_code = resource.class_.code if isinstance(resource.class_, Coding) else None
    types = [*resource.type, *([resource.service_type] if resource.service_type else [])]
    quiet = notes if class_code is None else None
    choices = [(concept, context.choose(concept, "general", "Encounter.type", quiet)) for concept in types]
    source_value = next((choice.picks[0].source_value for _, choice in choices if choice.index is not None), class_code)
    source_concept = next((choice.picks[0].source_concept_id for _, choice in choices if choice.index is not None), 0)
    if class_code is not None:
        return _class_concept(class_code, context), source_value, source_concept
    visits = [pick.concept_id for _, choice in choices for pick in choice.picks if pick.domain_id == "Visit"]
    return (visits[0] if visits else 0), source_value, source_concept


def _class_concept(code: str, context: Context) -> int:
    by_policy = {"OBSENC": "observation_encounter", "SS": "short_stay"}
    concept_id = context.policies[by_policy[code]] if code in by_policy else CLASSES.get(code, 0)
    return context.concepts.literal(concept_id)


def _start(resource: Encounter, context: Context) -> tuple[When, str]:
    clock = context.clock
    if resource.period and resource.period.start:
        return clock.read(resource.period.start, "Encounter.period.start"), "Encounter.period.start"
    for name, periods in (
        ("Encounter.location.period", [stay.period for stay in resource.location]),
        ("Encounter.statusHistory.period", [known.period for known in resource.status_history]),
    ):
        found = next((period.start for period in periods if period and period.start), None)
        if found is not None:
            return clock.read(found, f"{name}.start"), f"{name}.start"
    if resource.period and resource.period.end:  # E43: a Period without start uses its end
        return clock.read(resource.period.end, "Encounter.period.end"), "Encounter.period.end"
    raise RefusedError(Dead("no-date", "Encounter.period"))


def _end(
    resource: Encounter, start: When, concept_id: int, context: Context, notes: list[Note]
) -> tuple[When | None, Imputed | None]:
    """Return the end; an open inpatient stay lasts until the extraction, any other open visit ends as it starts."""
    ends = [resource.period.end] if resource.period and resource.period.end else []
    ends += [stay.period.end for stay in reversed(resource.location) if stay.period and stay.period.end and not ends]
    if ends:
        end = context.clock.read(ends[0], "Encounter.period.end", end=True)
        return ordered_end(start, end, "Encounter.period", notes), None
    if concept_id in INPATIENT and context.extraction_date >= start.day:
        return When(context.extraction_date), "extraction"
    return None, None


def _hospitalization(resource: Encounter, *, still_there: bool, context: Context, notes: list[Note]) -> dict[str, Any]:
    stay = resource.hospitalization or Hospitalization()
    admitted = _place(
        stay.admit_source, ADMIT_SYSTEM, ADMIT_SOURCES, "Encounter.hospitalization.admitSource", context, notes
    )
    left = _place(
        stay.discharge_disposition,
        DISCHARGE_SYSTEM,
        DISCHARGES,
        "Encounter.hospitalization.dischargeDisposition",
        context,
        notes,
    )
    if still_there and left == (None, None):
        left = context.concepts.get("still_patient"), None
    return {
        "admitted_from_concept_id": admitted[0],
        "admitted_from_source_value": admitted[1],
        "discharged_to_concept_id": left[0],
        "discharged_to_source_value": left[1],
    }


def _place(
    concept: CodeableConcept | None,
    system: str,
    table: dict[str, int],
    element: str,
    context: Context,
    notes: list[Note],
) -> tuple[int | None, str | None]:
    """Return concept and source value of where a patient came from or went to (E51)."""
    if concept is None:
        return None, None
    for coding in concept.coding:
        if coding.code in table and (coding.system or "").rstrip("/").endswith(system):
            return context.concepts.literal(table[coding.code]), coding.code
    choice = context.choose(concept, "general", element, notes)
    return choice.concept_id, choice.picks[0].source_value


def _stays(resource: Encounter, visit: Row, concept_id: int, context: Context, notes: list[Note]) -> list[Row]:
    """Return a visit_detail for each location that has a period (E52)."""
    made: list[Row] = []
    for index, stay in enumerate(resource.location):
        start, end, source = span(stay.period, "Encounter.location.period", context)
        if start is None:
            continue
        end = ordered_end(start, end, "Encounter.location.period", notes)
        refs = {"person_id": visit.refs["person_id"], "part_of": "slot:main"}
        care_site = key_of(stay.location, "Location")
        if care_site is not None:
            refs["care_site_id"] = care_site
        icu = code_of(stay.physical_type) == "ICU"
        values = {
            "visit_detail_concept_id": context.concepts.literal(ICU) if icu else concept_id,
            "visit_detail_start_date": start.day,
            "visit_detail_start_datetime": start.moment,
            "visit_detail_end_date": (end or start).day,
            "visit_detail_end_datetime": end.moment if end else None,
            "visit_detail_type_concept_id": type_concept_id("ehr_encounter_record", Timing(start), context),
            "visit_detail_source_value": code_of(stay.physical_type),
            "visit_detail_source_concept_id": 0,
        }
        made.append(
            Row("visit_detail", f"loc{index}", 52, values, refs, "visit_detail_start_date", source, start.imputed)
        )
    return made


def _roles(resource: Encounter, context: Context) -> list[Row]:
    """Return what this Encounter says about its diagnoses: admission, discharge, or the first one (E54)."""
    made: list[Row] = []
    for index, diagnosis in enumerate(resource.diagnosis):
        condition = key_of(diagnosis.condition, "Condition")
        role = ROLES.get(code_of(diagnosis.use) or "") or ("primary" if diagnosis.rank == 1 else None)
        if condition is None or role is None:
            continue
        source = code_of(diagnosis.use) or "rank 1"
        values = {
            "rank": index,
            "condition_status_concept_id": context.concepts[role],
            "condition_status_source_value": source,
        }
        made.append(Row("ledger.diagnosis_role", f"dx{index}", 54, values, {"condition_occurrence_id": condition}))
    return made
