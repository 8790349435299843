"""Identifiers of a resource, as the ledger keeps them: hashed by the engine, never written to the CDM (E69)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from presage_etl.fhir.dates import Clock
from presage_etl.fhir.elements import Identifier
from presage_etl.fhir.outcome import Identifier as Kept
from presage_etl.fhir.outcome import RefusedError

_CLOCK = Clock()


def hashed(identifiers: Iterable[Identifier]) -> list[Kept]:
    """Return the identifiers that have a value, with their period of validity."""
    return [
        Kept(
            identifier.system,
            identifier.value,
            _day(identifier.period.start if identifier.period else None, end=False),
            _day(identifier.period.end if identifier.period else None, end=True),
        )
        for identifier in identifiers
        if identifier.value
    ]


def _day(text: str | None, *, end: bool) -> date | None:
    """Read the bound of a validity; a broken one bounds nothing and is no reason to lose the resource."""
    if not text:
        return None
    try:
        return _CLOCK.read(text, "identifier.period", end=end).day
    except RefusedError:
        return None
