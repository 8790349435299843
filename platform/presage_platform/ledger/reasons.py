"""The closed list of reasons why a resource was not loaded; ledger, reports and `explain` use these words only."""

from __future__ import annotations

EXCLUSIONS: dict[str, str] = {
    "entered-in-error": "the source withdrew it",
    "status": "its status says that it did not take place, or not yet",
    "intent": "its intent is not one that is loaded",
    "class": "a class of encounter that is not loaded",
    "policy": "a named policy excludes it",
    "type-not-mapped": "OMOP has no place for this type, or the mapping does not exist",
    "superseded": "another copy is newer",
    "duplicate": "another copy has the same bytes",
    "not-a-match": "a search outcome, not a resource",
    "subject-not-a-patient": "it is about a group, a device or a place",
    "no-value": "the value is declared absent",
    "focus": "it is about someone or something else than the patient",
    "do-not-perform": "an order not to do something",
    "attachment": "a format of attachment that is not read",
    "no-text": "a note without text",
}
"""Reasons of exclusion; those of `PREFIXES` are followed by `:` and the value that decided."""

PREFIXES = frozenset({"status", "intent", "class", "policy", "attachment"})

CODES = frozenset(
    [
        "accepted",
        "active",
        "amended",
        "appended",
        "arrived",
        "available",
        "cancelled",
        "completed",
        "confirmed",
        "corrected",
        "differential",
        "discharged",
        "discontinued",
        "draft",
        "ended",
        "entered-in-error",
        "final",
        "finished",
        "in-progress",
        "inactive",
        "intended",
        "not-done",
        "not-taken",
        "on-hold",
        "onleave",
        "partial",
        "planned",
        "preliminary",
        "preparation",
        "provisional",
        "recorded",
        "refuted",
        "registered",
        "stopped",
        "suspended",
        "triaged",
        "unconfirmed",
        "unknown",
        "waitlist",
        "directive",
        "filler-order",
        "instance-order",
        "option",
        "order",
        "original-order",
        "plan",
        "proposal",
        "reflex-order",
    ]
)
"""The codes of FHIR's status and intent: a reason shows no other word, for a broken export may write anything there."""

DEAD: dict[str, str] = {
    "not-json": "the bytes are no JSON object",
    "no-resource-type": "no resourceType, or none of FHIR's",
    "no-id": "no id by which it could be told from others",
    "structure": "an element that is read has the wrong type",
    "fhir-version": "shaped as another release of FHIR than R4",
    "modifier-extension": "carries a modifier that is not known",
    "bad-number": "a number outside what a column or JSON reader can hold",
    "bad-date": "a date that does not exist or lies outside 1800–2300",
    "bad-base64": "an attachment that cannot be decoded",
    "no-date": "no date, and no encounter that gives one",
    "no-birth-date": "a Patient without birth date",
    "no-study-uid": "an ImagingStudy without study UID",
    "person-missing": "the Patient has not arrived",
    "ambiguous-reference": "a conditional reference with several hits",
    "link-cycle": "a chain of references that runs in a circle",
    "too-large": "a single resource above 64 MiB",
    "truncated-file": "the compressed file ends early",
    "mapping-error": "the mapping failed on it: a bug worth reporting",
}
"""Reasons of dead letters; `structure` is followed by `:` and the path of the element."""


def with_known_code(reason: str) -> str:
    """Return a reason whose value after `status:` or `intent:` is a code of FHIR, or `other`: reasons are printed."""
    word, colon, value = reason.partition(":")
    return f"{word}:other" if colon and word in ("status", "intent") and value not in CODES else reason


def is_known(reason: str) -> bool:
    """Return whether a reason is one of the closed list, with or without the value after its colon."""
    word, colon, _ = reason.partition(":")
    if colon:
        return word in PREFIXES or word == "structure"
    return word in EXCLUSIONS or word in DEAD
