"""What keeps a resource out before any mapping: broken bytes, wrong structure, modifiers that are not known (E23, E25).

Everything here is the slow walk, taken only for what the fast decoder refused or for bytes that name a modifier.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from presage_etl.fhir.outcome import Dead, Excluded

MAX_DEPTH = 200
MARKS = (b'"modifierExtension"', b'"implicitRules"')

_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
_PATH = re.compile(r"`\$(?P<path>[^`]*)`")


@dataclass(slots=True)
class Modifiers:
    """What the modifiers of a resource ask for: nothing, a refusal, or to be observed under their own names."""

    refusal: Excluded | Dead | None = None
    observed: list[str] = field(default_factory=list)
    """Last parts of the URLs of modifiers that the policy says to observe."""


def structural_fault(raw: bytes, struct: type[Any] | None) -> Dead | None:
    """Say why these bytes are no resource that could be read, None when nothing is wrong with them."""
    try:
        head = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return Dead("not-json")
    if "resourceType" not in head:
        return Dead("no-resource-type", "resourceType")
    if struct is None:
        return None
    try:
        msgspec.json.decode(raw, type=struct)
    except msgspec.ValidationError as error:
        text = str(error)
        found = _PATH.search(text)
        path = re.sub(r"\[[^\]]*\]", "", found["path"]) if found else ""
        return Dead("bad-number" if "out of range" in text else "structure", path.lstrip(".") or None)
    except msgspec.DecodeError as error:
        return Dead("bad-number" if "number out of range" in str(error).lower() else "not-json")
    except (RecursionError, UnicodeError):
        return Dead("not-json")
    return None


def without_nul(raw: bytes) -> bytes:
    """Return the bytes without the escape of NUL, which no text of the database can hold (E74)."""
    return _NUL.sub(rb"\1", raw) if b"\\u0000" in raw else raw


def is_too_deep(raw: bytes) -> bool:
    """Tell whether JSON is nested deeper than `MAX_DEPTH`, counting brackets outside strings."""
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return False
    depth = 0
    for token in re.finditer(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', raw, re.DOTALL):
        sign = token.group()
        if sign in (b"{", b"["):
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif sign in (b"}", b"]"):
            depth -= 1
    return False


def has_modifiers(raw: bytes) -> bool:
    """Tell whether the bytes name a modifier at all: only then is the slow walk worth its time."""
    return any(mark in raw for mark in MARKS)


def read_modifiers(
    raw: bytes, struct: type[Any], known: Mapping[str, Literal["ignore", "exclude", "observe"]]
) -> Modifiers:
    """Judge the modifiers of a resource and of the elements that its mapping reads."""
    document = msgspec.json.decode(raw)
    if "implicitRules" in document:
        return Modifiers(Dead("modifier-extension", "implicitRules"))
    read = {name: document[name] for name in struct.__struct_encode_fields__ if name in document}
    modifiers = Modifiers()
    urls = [*_urls(document.get("modifierExtension")), *(url for value in read.values() for url in _walk(value))]
    for url in urls:
        action = known.get(url or "")
        if action is None:
            return Modifiers(Dead("modifier-extension", "modifierExtension"))
        if action == "exclude":
            return Modifiers(Excluded("policy:known_modifiers"))
        if action == "observe":
            modifiers.observed.append((url or "").rstrip("/").rpartition("/")[2])
    return modifiers


def _walk(value: Any) -> Iterator[str | None]:
    if isinstance(value, dict):
        yield from _urls(value.get("modifierExtension"))
        for name, inner in value.items():
            if name != "modifierExtension":
                yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)


def _urls(extensions: Any) -> Iterator[str | None]:
    for extension in extensions if isinstance(extensions, list) else []:
        url = extension.get("url") if isinstance(extension, dict) else None
        yield url if isinstance(url, str) else None
