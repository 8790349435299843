"""The forms in which one thing is written: dates of four precisions, references of six kinds (S35)."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np

from presage_etl.synthetic.clock import iso, iso_day
from presage_etl.synthetic.identifiers import BASE_URL, MRN_SYSTEM
from presage_etl.synthetic.lives.persons import Person
from presage_etl.synthetic.parameters import Parameters, References
from presage_etl.synthetic.records.fhir import Json
from presage_etl.synthetic.records.omop import When
from presage_etl.synthetic.streams import Stage, stream

PRECISIONS = ("day", "month", "year", "time")
DOCTOR: Json = {
    "resourceType": "Practitioner",
    "id": "doctor",
    "name": [{"family": "Halyard", "given": ["Test-Visiting"]}],
}


def precisions_of(parameters: Parameters, person: Person, kind: int, number: int) -> list[str]:
    """Draw how precisely each of some dates of a person is written; `kind` tells the lists of dates apart."""
    shares = parameters.dates
    draws = stream(parameters.seed, person.index, Stage.DATES, kind).random(number)
    places = np.searchsorted(np.cumsum([shares.day, shares.month, shares.year]), draws, side="right")
    return [PRECISIONS[place] for place in places]


def written(when: When, zone: str) -> str:
    """FHIR dateTime of a time in the precision in which it is known."""
    if when.precision == "time":
        return iso(when.seconds, zone)
    return iso_day(when.seconds)[: {"day": 10, "month": 7, "year": 4}[when.precision]]


def vary_references(resource: Json, draws: tuple[float, float], shares: References, mrn: dict[str, str]) -> None:
    """Write the references to Patient and Encounter in other forms; `mrn` has the record number of each Patient."""
    of_person, of_visit = draws
    for name in ("subject", "patient"):
        target = resource.get(name, {}).get("reference", "")
        if target.startswith("Patient/"):
            resource[name] = {"reference": _person_form(target, of_person, shares, mrn)}
    for name in ("encounter", "context"):
        target = resource.get(name, {}).get("reference", "")
        if target.startswith("Encounter/"):
            resource[name] = {"reference": _form(target, of_visit, shares)}
    if resource["resourceType"] == "Encounter" and "participant" in resource and of_visit < shares.contained:
        resource["contained"] = [DOCTOR]
        resource["participant"][0]["individual"] = {"reference": f"#{DOCTOR['id']}"}


def name_in_bundle(resources: list[Json]) -> Json:
    """Return a Bundle whose entries name each other by `urn:uuid`, as a message from another system does."""
    urns = {f"{r['resourceType']}/{r['id']}": urn(f"{r['resourceType']}/{r['id']}") for r in resources}
    entries = [
        {"fullUrl": urns[f"{resource['resourceType']}/{resource['id']}"], "resource": _renamed(resource, urns)}
        for resource in resources
    ]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


def urn(key: str) -> str:
    """The `urn:uuid` of a resource: always the same."""
    return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{BASE_URL}/{key}')}"


def _person_form(target: str, draw: float, shares: References, mrn: dict[str, str]) -> str:
    if draw > 1.0 - shares.conditional:
        return f"Patient?identifier={MRN_SYSTEM}|{mrn[target.partition('/')[2]]}"
    return _form(target, draw, shares)


def _form(target: str, draw: float, shares: References) -> str:
    if draw < shares.absolute:
        return f"{BASE_URL}/{target}"
    return f"{target}/_history/1" if draw < shares.absolute + shares.versioned else target


def _renamed(value: Any, urns: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            key: urns.get(part, part) if key == "reference" else _renamed(part, urns) for key, part in value.items()
        }
    return [_renamed(part, urns) for part in value] if isinstance(value, list) else value
