"""FHIR Immunization → drug_exposure: a vaccine that was given (E58)."""

from __future__ import annotations

from presage_etl.fhir.coding import CodingSet
from presage_etl.fhir.context import Context
from presage_etl.fhir.dates import When
from presage_etl.fhir.drug import drug_rows, route_columns
from presage_etl.fhir.elements import CodeableConcept, Element, Quantity, Reference, Resource, code_of
from presage_etl.fhir.outcome import Dead, Excluded, Note, Outcome
from presage_etl.fhir.routing import Event, Timing, event_refs

LAY_ORIGINS = frozenset({"recall", "patient", "related"})
"""Codes of `reportOrigin` that mean the patient or a relative said so."""


class Performer(Element):
    function: CodeableConcept | None = None
    actor: Reference | None = None


class Immunization(Resource):
    """The elements of Immunization that are read."""

    status: str | None = None
    vaccine_code: CodeableConcept | None = None
    patient: Reference | None = None
    encounter: Reference | None = None
    occurrence_date_time: str | None = None
    occurrence_string: str | None = None
    primary_source: bool | None = None
    report_origin: CodeableConcept | None = None
    lot_number: str | None = None
    dose_quantity: Quantity | None = None
    route: CodeableConcept | None = None
    performer: tuple[Performer, ...] = ()


def gate(resource: Immunization, context: Context) -> Excluded | Dead | None:
    """Admit what was completed; a date in words is no date (E58)."""
    if resource.status is None:
        return Dead("structure", "Immunization.status")
    if resource.status == "entered-in-error":
        return Excluded("entered-in-error")
    if resource.status != "completed":
        return Excluded(f"status:{resource.status}")
    if resource.occurrence_date_time is None and resource.occurrence_string is not None:
        return Dead("no-date", "Immunization.occurrenceString")
    return None


def collect(resource: Immunization, codings: CodingSet) -> None:
    """Add the codings that mapping will ask for."""
    for concept in (resource.vaccine_code, resource.route):
        if concept:
            codings.add(concept.coding)


def rows(resource: Immunization, context: Context) -> Outcome:
    """Map one Immunization that passed its gate."""
    notes: list[Note] = []
    performers = sorted(resource.performer, key=lambda performer: code_of(performer.function) != "AP")
    dose = resource.dose_quantity
    event = Event(
        home="drug_exposure",
        rule=58,
        timing=_timing(resource, context),
        type_concept=_type(resource),
        refs=event_refs(
            resource.patient,
            resource.encounter,
            [performer.actor for performer in performers],
            "Immunization.patient",
        ),
        home_values={
            "quantity": dose.value if dose else None,
            "dose_unit_source_value": (dose.unit or dose.code) if dose else None,
            "lot_number": resource.lot_number,
            **route_columns(resource.route, context, "Immunization.route", notes),
        },
        element="Immunization.vaccineCode",
    )
    return drug_rows(event, resource, resource.vaccine_code, None, context, notes)


def _timing(resource: Immunization, context: Context) -> Timing:
    source = "Immunization.occurrenceDateTime"
    if resource.occurrence_date_time is None:
        return Timing()
    start = context.clock.read(resource.occurrence_date_time, source)
    return Timing(start, source, When(start.day, start.moment))


def _type(resource: Immunization) -> str:
    if resource.primary_source is not False:
        return "ehr_administration_record"
    return "patient_self_report" if code_of(resource.report_origin) in LAY_ORIGINS else "ehr"
