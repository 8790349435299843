"""FHIR MedicationAdministration → drug_exposure: what was given (E58)."""

from __future__ import annotations

from presage_etl.fhir.coding import CodingSet
from presage_etl.fhir.context import Context
from presage_etl.fhir.dates import When
from presage_etl.fhir.drug import drug_rows, route_columns
from presage_etl.fhir.elements import CodeableConcept, Element, Period, Quantity, Reference, Resource
from presage_etl.fhir.medication import collect_drug
from presage_etl.fhir.outcome import Dead, Excluded, Note, Outcome
from presage_etl.fhir.routing import Event, Timing, event_refs, ordered_end, span

ADMITTED = frozenset({"completed", "in-progress"})


class Performer(Element):
    actor: Reference | None = None


class Dosage(Element):
    text: str | None = None
    route: CodeableConcept | None = None
    dose: Quantity | None = None


class MedicationAdministration(Resource):
    """The elements of MedicationAdministration that are read."""

    status: str | None = None
    medication_codeable_concept: CodeableConcept | None = None
    medication_reference: Reference | None = None
    subject: Reference | None = None
    context: Reference | None = None
    effective_date_time: str | None = None
    effective_period: Period | None = None
    performer: tuple[Performer, ...] = ()
    dosage: Dosage | None = None


def gate(resource: MedicationAdministration, context: Context) -> Excluded | Dead | None:
    """Admit what was, or is being, given."""
    if resource.status is None:
        return Dead("structure", "MedicationAdministration.status")
    if resource.status == "entered-in-error":
        return Excluded("entered-in-error")
    return None if resource.status in ADMITTED else Excluded(f"status:{resource.status}")


def collect(resource: MedicationAdministration, codings: CodingSet) -> None:
    """Add the codings that mapping will ask for."""
    collect_drug(resource, codings)
    if resource.dosage and resource.dosage.route:
        codings.add(resource.dosage.route.coding)


def rows(resource: MedicationAdministration, context: Context) -> Outcome:
    """Map one MedicationAdministration that passed its gate."""
    notes: list[Note] = []
    performers = [performer.actor for performer in resource.performer]
    dosage = resource.dosage or Dosage()
    event = Event(
        home="drug_exposure",
        rule=58,
        timing=_timing(resource, context, notes),
        type_concept="ehr_administration_record",
        refs=event_refs(resource.subject, resource.context, performers, "MedicationAdministration.subject"),
        home_values={
            "quantity": dosage.dose.value if dosage.dose else None,
            "dose_unit_source_value": (dosage.dose.unit or dosage.dose.code) if dosage.dose else None,
            "sig": dosage.text,
            **route_columns(dosage.route, context, "MedicationAdministration.dosage.route", notes),
        },
        element="MedicationAdministration.medication",
    )
    return drug_rows(
        event, resource, resource.medication_codeable_concept, resource.medication_reference, context, notes
    )


def _timing(resource: MedicationAdministration, context: Context, notes: list[Note]) -> Timing:
    if resource.effective_date_time:
        source = "MedicationAdministration.effectiveDateTime"
        start = context.clock.read(resource.effective_date_time, source)
        return Timing(start, source, When(start.day, start.moment))
    path = "MedicationAdministration.effectivePeriod"
    begin, end, source = span(resource.effective_period, path, context)
    return Timing(begin, source if begin else None, ordered_end(begin, end, path, notes) or begin)
