"""FHIR Location → location, and care_site when it is a place where care happens (E67)."""

from __future__ import annotations

from typing import Any

from presage_etl.fhir.coding import CodingSet
from presage_etl.fhir.context import Context
from presage_etl.fhir.elements import Address, CodeableConcept, Element, Identifier, Reference, Resource, code_of
from presage_etl.fhir.identifiers import hashed
from presage_etl.fhir.outcome import Dead, Excluded, Loaded, Outcome, Row
from presage_etl.fhir.states import state_code


class Position(Element):
    longitude: float | None = None
    latitude: float | None = None


class Location(Resource):
    """The elements of Location that are read."""

    identifier: tuple[Identifier, ...] = ()
    status: str | None = None
    name: str | None = None
    type: tuple[CodeableConcept, ...] = ()
    address: Address | None = None
    physical_type: CodeableConcept | None = None
    position: Position | None = None
    managing_organization: Reference | None = None


def gate(resource: Location, context: Context) -> Excluded | Dead | None:
    """Every Location is admitted: visits of the past name places that are closed today."""
    return None


def collect(resource: Location, codings: CodingSet) -> None:
    """A Location's codes are kept as they are."""


def rows(resource: Location, context: Context) -> Outcome:
    """Map one Location."""
    values = address_values(resource.address)
    if resource.position:
        values["latitude"] = resource.position.latitude
        values["longitude"] = resource.position.longitude
    made: list[Row] = []
    refs: dict[str, str] = {}
    if values:
        made.append(Row("location", "main", 67, values, {}))
        refs["location_id"] = "slot:main"
    if resource.physical_type or resource.managing_organization:
        site = {
            "care_site_name": resource.name,
            "place_of_service_concept_id": 0,
            "care_site_source_value": None,
            "place_of_service_source_value": code_of(resource.physical_type),
        }
        made.append(Row("care_site", "site", 67, site, refs))
    return Loaded(made, hashed(resource.identifier))


def address_values(address: Address | None) -> dict[str, Any]:
    """Return the columns of a site's address; empty when nothing is said."""
    if address is None:
        return {}
    lines = [*address.line, None, None]
    values = {
        "address_1": lines[0],
        "address_2": lines[1],
        "city": address.city,
        "county": address.district,
        "state": state_code(address.state, address.country),
        "zip": address.postal_code,
        "country_source_value": address.country,
    }
    return values if any(values.values()) else {}
