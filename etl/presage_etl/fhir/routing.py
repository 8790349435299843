"""From a chosen concept to its row: the domain decides the table, the columns follow (E34–E36, E43, E72)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from presage_etl.fhir.context import Choice, Context, Pick
from presage_etl.fhir.dates import When
from presage_etl.fhir.elements import Period, Reference, key_of
from presage_etl.fhir.outcome import Dead, Excluded, Note, RefusedError, Row, slot_of


@dataclass(frozen=True, slots=True)
class Shape:
    """The names of the columns that every event has, in one table."""

    table: str
    prefix: str
    date: str
    datetime: str
    end_date: str | None = None
    end_datetime: str | None = None
    visits: bool = True
    source_concept: bool = True
    takes_value: bool = False


SHAPES: Mapping[str, Shape] = {
    shape.table: shape
    for shape in (
        Shape(
            "condition_occurrence",
            "condition",
            "condition_start_date",
            "condition_start_datetime",
            "condition_end_date",
            "condition_end_datetime",
        ),
        Shape(
            "drug_exposure",
            "drug",
            "drug_exposure_start_date",
            "drug_exposure_start_datetime",
            "drug_exposure_end_date",
            "drug_exposure_end_datetime",
        ),
        Shape(
            "procedure_occurrence",
            "procedure",
            "procedure_date",
            "procedure_datetime",
            "procedure_end_date",
            "procedure_end_datetime",
        ),
        Shape(
            "device_exposure",
            "device",
            "device_exposure_start_date",
            "device_exposure_start_datetime",
            "device_exposure_end_date",
            "device_exposure_end_datetime",
        ),
        Shape("measurement", "measurement", "measurement_date", "measurement_datetime", takes_value=True),
        Shape("observation", "observation", "observation_date", "observation_datetime", takes_value=True),
        Shape("specimen", "specimen", "specimen_date", "specimen_datetime", visits=False, source_concept=False),
    )
}

_TABLE_OF_DOMAIN = {
    "Condition": "condition_occurrence",
    "Drug": "drug_exposure",
    "Procedure": "procedure_occurrence",
    "Measurement": "measurement",
    "Observation": "observation",
    "Device": "device_exposure",
    "Specimen": "specimen",
}


def table_of(pick: Pick, home: str) -> str:
    """Return the table of a target by its domain; concept 0 stays in the resource's home table (E36)."""
    if not pick.concept_id:
        return home
    # combined domains are written Condition/Meas: the first part decides
    return _TABLE_OF_DOMAIN.get(pick.domain_id.partition("/")[0], "observation")


@dataclass(slots=True)
class Timing:
    """When an event was: the start and the element that said it, a nullable end, or an age to add to the birth date."""

    start: When | None = None
    source: str | None = None
    end: When | None = None
    after_birth: str | None = None


@dataclass(slots=True)
class Event:
    """What the rows of one idea share, whatever tables they land in."""

    home: str
    rule: int
    timing: Timing
    type_concept: str
    """Name of the type concept in concepts.toml."""
    refs: dict[str, str]
    slot: str = "main"
    home_values: dict[str, Any] = field(default_factory=dict)
    """Columns that exist in the home table only."""
    value: Mapping[str, Any] = field(default_factory=dict)
    """Value, unit and range: they travel to measurement and observation only."""
    element: str = ""


def event_rows(event: Event, choice: Choice, context: Context, notes: list[Note]) -> list[Row]:
    """Return a row for each target of the chosen coding, in the table that its domain names.

    Measurement takes one target; further ones are counted (E34). What a home table could hold and the other cannot is
    counted as lost (E36).

    Raises
    ------
    RefusedError
        Dead `no-date` when there is neither a date nor an encounter that could give one.
    """
    rows: list[Row] = []
    measured = False
    for pick in choice.picks:
        table = table_of(pick, event.home)
        if table == "measurement":
            if measured:
                notes.append(Note("target-dropped", event.element))
                continue
            measured = True
        rank = len(rows) + 1
        slot = slot_of(rank) if event.slot == "main" else event.slot if rank == 1 else f"{event.slot}:k{rank}"
        rows.append(_row(event, pick, SHAPES[table], slot, context, notes))
    return rows


def _row(event: Event, pick: Pick, shape: Shape, slot: str, context: Context, notes: list[Note]) -> Row:
    timing = event.timing
    refs = event.refs
    start = timing.start
    if start is None and timing.after_birth is None and ("visit_occurrence_id" not in refs or not shape.visits):
        raise RefusedError(Dead("no-date", event.element.partition(".")[0]))
    prefix = shape.prefix
    values: dict[str, Any] = {
        f"{prefix}_concept_id": pick.concept_id,
        f"{prefix}_type_concept_id": type_concept_id(event.type_concept, timing, context),
        f"{prefix}_source_value": pick.source_value,
        shape.date: start.day if start else None,
        shape.datetime: start.moment if start else None,
    }
    if shape.source_concept:
        values[f"{prefix}_source_concept_id"] = pick.source_concept_id
    if shape.end_date is not None and timing.end is not None:
        values[shape.end_date] = timing.end.day
        values[shape.end_datetime or ""] = timing.end.moment
    _add_values(event, pick, shape, values, notes)
    if shape.table == event.home:
        values.update(event.home_values)
    else:
        notes.extend(
            Note("loss", f"{event.element}:{column}", f"moved to {shape.table}")
            for column, value in event.home_values.items()
            if value is not None
        )
    return Row(
        table=shape.table,
        slot=slot,
        rule=event.rule,
        values=values,
        refs=dict(refs) if shape.visits else {"person_id": refs["person_id"]},
        required_date=shape.date,
        date_source=timing.source,
        imputed="age" if timing.after_birth and start is None else start.imputed if start else None,
        after_birth=timing.after_birth,
    )


def _add_values(event: Event, pick: Pick, shape: Shape, values: dict[str, Any], notes: list[Note]) -> None:
    if not shape.takes_value:
        if pick.values or any(value is not None for value in event.value.values()):
            notes.append(Note("loss", f"{event.element}:value", f"{shape.table} has no value"))
        return
    for column, value in event.value.items():
        if shape.table == "observation":
            column = _OBSERVATION_COLUMN.get(column, column)
        if column in ("range_low", "range_high", "unit_source_concept_id") and shape.table == "observation":
            if value is not None:
                notes.append(Note("loss", f"{event.element}:{column}", "observation has no such column"))
        elif column != "value_as_string" or shape.table == "observation":
            values[column] = value
    if pick.values and values.get("value_as_concept_id") is None and not _has_value(event.value):
        values["value_as_concept_id"] = pick.values[0]
        notes.extend(Note("target-dropped", f"{event.element}:value") for _ in pick.values[1:])


_OBSERVATION_COLUMN = {"operator_concept_id": "qualifier_concept_id"}


def _has_value(value: Mapping[str, Any]) -> bool:
    return any(value.get(column) is not None for column in ("value_as_number", "value_as_string", "value_source_value"))


def type_concept_id(name: str, timing: Timing, context: Context) -> int:
    """Return the type concept of a row; an imputed start shows in it, except what the patient reported (E72)."""
    imputed = timing.start.imputed if timing.start else timing.after_birth
    if imputed and name != "patient_self_report" and context.policies["imputed_date"] == "type-concept":
        return context.concepts["standard_algorithm"]
    return context.concepts[name]


def person_refs(subject: Reference | None, path: str) -> dict[str, str]:
    """Return the reference to the person of an event.

    Raises
    ------
    RefusedError
        Excluded when the subject is a Group, Device or Location (E22), dead when there is none (E20).
    """
    key = key_of(subject, "Patient")
    if key is None:
        raise RefusedError(Dead("person-missing", path))
    kind = key.partition("/")[0]
    if kind in ("Group", "Device", "Location") or (subject and subject.type in ("Group", "Device", "Location")):
        raise RefusedError(Excluded("subject-not-a-patient"))
    return {"person_id": key}


def event_refs(
    subject: Reference | None, encounter: Reference | None, performers: list[Reference | None], path: str
) -> dict[str, str]:
    """Return the references that every event has: person, visit, and the first practitioner named (E43)."""
    refs = person_refs(subject, path)
    visit = key_of(encounter, "Encounter")
    if visit is not None:
        refs["visit_occurrence_id"] = visit
    provider = first_provider(performers)
    if provider is not None:
        refs["provider_id"] = provider
    return refs


def first_provider(performers: list[Reference | None]) -> str | None:
    """Return the first reference that is, or may be, a Practitioner or PractitionerRole."""
    for reference in performers:
        key = key_of(reference, "Practitioner")
        if key is not None and _may_be(key, reference, ("Practitioner", "PractitionerRole")):
            return key
    return None


def is_patient_reported(reporters: list[Reference | None]) -> bool:
    """Tell whether one of the reporters is the patient or a relative."""
    return any(
        key is not None and (key.startswith(("Patient/", "RelatedPerson/")) or _declared_type(reporter) in _LAY)
        for reporter in reporters
        for key in (key_of(reporter, "Patient"),)
    )


_LAY = ("Patient", "RelatedPerson")


def _declared_type(reference: Reference | None) -> str | None:
    return reference.type if reference else None


def _may_be(key: str, reference: Reference | None, types: tuple[str, ...]) -> bool:
    declared = _declared_type(reference)
    if declared:
        return declared in types
    kind = key.partition("/")[0] if "?" not in key else key.partition("?")[0]
    # urn:uuid: and absolute addresses do not all say what they point at; the reader knows
    return kind in types or key.startswith("urn:") or any(f"/{name}/" in key for name in types)


def span(period: Period | None, path: str, context: Context) -> tuple[When | None, When | None, str]:
    """Return start and end of a Period; without a start its end stands for it (E43)."""
    if period is None:
        return None, None, path
    end = context.clock.read(period.end, f"{path}.end", end=True) if period.end else None
    if period.start:
        return context.clock.read(period.start, f"{path}.start"), end, f"{path}.start"
    if period.end:
        return context.clock.read(period.end, f"{path}.end"), end, f"{path}.end"
    return None, None, path


def read_when(text: str | None, path: str, context: Context) -> When | None:
    """Read a date that may be absent."""
    return context.clock.read(text, path) if text else None


def ordered_end(start: When | None, end: When | None, element: str, notes: list[Note]) -> When | None:
    """Drop an end that lies before its start (E43), counted."""
    if start is None or end is None:
        return end
    if end.day < start.day:
        notes.append(Note("end-before-start", element))
        return None
    if start.moment and end.moment and end.moment < start.moment and end.day == start.day:
        notes.append(Note("end-before-start", element))
        return None
    return end
