"""The value of an Observation, or of one of its components: number and unit, concept, or text (E55)."""

from __future__ import annotations

from typing import Any, Protocol

from presage_etl.fhir.context import Context
from presage_etl.fhir.elements import CodeableConcept, Element, Period, Quantity, Range, Ratio
from presage_etl.fhir.outcome import Note

UCUM = "http://unitsofmeasure.org"
COMPARATORS = {"<": 4171756, "<=": 4171754, ">=": 4171755, ">": 4172704}
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


class Holder(Protocol):
    """What has a value[x]: an Observation or one of its components."""

    @property
    def value_quantity(self) -> Quantity | None: ...
    @property
    def value_codeable_concept(self) -> CodeableConcept | None: ...
    @property
    def value_string(self) -> str | None: ...
    @property
    def value_boolean(self) -> bool | None: ...
    @property
    def value_integer(self) -> int | None: ...
    @property
    def value_range(self) -> Range | None: ...
    @property
    def value_ratio(self) -> Ratio | None: ...
    @property
    def value_sampled_data(self) -> SampledData | None: ...
    @property
    def value_time(self) -> str | None: ...
    @property
    def value_date_time(self) -> str | None: ...
    @property
    def value_period(self) -> Period | None: ...
    @property
    def interpretation(self) -> tuple[CodeableConcept, ...]: ...
    @property
    def reference_range(self) -> tuple[ReferenceRange, ...]: ...


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
