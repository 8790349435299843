"""What all drug resources share: the drug itself, its route, and the rows of drug_exposure (E34, E57, E58)."""

from __future__ import annotations

from typing import Any

from presage_etl.fhir.context import Choice, Context
from presage_etl.fhir.elements import CodeableConcept, Reference, Resource, contained, is_contained, key_of
from presage_etl.fhir.medication import Medication, meanings_of
from presage_etl.fhir.outcome import Dead, Loaded, Note, Outcome, Row
from presage_etl.fhir.routing import Event, event_rows

FIRST_ROW_ONLY = ("quantity", "refills", "days_supply")
"""Columns that a fan-out keeps on its first row, or one prescription would count several times (E34)."""


def drug_rows(
    event: Event,
    resource: Resource,
    concept: CodeableConcept | None,
    reference: Reference | None,
    context: Context,
    notes: list[Note],
) -> Outcome:
    """Return the drug_exposure rows of one resource, by its code, its contained Medication, or a reference to one."""
    event.home = "drug_exposure"
    resource_type = event.element.partition(".")[0]
    if concept is None and reference is None:
        return Dead("structure", f"{resource_type}.medication[x]")
    if concept is not None:
        choice = context.choose(concept, "drug", event.element, notes)
        return Loaded(_once(event_rows(event, choice, context, notes)), notes=notes)
    if is_contained(reference):
        inner = contained(resource, reference, Medication, "Medication")
        if not isinstance(inner, Medication):
            notes.append(Note("unresolved", f"{resource_type}.medicationReference", "contained"))
            return Loaded(_once(event_rows(event, context.choose(None, "drug", ""), context, notes)), notes=notes)
        return Loaded(_once(_contained_rows(event, inner, context, notes)), notes=notes)
    return Loaded(_referenced_rows(event, reference, context, notes), notes=notes)


def _contained_rows(event: Event, inner: Medication, context: Context, notes: list[Note]) -> list[Row]:
    made: list[Row] = []
    for slot, choice in meanings_of(inner, context, notes):
        event.slot = slot
        rows = event_rows(event, choice, context, notes)
        if slot.startswith("ing"):  # the amount of the whole says nothing about a part (E57)
            for row in rows:
                row.values.pop("quantity", None)
        made += rows
    return made


def _referenced_rows(event: Event, reference: Reference | None, context: Context, notes: list[Note]) -> list[Row]:
    """Return one row whose drug the merge takes from the Medication; until it arrives its concept is 0 (E20)."""
    rows = event_rows(event, Choice((context.choose(None, "drug", "").picks[0],)), context, notes)
    target = key_of(reference, "Medication")
    if target is None:
        notes.append(Note("unmapped", event.element, "text-only"))
    else:
        rows[0].refs["drug_concept_id"] = target
    return rows


def _once(rows: list[Row]) -> list[Row]:
    for row in [row for row in rows if row.table == "drug_exposure"][1:]:
        for column in FIRST_ROW_ONLY:
            row.values.pop(column, None)
    return rows


def route_columns(route: CodeableConcept | None, context: Context, element: str, notes: list[Note]) -> dict[str, Any]:
    """Return the route of administration: its concept only if it is one of domain Route."""
    if route is None:
        return {}
    choice = context.choose(route, "general", element, notes)
    pick = choice.picks[0]
    return {
        "route_concept_id": pick.concept_id if pick.domain_id == "Route" else 0,
        "route_source_value": pick.source_value,
    }
