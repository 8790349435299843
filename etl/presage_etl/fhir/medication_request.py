"""FHIR MedicationRequest → drug_exposure: what was prescribed, from when, for how long (E58)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from presage_etl.fhir.coding import CodingSet
from presage_etl.fhir.context import Context
from presage_etl.fhir.dates import When, days_of_duration
from presage_etl.fhir.drug import drug_rows, route_columns
from presage_etl.fhir.elements import (
    CodeableConcept,
    Element,
    Period,
    Quantity,
    Reference,
    Resource,
    code_of,
)
from presage_etl.fhir.elements import Timing as FhirTiming
from presage_etl.fhir.medication import collect_drug
from presage_etl.fhir.outcome import Dead, Excluded, Note, Outcome
from presage_etl.fhir.routing import (
    Event,
    Timing,
    event_refs,
    is_patient_reported,
    ordered_end,
    read_when,
    span,
)

INTENTS = {
    "ehr": frozenset({"order", "original-order", "reflex-order", "filler-order", "instance-order"}),
    "ig": frozenset({"instance-order"}),
}
STATUSES = {
    "ehr": frozenset({"active", "completed", "stopped"}),
    "ig": frozenset({"active", "completed"}),
}


class DosageInstruction(Element):
    text: str | None = None
    timing: FhirTiming | None = None
    route: CodeableConcept | None = None


class DispenseRequest(Element):
    validity_period: Period | None = None
    number_of_repeats_allowed: int | None = None
    quantity: Quantity | None = None
    expected_supply_duration: Quantity | None = None


class MedicationRequest(Resource):
    """The elements of MedicationRequest that are read; `medication` of R5 only to be recognised."""

    status: str | None = None
    status_reason: CodeableConcept | None = None
    intent: str | None = None
    do_not_perform: bool = False
    reported_boolean: bool = False
    reported_reference: Reference | None = None
    medication: Any = None
    medication_codeable_concept: CodeableConcept | None = None
    medication_reference: Reference | None = None
    subject: Reference | None = None
    encounter: Reference | None = None
    authored_on: str | None = None
    requester: Reference | None = None
    dosage_instruction: tuple[DosageInstruction, ...] = ()
    dispense_request: DispenseRequest | None = None


def gate(resource: MedicationRequest, context: Context) -> Excluded | Dead | None:
    """Admit orders that led or lead to a therapy; refuse shapes of R5 (E7, E23, E58)."""
    if resource.medication is not None:
        return Dead("fhir-version", "MedicationRequest.medication")
    if resource.status is None:
        return Dead("structure", "MedicationRequest.status")
    if resource.status == "entered-in-error":
        return Excluded("entered-in-error")
    if resource.intent is None:
        return Dead("structure", "MedicationRequest.intent")
    reading = context.policies["medication_request"]
    if resource.status not in STATUSES[reading]:
        return Excluded(f"status:{resource.status}")
    if resource.intent not in INTENTS[reading]:
        return Excluded(f"intent:{resource.intent}")
    return Excluded("do-not-perform") if resource.do_not_perform else None


def collect(resource: MedicationRequest, codings: CodingSet) -> None:
    """Add the codings that mapping will ask for."""
    collect_drug(resource, codings)
    for dosage in resource.dosage_instruction:
        if dosage.route:
            codings.add(dosage.route.coding)


def rows(resource: MedicationRequest, context: Context) -> Outcome:
    """Map one MedicationRequest that passed its gate."""
    notes: list[Note] = []
    dispense = resource.dispense_request or DispenseRequest()
    timing, stated = _timing(resource, dispense, context, notes)
    reported = resource.reported_boolean or is_patient_reported([resource.reported_reference])
    event = Event(
        home="drug_exposure",
        rule=58,
        timing=timing,
        type_concept="patient_self_report" if reported else "ehr_prescription",
        refs=event_refs(resource.subject, resource.encounter, [resource.requester], "MedicationRequest.subject"),
        home_values=_columns(resource, dispense, stated, context, notes),
        element="MedicationRequest.medication",
    )
    return drug_rows(
        event, resource, resource.medication_codeable_concept, resource.medication_reference, context, notes
    )


def _timing(
    resource: MedicationRequest, dispense: DispenseRequest, context: Context, notes: list[Note]
) -> tuple[Timing, When | None]:
    """Return the timing and the end as it was stated, if it was."""
    repeats = [dosage.timing.repeat for dosage in resource.dosage_instruction if dosage.timing and dosage.timing.repeat]
    bounds = next((repeat.bounds_period for repeat in repeats if repeat.bounds_period), None)
    source = "MedicationRequest.authoredOn"
    start = read_when(resource.authored_on, source, context)
    if start is None:
        start, _, source = span(bounds, "MedicationRequest.dosageInstruction.timing.repeat.boundsPeriod", context)
    if start is None:
        start, _, source = span(dispense.validity_period, "MedicationRequest.dispenseRequest.validityPeriod", context)
    stated = _end_of(bounds, "MedicationRequest.dosageInstruction.timing.repeat.boundsPeriod", context)
    end = ordered_end(start, stated, "MedicationRequest.boundsPeriod", notes)
    if end is None:
        end = _supplied_until(start, dispense.expected_supply_duration)
    if end is None:
        valid = _end_of(dispense.validity_period, "MedicationRequest.dispenseRequest.validityPeriod", context)
        end = ordered_end(start, valid, "MedicationRequest.validityPeriod", notes)
    if end is None and start is not None:
        end = When(start.day, start.moment)
    return Timing(start, source if start else None, end), stated


def _end_of(period: Period | None, path: str, context: Context) -> When | None:
    return context.clock.read(period.end, f"{path}.end", end=True) if period and period.end else None


def _supplied_until(start: When | None, supply: Quantity | None) -> When | None:
    days = _days(supply)
    return When(start.day + timedelta(days=days - 1)) if start and days else None


def _days(supply: Quantity | None) -> int | None:
    return days_of_duration(supply.value, supply.code or supply.unit) if supply and supply.value else None


def _columns(
    resource: MedicationRequest, dispense: DispenseRequest, stated: When | None, context: Context, notes: list[Note]
) -> dict[str, Any]:
    dosage = resource.dosage_instruction[0] if resource.dosage_instruction else DosageInstruction()
    if len(resource.dosage_instruction) > 1:
        notes.append(Note("loss", "MedicationRequest.dosageInstruction", "only the first is kept"))
    return {
        "verbatim_end_date": stated.day if stated else None,
        "stop_reason": code_of(resource.status_reason),
        "refills": dispense.number_of_repeats_allowed,
        "quantity": dispense.quantity.value if dispense.quantity else None,
        "days_supply": _days(dispense.expected_supply_duration),
        "sig": dosage.text,
        **route_columns(dosage.route, context, "MedicationRequest.dosageInstruction.route", notes),
    }
