"""FHIR ServiceRequest: no row; it is kept for the accession numbers by which images find their person (E69)."""

from __future__ import annotations

from presage_etl.fhir.coding import CodingSet
from presage_etl.fhir.context import Context
from presage_etl.fhir.elements import Identifier, Reference, Resource
from presage_etl.fhir.identifiers import hashed
from presage_etl.fhir.outcome import Dead, Excluded, Loaded, Outcome


class ServiceRequest(Resource):
    """The elements of ServiceRequest that are read."""

    identifier: tuple[Identifier, ...] = ()
    requisition: Identifier | None = None
    status: str | None = None
    subject: Reference | None = None


def gate(resource: ServiceRequest, context: Context) -> Excluded | Dead | None:
    """Every order is admitted but those entered in error: only its identifiers are used."""
    if resource.status is None:
        return Dead("structure", "ServiceRequest.status")
    return Excluded("entered-in-error") if resource.status == "entered-in-error" else None


def collect(resource: ServiceRequest, codings: CodingSet) -> None:
    """A ServiceRequest's codes are not read."""


def rows(resource: ServiceRequest, context: Context) -> Outcome:
    """Keep the identifiers of one ServiceRequest."""
    requisition = (resource.requisition,) if resource.requisition else ()
    return Loaded([], hashed((*resource.identifier, *requisition)))
