"""FHIR Organization → care_site (E67)."""

from __future__ import annotations

from presage_etl.fhir.coding import CodingSet
from presage_etl.fhir.context import Context
from presage_etl.fhir.elements import Address, CodeableConcept, Identifier, Resource
from presage_etl.fhir.identifiers import hashed
from presage_etl.fhir.location import address_values
from presage_etl.fhir.outcome import Dead, Excluded, Loaded, Note, Outcome, Row


class Organization(Resource):
    """The elements of Organization that are read."""

    identifier: tuple[Identifier, ...] = ()
    type: tuple[CodeableConcept, ...] = ()
    name: str | None = None
    address: tuple[Address, ...] = ()


def gate(resource: Organization, context: Context) -> Excluded | Dead | None:
    """Every Organization is admitted."""
    return None


def collect(resource: Organization, codings: CodingSet) -> None:
    """Add the codings that mapping will ask for."""
    for concept in resource.type:
        codings.add(concept.coding)


def rows(resource: Organization, context: Context) -> Outcome:
    """Map one Organization; its address is a site's and may be kept."""
    notes: list[Note] = []
    refs: dict[str, str] = {}
    made: list[Row] = []
    address = address_values(resource.address[0] if resource.address else None)
    if address:
        refs["location_id"] = "slot:address"
        made.append(Row("location", "address", 67, address, {}))
    values = {
        "care_site_name": resource.name,
        "place_of_service_concept_id": _place_of_service(resource, context, notes),
        "care_site_source_value": None,
        "place_of_service_source_value": next(
            (coding.code for concept in resource.type for coding in concept.coding if coding.code), None
        ),
    }
    made.append(Row("care_site", "main", 67, values, refs))
    return Loaded(made, hashed(resource.identifier), notes)


def _place_of_service(resource: Organization, context: Context, notes: list[Note]) -> int:
    for concept in resource.type:
        choice = context.choose(concept, "general", "Organization.type", notes)
        for pick in choice.picks:
            if pick.domain_id == "Visit":
                return pick.concept_id
    return 0
