"""The FHIR data types that mappings read, as structs: only the elements that some mapping uses are decoded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec


class Element(msgspec.Struct, rename="camel", gc=False):
    """Base of the data types: unknown elements are skipped, a wrong type is a structural fault."""


class Coding(Element):
    system: str | None = None
    code: str | None = None
    display: str | None = None
    user_selected: bool = False


class CodeableConcept(Element):
    coding: tuple[Coding, ...] = ()
    text: str | None = None


class Identifier(Element):
    system: str | None = None
    value: str | None = None
    period: Period | None = None


class Reference(Element):
    reference: str | None = None
    type: str | None = None
    identifier: Identifier | None = None


class Period(Element):
    start: str | None = None
    end: str | None = None


class Quantity(Element):
    value: float | None = None
    comparator: str | None = None
    unit: str | None = None
    system: str | None = None
    code: str | None = None


class Range(Element):
    low: Quantity | None = None
    high: Quantity | None = None


class Ratio(Element):
    numerator: Quantity | None = None
    denominator: Quantity | None = None


class Repeat(Element):
    bounds_period: Period | None = None


class Timing(Element):
    event: tuple[str, ...] = ()
    repeat: Repeat | None = None


class Address(Element):
    use: str | None = None
    line: tuple[str, ...] = ()
    city: str | None = None
    district: str | None = None
    state: str | None = None
    postal_code: str | None = None
    country: str | None = None


class Meta(Element):
    last_updated: str | None = None
    version_id: str | None = None


class Extension(Element):
    url: str = ""
    value_coding: Coding | None = None
    value_code: str | None = None
    value_date_time: str | None = None
    value_string: str | None = None
    extension: tuple[Extension, ...] = ()


class Resource(Element):
    """What every resource has; `contained` stays undecoded until a mapping asks for one (E21)."""

    id: str | None = None
    meta: Meta | None = None
    contained: tuple[msgspec.Raw, ...] = ()


class _ContainedHead(Element):
    id: str | None = None
    resource_type: str | None = None


def contained(resource: Resource, reference: Reference | None, kind: type[Any], resource_type: str) -> Any | None:
    """Return the contained resource that a `#x` reference names, decoded, if it is of the wanted type."""
    target = reference.reference if reference else None
    if not target or not target.startswith("#"):
        return None
    for raw in resource.contained:
        head = msgspec.json.decode(raw, type=_ContainedHead)
        if head.id == target[1:] and head.resource_type == resource_type:
            return msgspec.json.decode(raw, type=kind)
    return None


def key_of(reference: Reference | None, resource_type: str) -> str | None:
    """Return what a reference points at, in the forms of `Row.refs`; None for text, contained and absent ones (E18).

    `resource_type` is the type of a conditional reference that names none.
    """
    if reference is None:
        return None
    target = reference.reference
    if target:
        target = target.strip()
        return None if not target or target[0] == "#" else target.partition("/_history/")[0]
    identifier = reference.identifier
    if identifier is None or not identifier.value:
        return None
    return f"{reference.type or resource_type}?identifier={identifier.system or ''}|{identifier.value}"


def is_contained(reference: Reference | None) -> bool:
    """Tell whether the reference stays within the resource."""
    return reference is not None and reference.reference is not None and reference.reference.startswith("#")


def codes_of(concepts: Iterable[CodeableConcept]) -> set[str]:
    """Return the codes of several concepts, whatever their systems: for required or extensible value sets."""
    return {coding.code for concept in concepts for coding in concept.coding if coding.code}


def code_of(concept: CodeableConcept | None) -> str | None:
    """Return the first code of a concept: for required value sets such as verificationStatus."""
    return next((coding.code for coding in concept.coding if coding.code), None) if concept else None
