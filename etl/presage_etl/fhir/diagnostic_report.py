"""FHIR DiagnosticReport → rows of its coded conclusions (E60); its results are Observations of their own."""

from __future__ import annotations

from presage_etl.fhir.coding import CodingSet, Setting
from presage_etl.fhir.context import Context
from presage_etl.fhir.elements import CodeableConcept, Identifier, Period, Reference, Resource, codes_of
from presage_etl.fhir.identifiers import hashed
from presage_etl.fhir.outcome import Dead, Excluded, Loaded, Note, Outcome, Row
from presage_etl.fhir.routing import Event, Timing, event_refs, event_rows, read_when, span

ADMITTED = frozenset({"final", "amended", "corrected", "appended"})


class DiagnosticReport(Resource):
    """The elements of DiagnosticReport that are read."""

    identifier: tuple[Identifier, ...] = ()
    status: str | None = None
    category: tuple[CodeableConcept, ...] = ()
    code: CodeableConcept | None = None
    subject: Reference | None = None
    encounter: Reference | None = None
    effective_date_time: str | None = None
    effective_period: Period | None = None
    issued: str | None = None
    performer: tuple[Reference, ...] = ()
    results_interpreter: tuple[Reference, ...] = ()
    result: tuple[Reference, ...] = ()
    imaging_study: tuple[Reference, ...] = ()
    conclusion: str | None = None
    conclusion_code: tuple[CodeableConcept, ...] = ()


def gate(resource: DiagnosticReport, context: Context) -> Excluded | Dead | None:
    """Admit what is final."""
    if resource.status is None:
        return Dead("structure", "DiagnosticReport.status")
    if resource.status == "entered-in-error":
        return Excluded("entered-in-error")
    return None if resource.status in ADMITTED else Excluded(f"status:{resource.status}")


def collect(resource: DiagnosticReport, codings: CodingSet) -> None:
    """Add the codings that mapping will ask for."""
    for concept in (resource.code, *resource.conclusion_code):
        if concept:
            codings.add(concept.coding)


def rows(resource: DiagnosticReport, context: Context) -> Outcome:
    """Map one DiagnosticReport that passed its gate; with results of its own it gives no row."""
    notes: list[Note] = []
    if resource.conclusion:
        notes.append(Note("loss", "DiagnosticReport.conclusion", "notes are not kept"))
    identifiers = hashed(resource.identifier)
    laboratory = bool({"LAB", "laboratory"} & codes_of(resource.category))
    setting: Setting = "laboratory" if laboratory else "general"
    if resource.conclusion_code:
        concepts = [
            ("main" if i == 0 else f"conclusion{i}", concept) for i, concept in enumerate(resource.conclusion_code)
        ]
        element = "DiagnosticReport.conclusionCode"
    elif not resource.result and not resource.imaging_study and resource.code is not None:
        concepts = [("main", resource.code)]
        element = "DiagnosticReport.code"
    else:
        return Loaded([], identifiers, notes)
    performers: list[Reference | None] = [*resource.performer, *resource.results_interpreter]
    event = Event(
        home="measurement" if laboratory else "observation",
        rule=60,
        timing=_timing(resource, context),
        type_concept="lab" if laboratory else "ehr",
        refs=event_refs(resource.subject, resource.encounter, performers, "DiagnosticReport.subject"),
        element=element,
    )
    made: list[Row] = []
    for slot, concept in concepts:
        event.slot = slot
        made += event_rows(event, context.choose(concept, setting, element, notes), context, notes)
    return Loaded(made, identifiers, notes)


def _timing(resource: DiagnosticReport, context: Context) -> Timing:
    source = "DiagnosticReport.effectiveDateTime"
    start = read_when(resource.effective_date_time, source, context)
    if start is None:
        start, _, source = span(resource.effective_period, "DiagnosticReport.effectivePeriod", context)
    if start is None:
        source = "DiagnosticReport.issued"
        start = read_when(resource.issued, source, context)
    return Timing(start, source if start else None)
