"""The last touch on rows: text fits its column, numbers are numbers, observed modifiers speak (E25, E37, E74)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

from presage_etl.fhir.gates import Modifiers
from presage_etl.fhir.outcome import Dead, Loaded, Note, Outcome, RefusedError, Row
from presage_etl.fhir.routing import SHAPES

MAX_UNCUT = 2
"""No text column of the CDM is narrower (location.state)."""


def finish(outcome: Outcome, modifiers: Modifiers | None) -> Outcome:
    """Cut text to its columns and refuse numbers that no column holds."""
    if not isinstance(outcome, Loaded):
        return outcome
    if modifiers is not None and modifiers.observed:
        outcome.rows = _observed(outcome.rows, modifiers.observed)
    try:
        for row in outcome.rows:
            _fit(row, outcome.notes)
    except RefusedError as refused:
        return refused.outcome
    return outcome


def _fit(row: Row, notes: list[Note]) -> None:
    values = row.values
    for column, value in values.items():
        kind = type(value)
        if kind is str:
            if len(value) > MAX_UNCUT or "\0" in value:
                values[column] = _cut(value, row.table, column, notes)
        elif kind is float and not math.isfinite(value):
            raise RefusedError(Dead("bad-number", column))


def _cut(text: str, table: str, column: str, notes: list[Note]) -> str | None:
    whole = text
    if "\0" in text:
        text = text.replace("\0", "")
        notes.append(Note("nul-removed", f"{table}.{column}"))
    width = text_widths().get((table, column))
    if width is not None and len(text) > width:
        notes.append(Note("text-cut", f"{table}.{column}", str(width), code=whole))
        text = text[:width]
    return text or None


@cache
def text_widths() -> Mapping[tuple[str, str], int]:
    """Return the width of every bounded text column of the CDM."""
    from presage_platform.omop.tables import cdm_metadata

    return {
        (table.name, column.name): width
        for table in cdm_metadata.tables.values()
        for column in table.columns
        if (width := getattr(column.type, "length", None)) is not None
    }


def _observed(rows: list[Row], names: list[str]) -> list[Row]:
    """Replace events by observations that name the modifier: the event itself may not have been one."""
    first = next((row for row in rows if row.table in SHAPES), None)
    if first is None:
        return []
    shape = SHAPES[first.table]
    return [
        Row(
            table="observation",
            slot=f"modifier{index}",
            rule=25,
            values={
                "observation_concept_id": 0,
                "observation_type_concept_id": first.values[f"{shape.prefix}_type_concept_id"],
                "observation_date": first.values[shape.date],
                "observation_datetime": first.values[shape.datetime],
                "observation_source_value": name,
                "observation_source_concept_id": 0,
            },
            refs={key: key_ for key, key_ in first.refs.items() if not key_.startswith("slot:")},
            required_date="observation_date",
            date_source=first.date_source,
            imputed=first.imputed,
            after_birth=first.after_birth,
        )
        for index, name in enumerate(names)
    ]
