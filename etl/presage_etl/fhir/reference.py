"""References between resources: every written form becomes one key, or stays text that nothing resolves (E18).

Keys are `Type/id` within the same source, `base|Type/id` in another one, and `Type?system|hmac` for a conditional
reference, whose identifier is hashed before it is staged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_WRITTEN = re.compile(rb'("reference"\s*:\s*")((?:urn:(?:uuid|oid):|https?://)[^"\\]*)"')
_ABSOLUTE = re.compile(r"^(https?://.+?)/?([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})(?:/_history/[^/]+)?$")
_RELATIVE = re.compile(r"^([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})(?:/_history/[^/]+)?$")
_CONDITIONAL = re.compile(r"^([A-Z][A-Za-z]+)\?identifier=(.+)$")

Hash = Callable[[str], str]


def settle(raw: bytes, names: Mapping[str, str], bases: frozenset[str]) -> bytes:
    """Return the resource with references to entries of its Bundle and to its own bases written as `Type/id`.

    Parameters
    ----------
    raw
        One resource as JSON.
    names
        `fullUrl` → `Type/id` of the entries of its Bundle.
    bases
        Base URLs of this export, without a trailing slash.
    """
    if not names and not bases:
        return raw

    def written(match: re.Match[bytes]) -> bytes:
        text = match[2].decode("utf-8", "replace")
        key = names.get(text) or own_key(text, bases)
        return match[1] + (key.encode() if key else match[2]) + b'"'

    return _WRITTEN.sub(written, raw)


def own_key(url: str, bases: frozenset[str]) -> str | None:
    """Return `Type/id` of an absolute URL under one of this export's bases, else None."""
    match = _ABSOLUTE.match(url)
    if match and match[1].rstrip("/") in bases:
        return f"{match[2]}/{match[3]}"
    return None


def base_of(url: str) -> str | None:
    """Return the base of an absolute URL that ends in `Type/id`."""
    match = _ABSOLUTE.match(url)
    return match[1].rstrip("/") if match else None


def reference_key(text: str, bases: frozenset[str], hash_identifier: Hash) -> str | None:
    """Return the key that a reference is looked up by; None when the form can name nothing (a text, a foreign urn).

    Parameters
    ----------
    text
        The reference as the mapping handed it on.
    bases
        Base URLs of this export.
    hash_identifier
        Turns the value of an identifier into its keyed hash.
    """
    relative = _RELATIVE.match(text)
    if relative:
        return f"{relative[1]}/{relative[2]}"
    conditional = _CONDITIONAL.match(text)
    if conditional:
        system, _, value = conditional[2].rpartition("|")
        return f"{conditional[1]}?{system}|{hash_identifier(value)}" if value else None
    absolute = _ABSOLUTE.match(text)
    if absolute:
        base = absolute[1].rstrip("/")
        key = f"{absolute[2]}/{absolute[3]}"
        return key if base in bases else f"{base}|{key}"
    return text if text.startswith(("urn:uuid:", "urn:oid:")) else None
