"""FHIR Medication: no row of its own, but what a drug reference stands for (E57)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from presage_etl.fhir.coding import CodingSet
from presage_etl.fhir.context import Choice, Context
from presage_etl.fhir.elements import CodeableConcept, Element, Reference, Resource, contained
from presage_etl.fhir.outcome import Dead, Excluded, Loaded, Note, Outcome, Row, slot_of

MAX_DEPTH = 2


class Ingredient(Element):
    item_codeable_concept: CodeableConcept | None = None
    item_reference: Reference | None = None


class Medication(Resource):
    """The elements of Medication that are read."""

    status: str | None = None
    code: CodeableConcept | None = None
    ingredient: tuple[Ingredient, ...] = ()


def gate(resource: Medication, context: Context) -> Excluded | Dead | None:
    """Only what was entered in error is refused: an inactive Medication still names what was given."""
    return Excluded("entered-in-error") if resource.status == "entered-in-error" else None


def collect(resource: Medication, codings: CodingSet) -> None:
    """Add the codings that mapping will ask for."""
    for concept in _concepts(resource):
        codings.add(concept.coding)


def rows(resource: Medication, context: Context) -> Outcome:
    """Return what references to this Medication stand for: its targets, or those of its ingredients."""
    notes: list[Note] = []
    meanings = meanings_of(resource, context, notes)
    made = [Row("ledger.medication", slot, 57, values, {}) for slot, values in _numbered(meanings)]
    return Loaded(made, notes=notes)


def meanings_of(resource: Medication, context: Context, notes: list[Note]) -> list[tuple[str, Choice]]:
    """Return (slot prefix, choice) of a Medication: its code, else one for each ingredient with a coding."""
    own = context.choose(resource.code, "drug", "Medication.code", notes)
    if own.concept_id:
        return [("main", own)]
    ingredients = [concept for concept in _ingredients(resource, MAX_DEPTH) if concept.coding]
    if not ingredients:
        return [("main", own)]
    choices = [context.choose(concept, "drug", "Medication.ingredient.item", notes) for concept in ingredients]
    return [(f"ing{index}", choice) for index, choice in enumerate(choices)]


def _numbered(meanings: list[tuple[str, Choice]]) -> Iterator[tuple[str, dict[str, Any]]]:
    rank = 0
    for prefix, choice in meanings:
        for number, pick in enumerate(choice.picks, start=1):
            rank += 1
            slot = slot_of(number) if prefix == "main" else prefix if number == 1 else f"{prefix}:k{number}"
            is_drug = pick.domain_id.partition("/")[0] == "Drug"
            yield (
                slot,
                {
                    "rank": rank,
                    "target_concept_id": pick.concept_id if is_drug else 0,
                    "source_concept_id": pick.source_concept_id,
                    "source_code": pick.source_value,
                },
            )


def _concepts(resource: Medication) -> Iterator[CodeableConcept]:
    if resource.code:
        yield resource.code
    yield from _ingredients(resource, MAX_DEPTH)


def _ingredients(resource: Medication, depth: int) -> Iterator[CodeableConcept]:
    """Return the ingredients' concepts; an ingredient that is a contained Medication is read in place."""
    for ingredient in resource.ingredient:
        if ingredient.item_codeable_concept:
            yield ingredient.item_codeable_concept
        inner = contained(resource, ingredient.item_reference, Medication, "Medication") if depth > 1 else None
        if isinstance(inner, Medication):
            if inner.code:
                yield inner.code
            yield from _ingredients(inner, depth - 1)


def collect_drug(resource: Any, codings: CodingSet) -> None:
    """Add the codings of a resource's `medication[x]`, contained Medications included."""
    if resource.medication_codeable_concept:
        codings.add(resource.medication_codeable_concept.coding)
    inner = contained(resource, resource.medication_reference, Medication, "Medication")
    if isinstance(inner, Medication):
        collect(inner, codings)
