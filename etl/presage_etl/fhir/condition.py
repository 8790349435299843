"""FHIR Condition → condition_occurrence: a diagnosis, or in observation what was suspected or ruled out (E54)."""

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
    code_of,
    codes_of,
)
from presage_etl.fhir.outcome import Dead, Excluded, Loaded, Note, Outcome, Row
from presage_etl.fhir.routing import Event, Timing, event_refs, event_rows, ordered_end, read_when, span

ADMITTED = frozenset({"confirmed"})
UNCERTAIN = frozenset({"provisional", "differential", "refuted"})
CLINICAL = frozenset({"active", "recurrence", "relapse", "inactive", "remission", "resolved"})


class Stage(Element):
    summary: CodeableConcept | None = None


class Condition(Resource):
    """The elements of Condition that are read."""

    clinical_status: CodeableConcept | None = None
    verification_status: CodeableConcept | None = None
    category: tuple[CodeableConcept, ...] = ()
    severity: CodeableConcept | None = None
    code: CodeableConcept | None = None
    body_site: tuple[CodeableConcept, ...] = ()
    subject: Reference | None = None
    encounter: Reference | None = None
    context: Reference | None = None
    onset_date_time: str | None = None
    onset_period: Period | None = None
    onset_age: Quantity | None = None
    onset_range: Range | None = None
    abatement_date_time: str | None = None
    abatement_period: Period | None = None
    abatement_age: Quantity | None = None
    recorded_date: str | None = None
    recorder: Reference | None = None
    asserter: Reference | None = None
    stage: tuple[Stage, ...] = ()


def gate(resource: Condition, context: Context) -> Excluded | Dead | None:
    """Refuse shapes of STU3 and statuses that are not loaded (E7, E23, E54)."""
    if resource.context is not None:
        return Dead("fhir-version", "Condition.context")
    status = code_of(resource.verification_status)
    if status == "entered-in-error":
        return Excluded("entered-in-error")
    if status is None or status in ADMITTED:
        return None
    if status not in UNCERTAIN:
        return Excluded(f"status:{status}")
    return Excluded("policy:unconfirmed_condition") if context.policies["unconfirmed_condition"] == "none" else None


def collect(resource: Condition, codings: CodingSet) -> None:
    """Add the codings that mapping will ask for."""
    if resource.code:
        codings.add(resource.code.coding)


def rows(resource: Condition, context: Context) -> Outcome:
    """Map one Condition that passed its gate."""
    notes: list[Note] = []
    refs = event_refs(resource.subject, resource.encounter, [resource.asserter, resource.recorder], "Condition.subject")
    choice = context.choose(resource.code, "general", "Condition.code", notes)
    status = code_of(resource.verification_status)
    timing = _timing(resource, context, notes)
    event = Event(
        home="condition_occurrence",
        rule=54,
        timing=timing,
        type_concept=_type(resource),
        refs=refs,
        element="Condition.code",
    )
    _note_losses(resource, notes)
    if status in UNCERTAIN:
        return Loaded(_uncertain(event, choice, status or "", context, notes), notes=notes)
    concept_id, source = _condition_status(resource, context)
    event.home_values = {"condition_status_concept_id": concept_id, "condition_status_source_value": source}
    return Loaded(event_rows(event, choice, context, notes), notes=notes)


def _timing(resource: Condition, context: Context, notes: list[Note]) -> Timing:
    start = read_when(resource.onset_date_time, "Condition.onsetDateTime", context)
    source = "Condition.onsetDateTime"
    if start is None:
        start, _, source = span(resource.onset_period, "Condition.onsetPeriod", context)
    age = resource.onset_age or (resource.onset_range.low if resource.onset_range else None)
    after_birth = _duration(age) if start is None else None
    if after_birth:
        source = "Condition.onsetAge" if resource.onset_age else "Condition.onsetRange"
    elif start is None:
        start, source = read_when(resource.recorded_date, "Condition.recordedDate", context), "Condition.recordedDate"
    end = None
    if resource.abatement_date_time:
        end = context.clock.read(resource.abatement_date_time, "Condition.abatementDateTime", end=True)
    elif resource.abatement_period and resource.abatement_period.end:
        end = context.clock.read(resource.abatement_period.end, "Condition.abatementPeriod.end", end=True)
    elif resource.abatement_age:
        notes.append(Note("loss", "Condition.abatementAge", "an end by age is not computed"))
    return Timing(start, source, ordered_end(start, end, "Condition.abatement", notes), after_birth)


def _duration(age: Quantity | None) -> str | None:
    if age is None or age.value is None:
        return None
    return duration_of_age(age.value, age.code or age.unit)


def _type(resource: Condition) -> str:
    categories = codes_of(resource.category)
    if "encounter-diagnosis" in categories:
        return "ehr_encounter_record"
    return "ehr_problem_list" if "problem-list-item" in categories else "ehr"


def _condition_status(resource: Condition, context: Context) -> tuple[int | None, str | None]:
    # the role that an Encounter gives goes before: the merge takes it from ledger.diagnosis_role
    if code_of(resource.verification_status) == "confirmed":
        return context.concepts["confirmed"], "confirmed"
    if code_of(resource.clinical_status) == "resolved":
        return context.concepts["resolved"], "resolved"
    return None, None


def _uncertain(event: Event, choice: Choice, status: str, context: Context, notes: list[Note]) -> list[Row]:
    """Write what was only suspected, or refuted, so that no reader takes it for a diagnosis (policy)."""
    qualifier = context.concepts["refuted"] if status == "refuted" else context.concepts["preliminary"]
    event.home = "observation"
    rows: list[Row] = []
    for rank, pick in enumerate(choice.picks, start=1):
        event.slot = "main" if rank == 1 else f"k{rank}"
        if context.policies["unconfirmed_condition"] == "value":
            stated = Pick(qualifier, "Observation", pick.source_concept_id, pick.source_value)
            event.value = {"value_as_concept_id": pick.concept_id, "value_source_value": status}
        else:
            stated = Pick(pick.concept_id, "Observation", pick.source_concept_id, pick.source_value)
            event.value = {"value_source_value": status}
        event.home_values = {"qualifier_concept_id": qualifier, "qualifier_source_value": status}
        rows.extend(event_rows(event, Choice((stated,)), context, notes))
    return rows


def _note_losses(resource: Condition, notes: list[Note]) -> None:
    if resource.body_site:
        notes.append(Note("loss", "Condition.bodySite"))
    if resource.severity:
        notes.append(Note("loss", "Condition.severity"))
    if resource.stage:
        notes.append(Note("loss", "Condition.stage"))
