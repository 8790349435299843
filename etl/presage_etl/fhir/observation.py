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
UCUM = "http://unitsofmeasure.org"
COMPARATORS = {"<": 4171756, "<=": 4171754, ">=": 4171755, ">": 4172704}
ID_FIELDS = {
    "measurement": "measurement_id_field",
    "observation": "observation_id_field",
    "condition_occurrence": "condition_id_field",
}
"""Table of a parent row → the named concept of its id column, by which `*_event_id` says what it points at."""

INTERPRETATIONS = {
    "H": "high",
    "L": "low",
    "N": "normal",
    "A": "abnormal",
    "HH": "critically_high",
    "LL": "critically_low",
}


class ReferenceRange(Element):
    low: Quantity | None = None
    high: Quantity | None = None
    applies_to: tuple[CodeableConcept, ...] = ()


class SampledData(Element):
    dimensions: int | None = None


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


Holder = Observation | Valued


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


def _collect_valued(holder: Holder, codings: CodingSet) -> None:
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


def has_value(holder: Holder) -> bool:
    """Tell whether any value[x] is present."""
    return (
        holder.value_quantity is not None
        or holder.value_codeable_concept is not None
        or holder.value_string is not None
        or holder.value_boolean is not None
        or holder.value_integer is not None
        or holder.value_range is not None
        or holder.value_ratio is not None
        or holder.value_sampled_data is not None
        or holder.value_time is not None
        or holder.value_date_time is not None
        or holder.value_period is not None
    )


def value_columns(holder: Holder, context: Context, element: str, notes: list[Note]) -> dict[str, Any]:
    """Return the value, unit and range columns, named as in measurement; routing renames them for observation."""
    columns: dict[str, Any] = {}
    if holder.value_quantity is not None:
        columns = _quantity(holder.value_quantity, context, element, notes)
    elif holder.value_codeable_concept is not None:
        columns = _coded(holder.value_codeable_concept, context, element, notes)
    elif has_value(holder):
        columns = _plain(holder, context, element, notes)
    elif holder.interpretation:
        columns = _interpreted(holder.interpretation, context)
    if holder.reference_range:
        ranges = holder.reference_range
        chosen = next((found for found in ranges if not found.applies_to), ranges[0])
        columns["range_low"] = chosen.low.value if chosen.low else None
        columns["range_high"] = chosen.high.value if chosen.high else None
    return columns


def _quantity(quantity: Quantity, context: Context, element: str, notes: list[Note]) -> dict[str, Any]:
    columns: dict[str, Any] = {"value_as_number": quantity.value}
    columns.update(unit_columns(quantity, context, f"{element}.valueQuantity", notes))
    if quantity.comparator:
        columns["operator_concept_id"] = context.concepts.literal_or_none(COMPARATORS.get(quantity.comparator, 0))
    return columns


def unit_columns(quantity: Quantity, context: Context, element: str, notes: list[Note]) -> dict[str, Any]:
    """Return the unit of a quantity: by its UCUM code, whose letter case matters, else by its own system."""
    if not quantity.code and not quantity.unit:
        return {}
    source = quantity.unit or quantity.code
    if not quantity.code:
        notes.append(Note("unmapped", element, "text-only", None, quantity.unit))
        return {"unit_concept_id": 0, "unit_source_value": source}
    concept_id = context.resolve(quantity.system or UCUM, quantity.code, "general", element, notes)
    return {"unit_concept_id": concept_id, "unit_source_value": source}


def _coded(concept: CodeableConcept, context: Context, element: str, notes: list[Note]) -> dict[str, Any]:
    choice = context.choose(concept, "general", f"{element}.valueCodeableConcept", notes)
    notes.extend(Note("target-dropped", f"{element}.valueCodeableConcept") for _ in choice.picks[1:])
    return {"value_as_concept_id": choice.concept_id, "value_source_value": choice.picks[0].source_value}


def _plain(holder: Holder, context: Context, element: str, notes: list[Note]) -> dict[str, Any]:
    if holder.value_integer is not None:
        return {"value_as_number": holder.value_integer}
    if holder.value_boolean is not None:
        word = "yes" if holder.value_boolean else "no"
        return {"value_as_concept_id": context.concepts[word], **_text("true" if holder.value_boolean else "false")}
    if holder.value_range is not None:
        low, high = holder.value_range.low, holder.value_range.high
        columns = _text(f"{_number(low)}-{_number(high)}")
        columns["value_as_number"] = low.value if low else None
        unit = low or high
        return columns | (unit_columns(unit, context, f"{element}.valueRange", notes) if unit else {})
    if holder.value_ratio is not None:
        return _ratio(holder.value_ratio)
    if holder.value_period is not None:
        return _text(f"{holder.value_period.start or ''}/{holder.value_period.end or ''}")
    if holder.value_sampled_data is not None:
        notes.append(Note("loss", f"{element}.valueSampledData"))
        return {}
    return _text(holder.value_string or holder.value_date_time or holder.value_time or "")


def _ratio(ratio: Ratio) -> dict[str, Any]:
    columns = _text(f"{_number(ratio.numerator)}:{_number(ratio.denominator)}")
    if ratio.numerator and ratio.denominator and ratio.denominator.value == 1:
        columns["value_as_number"] = ratio.numerator.value
    return columns


def _text(text: str) -> dict[str, Any]:
    return {"value_as_string": text or None, "value_source_value": text or None}


def _number(quantity: Quantity | None) -> str:
    return "" if quantity is None or quantity.value is None else f"{quantity.value:.15g}"


def _interpreted(interpretation: tuple[CodeableConcept, ...], context: Context) -> dict[str, Any]:
    for code in (coding.code for concept in interpretation for coding in concept.coding):
        if code in INTERPRETATIONS:
            return {
                "value_as_concept_id": context.concepts.get(INTERPRETATIONS[code]),
                "value_source_value": code,
            }
    return {}


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
