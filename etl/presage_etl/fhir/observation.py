"""FHIR Observation → measurement or observation: what was measured, asked or seen, and its value (E55)."""

from __future__ import annotations

from typing import Any

from presage_etl.fhir.coding import CodingSet, Setting
from presage_etl.fhir.context import Choice, Context
from presage_etl.fhir.elements import (
    CodeableConcept,
    Element,
    Period,
    Quantity,
    Range,
    Ratio,
    Reference,
    Resource,
    codes_of,
    key_of,
)
from presage_etl.fhir.elements import Timing as FhirTiming
from presage_etl.fhir.observation_value import UCUM, ReferenceRange, SampledData, has_value, value_columns
from presage_etl.fhir.outcome import Dead, Excluded, Loaded, Note, Outcome, Row
from presage_etl.fhir.routing import (
    Event,
    Timing,
    event_refs,
    event_rows,
    is_patient_reported,
    read_when,
    span,
)

ADMITTED = frozenset({"final", "amended", "corrected"})
ID_FIELDS = {
    "measurement": "measurement_id_field",
    "observation": "observation_id_field",
    "condition_occurrence": "condition_id_field",
}
"""Table of a parent row → the named concept of its id column, by which `*_event_id` says what it points at."""


class Valued(Element):
    """The value[x] of an Observation or of one of its components."""

    code: CodeableConcept | None = None
    value_quantity: Quantity | None = None
    value_codeable_concept: CodeableConcept | None = None
    value_string: str | None = None
    value_boolean: bool | None = None
    value_integer: int | None = None
    value_range: Range | None = None
    value_ratio: Ratio | None = None
    value_sampled_data: SampledData | None = None
    value_time: str | None = None
    value_date_time: str | None = None
    value_period: Period | None = None
    data_absent_reason: CodeableConcept | None = None
    interpretation: tuple[CodeableConcept, ...] = ()
    reference_range: tuple[ReferenceRange, ...] = ()


class Observation(Resource):
    """The elements of Observation that are read."""

    status: str | None = None
    category: tuple[CodeableConcept, ...] = ()
    code: CodeableConcept | None = None
    subject: Reference | None = None
    focus: tuple[Reference, ...] = ()
    encounter: Reference | None = None
    effective_date_time: str | None = None
    effective_period: Period | None = None
    effective_timing: FhirTiming | None = None
    effective_instant: str | None = None
    issued: str | None = None
    performer: tuple[Reference, ...] = ()
    value_quantity: Quantity | None = None
    value_codeable_concept: CodeableConcept | None = None
    value_string: str | None = None
    value_boolean: bool | None = None
    value_integer: int | None = None
    value_range: Range | None = None
    value_ratio: Ratio | None = None
    value_sampled_data: SampledData | None = None
    value_time: str | None = None
    value_date_time: str | None = None
    value_period: Period | None = None
    data_absent_reason: CodeableConcept | None = None
    interpretation: tuple[CodeableConcept, ...] = ()
    body_site: CodeableConcept | None = None
    method: CodeableConcept | None = None
    reference_range: tuple[ReferenceRange, ...] = ()
    component: tuple[Valued, ...] = ()


def gate(resource: Observation, context: Context) -> Excluded | Dead | None:
    """Admit what is final; refuse what is not about the patient, or declares its value absent (E23, E55)."""
    status = resource.status
    if status is None:
        return Dead("structure", "Observation.status")
    if status == "entered-in-error":
        return Excluded("entered-in-error")
    if status not in ADMITTED:
        return Excluded(f"status:{status}")
    if resource.focus and {key_of(focus, "Patient") for focus in resource.focus} != {
        key_of(resource.subject, "Patient")
    }:
        return Excluded("focus")
    if resource.data_absent_reason and not resource.component and not has_value(resource):
        return Excluded("no-value")
    return None


def collect(resource: Observation, codings: CodingSet) -> None:
    """Add the codings that mapping will ask for."""
    _collect_valued(resource, codings)
    for component in resource.component:
        _collect_valued(component, codings)


def _collect_valued(holder: Observation | Valued, codings: CodingSet) -> None:
    if holder.code:
        codings.add(holder.code.coding)
    if holder.value_codeable_concept:
        codings.add(holder.value_codeable_concept.coding)
    quantity = holder.value_quantity
    if quantity and quantity.code:
        codings.add_code(quantity.system or UCUM, quantity.code)


def rows(resource: Observation, context: Context) -> Outcome:
    """Map one Observation that passed its gate: a row of its own if it has a value, and one for each component."""
    notes: list[Note] = []
    categories = codes_of(resource.category)
    home = "measurement" if "laboratory" in categories or "vital-signs" in categories else "observation"
    setting: Setting = "laboratory" if home == "measurement" else "general"
    performers: list[Reference | None] = list(resource.performer)
    event = Event(
        home=home,
        rule=55,
        timing=_timing(resource, context),
        type_concept=_type(categories, performers),
        refs=event_refs(resource.subject, resource.encounter, performers, "Observation.subject"),
        element="Observation.code",
    )
    _note_losses(resource, notes)
    made: list[Row] = []
    if not resource.component or has_value(resource):
        choice = context.choose(resource.code, setting, "Observation.code", notes)
        event.value = value_columns(resource, context, "Observation", notes)
        made = event_rows(event, choice, context, notes)
    if resource.component:
        made += _component_rows(resource, event, setting, made[0] if made else None, context, notes)
        if not made:
            return Excluded("no-value")
    return Loaded(made, notes=notes)


def _component_rows(
    resource: Observation, event: Event, setting: Setting, parent: Row | None, context: Context, notes: list[Note]
) -> list[Row]:
    made: list[Row] = []
    slots: set[str] = set()
    for index, component in enumerate(resource.component):
        if component.data_absent_reason and not has_value(component):
            notes.append(Note("loss", "Observation.component.dataAbsentReason", "no value"))
            continue
        choice = context.choose(component.code, setting, "Observation.component.code", notes)
        slot = _slot(component, choice, index, slots)
        event.slot = slot
        event.element = "Observation.component.code"
        event.value = value_columns(component, context, "Observation.component", notes)
        for row in event_rows(event, choice, context, notes):
            if parent is not None:
                link_to_parent(row, parent, context)
            made.append(row)
    return made


def _slot(component: Valued, choice: Choice, index: int, taken: set[str]) -> str:
    code = component.code.coding[choice.index].code if component.code and choice.index is not None else None
    slot = f"comp:{code}" if code else f"comp:{index}"
    if slot in taken:
        slot = f"{slot}:{index}"
    taken.add(slot)
    return slot


def link_to_parent(row: Row, parent: Row, context: Context) -> None:
    """Point a row at the row that it belongs to, in the columns that its table has for it."""
    columns = {
        "measurement": ("measurement_event_id", "meas_event_field_concept_id"),
        "observation": ("observation_event_id", "obs_event_field_concept_id"),
    }.get(row.table)
    field = context.concepts.get(ID_FIELDS[parent.table]) if parent.table in ID_FIELDS else None
    if columns is not None and field is not None:
        row.refs[columns[0]] = f"slot:{parent.slot}"
        row.values[columns[1]] = field


def _timing(resource: Observation, context: Context) -> Timing:
    if resource.effective_date_time:  # nearly always
        return Timing(
            context.clock.read(resource.effective_date_time, "Observation.effectiveDateTime"),
            "Observation.effectiveDateTime",
        )
    start, _, source = span(resource.effective_period, "Observation.effectivePeriod", context)
    if start is None and resource.effective_instant:
        source = "Observation.effectiveInstant"
        start = read_when(resource.effective_instant, source, context)
    if start is None and resource.effective_timing:
        start, source = _first_repeat(resource.effective_timing, context)
    if start is None:
        source = "Observation.issued"
        start = read_when(resource.issued, source, context)
    return Timing(start, source if start else None)


def _first_repeat(timing: FhirTiming, context: Context) -> tuple[Any, str]:
    if timing.event:
        return context.clock.read(timing.event[0], "Observation.effectiveTiming.event"), "Observation.effectiveTiming"
    bounds = timing.repeat.bounds_period if timing.repeat else None
    start, _, source = span(bounds, "Observation.effectiveTiming.repeat.boundsPeriod", context)
    return start, source


def _type(categories: set[str], performers: list[Reference | None]) -> str:
    if performers and is_patient_reported(performers):
        return "patient_self_report"
    if "laboratory" in categories:
        return "lab"
    return "patient_filled_survey" if "survey" in categories else "ehr"


def _note_losses(resource: Observation, notes: list[Note]) -> None:
    if resource.body_site:
        notes.append(Note("loss", "Observation.bodySite"))
    if resource.method:
        notes.append(Note("loss", "Observation.method"))
