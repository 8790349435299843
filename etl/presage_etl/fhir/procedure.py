"""FHIR Procedure → procedure_occurrence: what was done to a person, and when (E56)."""

from __future__ import annotations

from presage_etl.fhir.coding import CodingSet
from presage_etl.fhir.context import Choice, Context, Pick
from presage_etl.fhir.dates import duration_of_age
from presage_etl.fhir.elements import (
    CodeableConcept,
    Element,
    Period,
    Quantity,
    Range,
    Reference,
    Resource,
    key_of,
)
from presage_etl.fhir.outcome import Dead, Excluded, Loaded, Note, Outcome, Row
from presage_etl.fhir.routing import Event, Timing, event_refs, event_rows, ordered_end, span

NOT_DONE = "not-done"


class Performer(Element):
    actor: Reference | None = None


class FocalDevice(Element):
    manipulated: Reference | None = None


class Procedure(Resource):
    """The elements of Procedure that are read."""

    status: str | None = None
    code: CodeableConcept | None = None
    subject: Reference | None = None
    encounter: Reference | None = None
    performed_date_time: str | None = None
    performed_period: Period | None = None
    performed_age: Quantity | None = None
    performed_range: Range | None = None
    performer: tuple[Performer, ...] = ()
    body_site: tuple[CodeableConcept, ...] = ()
    used_reference: tuple[Reference, ...] = ()
    focal_device: tuple[FocalDevice, ...] = ()


def gate(resource: Procedure, context: Context) -> Excluded | Dead | None:
    """Admit what was completed; what was not done only if a policy wants it (E23, E56)."""
    status = resource.status
    if status is None:
        return Dead("structure", "Procedure.status")
    if status == "entered-in-error":
        return Excluded("entered-in-error")
    if status == NOT_DONE:
        return None if context.policies["not_done"] == "observation" else Excluded("policy:not_done")
    return None if status == "completed" else Excluded(f"status:{status}")


def collect(resource: Procedure, codings: CodingSet) -> None:
    """Add the codings that mapping will ask for."""
    if resource.code:
        codings.add(resource.code.coding)


def rows(resource: Procedure, context: Context) -> Outcome:
    """Map one Procedure that passed its gate."""
    notes: list[Note] = []
    performers = [performer.actor for performer in resource.performer]
    event = Event(
        home="procedure_occurrence",
        rule=56,
        timing=_timing(resource, context, notes),
        type_concept="ehr_encounter_record" if key_of(resource.encounter, "Encounter") else "ehr",
        refs=event_refs(resource.subject, resource.encounter, performers, "Procedure.subject"),
        element="Procedure.code",
    )
    if resource.body_site:
        notes.append(Note("loss", "Procedure.bodySite"))
    choice = context.choose(resource.code, "procedure", "Procedure.code", notes)
    if resource.status == NOT_DONE:
        return Loaded(_not_done(event, choice.picks, context, notes), notes=notes)
    made = event_rows(event, choice, context, notes)
    return Loaded(made + _device_rows(resource, event, context, notes), notes=notes)


def _timing(resource: Procedure, context: Context, notes: list[Note]) -> Timing:
    if resource.performed_date_time:
        source = "Procedure.performedDateTime"
        return Timing(context.clock.read(resource.performed_date_time, source), source)
    start, end, source = span(resource.performed_period, "Procedure.performedPeriod", context)
    if start is not None:
        return Timing(start, source, ordered_end(start, end, "Procedure.performedPeriod", notes))
    age = resource.performed_age or (resource.performed_range.low if resource.performed_range else None)
    if age is not None and age.value is not None:
        return Timing(source="Procedure.performedAge", after_birth=duration_of_age(age.value, age.code or age.unit))
    return Timing()


def _not_done(event: Event, picks: tuple[Pick, ...], context: Context, notes: list[Note]) -> list[Row]:
    """Write what was not done as an observation that says so, under a concept that no reader takes for the deed."""
    event.home = "observation"
    rows: list[Row] = []
    for rank, pick in enumerate(picks, start=1):
        event.slot = "main" if rank == 1 else f"k{rank}"
        stated = Pick(pick.concept_id, "Observation", pick.source_concept_id, pick.source_value)
        event.value = {"value_as_concept_id": context.concepts["not_done"], "value_source_value": NOT_DONE}
        rows.extend(event_rows(event, Choice((stated,)), context, notes))
    return rows


def _device_rows(resource: Procedure, event: Event, context: Context, notes: list[Note]) -> list[Row]:
    """Make a device_exposure for each Device that the procedure used or implanted; its code comes with the Device."""
    devices = [key_of(reference, "Device") for reference in resource.used_reference]
    devices += [key_of(focal.manipulated, "Device") for focal in resource.focal_device]
    named = list(dict.fromkeys(key for key in devices if key is not None and not _is_medication(key)))
    event.home = "device_exposure"
    rows: list[Row] = []
    for index, _ in enumerate(named):
        event.slot = f"used{index}"
        rows.extend(event_rows(event, context.choose(None, "general", ""), context, notes))
        notes.append(Note("unresolved", "Procedure.usedReference", "the code of a Device is not read yet"))
    return rows


def _is_medication(key: str) -> bool:
    return key.startswith(("Medication/", "Substance/"))
