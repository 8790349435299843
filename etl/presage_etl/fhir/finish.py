"""The last touch on rows: numbers are finite, observed modifiers speak in place of the event (E25, E74)."""

from __future__ import annotations

import math

from presage_etl.fhir.gates import Modifiers
from presage_etl.fhir.outcome import Dead, Loaded, Outcome, Row
from presage_etl.fhir.routing import SHAPES


def finish(outcome: Outcome, modifiers: Modifiers | None) -> Outcome:
    """Refuse numbers that no column holds, and let observed modifiers replace the event; the stage cuts text."""
    if not isinstance(outcome, Loaded):
        return outcome
    if modifiers is not None and modifiers.observed:
        outcome.rows = _observed(outcome.rows, modifiers.observed)
    for row in outcome.rows:
        for column, value in row.values.items():
            if type(value) is float and not math.isfinite(value):
                return Dead("bad-number", column)
    return outcome


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
