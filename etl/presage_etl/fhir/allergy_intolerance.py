"""FHIR AllergyIntolerance → observation: an allergy or intolerance, its substance, and its reactions (E59).

A code that means an allergy goes where its domain says (E36); a code that is only a substance becomes the value of an
allergy to something, and a reaction is always an observation beside it.
"""

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
)
from presage_etl.fhir.observation import link_to_parent
from presage_etl.fhir.outcome import Dead, Excluded, Loaded, Note, Outcome, Row
from presage_etl.fhir.routing import Event, Timing, event_refs, event_rows, is_patient_reported, read_when, span

ALLERGIES = {"food": 4188027, "medication": 439224, "environment": 4144450, "biologic": 43530807}
INTOLERANCES = {"food": 4340252, "medication": 4240582, "environment": 4172024, "biologic": 36684107}
SUBSTANCE_DOMAINS = frozenset({"Drug", "Device"})


class Reaction(Element):
    manifestation: tuple[CodeableConcept, ...] = ()
    onset: str | None = None
    severity: str | None = None


class AllergyIntolerance(Resource):
    """The elements of AllergyIntolerance that are read."""

    verification_status: CodeableConcept | None = None
    type: str | None = None
    category: tuple[str, ...] = ()
    criticality: str | None = None
    code: CodeableConcept | None = None
    patient: Reference | None = None
    encounter: Reference | None = None
    onset_date_time: str | None = None
    onset_age: Quantity | None = None
    onset_period: Period | None = None
    onset_range: Range | None = None
    recorded_date: str | None = None
    recorder: Reference | None = None
    asserter: Reference | None = None
    reaction: tuple[Reaction, ...] = ()


def gate(resource: AllergyIntolerance, context: Context) -> Excluded | Dead | None:
    """Refuse what was entered in error or refuted."""
    status = code_of(resource.verification_status)
    if status == "entered-in-error":
        return Excluded("entered-in-error")
    return Excluded("status:refuted") if status == "refuted" else None


def collect(resource: AllergyIntolerance, codings: CodingSet) -> None:
    """Add the codings that mapping will ask for."""
    if resource.code:
        codings.add(resource.code.coding)
    for reaction in resource.reaction:
        for manifestation in reaction.manifestation:
            codings.add(manifestation.coding)


def rows(resource: AllergyIntolerance, context: Context) -> Outcome:
    """Map one AllergyIntolerance that passed its gate."""
    notes: list[Note] = []
    if resource.criticality:
        notes.append(Note("loss", "AllergyIntolerance.criticality"))
    asserters = [resource.asserter, resource.recorder]
    event = Event(
        home="observation",
        rule=59,
        timing=_timing(resource, context),
        type_concept="patient_self_report" if is_patient_reported([resource.asserter]) else "ehr",
        refs=event_refs(resource.patient, resource.encounter, asserters, "AllergyIntolerance.patient"),
        element="AllergyIntolerance.code",
    )
    choice = context.choose(resource.code, "general", "AllergyIntolerance.code", notes)
    made = event_rows(event, _without_substances(resource, choice, context), context, notes)
    return Loaded(made + _reactions(resource, event, made[0], context, notes), notes=notes)


def _without_substances(resource: AllergyIntolerance, choice: Choice, context: Context) -> Choice:
    """Turn a code that is only a substance into the value of an allergy to something."""
    picks = tuple(_without_substance(resource, pick, context) for pick in choice.picks)
    return Choice(picks, choice.reason, choice.index)


def _without_substance(resource: AllergyIntolerance, pick: Pick, context: Context) -> Pick:
    if pick.concept_id and pick.domain_id.partition("/")[0] in SUBSTANCE_DOMAINS:
        concept_id = _allergy_to_something(resource, context)
        return Pick(concept_id, "Observation", pick.source_concept_id, pick.source_value, (pick.concept_id,))
    return pick


def _allergy_to_something(resource: AllergyIntolerance, context: Context) -> int:
    table = INTOLERANCES if resource.type == "intolerance" else ALLERGIES
    category = next((category for category in resource.category if category in table), None)
    return context.concepts.literal(table[category]) if category else context.concepts["allergy"]


def _timing(resource: AllergyIntolerance, context: Context) -> Timing:
    source = "AllergyIntolerance.recordedDate"
    start = read_when(resource.recorded_date, source, context)
    if start is None:
        source = "AllergyIntolerance.onsetDateTime"
        start = read_when(resource.onset_date_time, source, context)
    if start is None:
        start, _, source = span(resource.onset_period, "AllergyIntolerance.onsetPeriod", context)
    if start is not None:
        return Timing(start, source)
    age = resource.onset_age or (resource.onset_range.low if resource.onset_range else None)
    if age is None or age.value is None:
        return Timing()
    return Timing(source="AllergyIntolerance.onsetAge", after_birth=duration_of_age(age.value, age.code or age.unit))


def _reactions(
    resource: AllergyIntolerance, event: Event, parent: Row, context: Context, notes: list[Note]
) -> list[Row]:
    """Return one observation for each manifestation of each reaction, linked to the allergy."""
    made: list[Row] = []
    event.element = "AllergyIntolerance.reaction.manifestation"
    for i, reaction in enumerate(resource.reaction):
        if reaction.severity:
            notes.append(Note("loss", "AllergyIntolerance.reaction.severity"))
        for j, manifestation in enumerate(reaction.manifestation):
            choice = context.choose(manifestation, "general", event.element, notes)
            picks = tuple(
                Pick(pick.concept_id, "Observation", pick.source_concept_id, pick.source_value, pick.values)
                for pick in choice.picks
            )
            event.slot = f"r{i}m{j}"
            for row in event_rows(event, Choice(picks), context, notes):
                link_to_parent(row, parent, context)
                made.append(row)
    return made
