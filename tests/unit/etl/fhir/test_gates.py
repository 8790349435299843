"""What keeps a resource out before any mapping."""

from __future__ import annotations

import pytest

from presage_etl.fhir.gates import MAX_DEPTH, is_too_deep
from presage_etl.fhir.mapping import map_resource
from presage_etl.fhir.outcome import Dead, Loaded
from tests.lib.vocabulary import tiny_context

CONTEXT = tiny_context()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not-json"),
        (b"{", "not-json"),
        (b"\xff\xfe", "not-json"),
        (b'{"resourceType":"Observation","id":"o"} {"a":1}', "not-json"),
        (b'{"resourceType":"Observation","id":"\\ud800"}', "not-json"),
        (b"[1]", "not-json"),
        (b'{"resourceType":"Observation","id":7}', "structure"),
        (b'{"resourceType":"Observation","id":"o","status":"final","valueQuantity":{"value":1e999}}', "bad-number"),
        (b'{"resourceType":"Observation","id":"o","status":"final"}', "person-missing"),
        (b'{"resourceType":"Observation","status":"final"}', "no-id"),
        (b'{"resourceType":"Observation","id":"o"}', "structure"),
    ],
)
def test_e23_broken_bytes_have_their_reason(raw: bytes, reason: str) -> None:
    outcome = map_resource("Observation", raw, CONTEXT)
    assert isinstance(outcome, Dead)
    assert outcome.reason == reason


def test_e23_depth_is_counted_outside_strings() -> None:
    deep = b'{"resourceType":"Observation","id":"o","x":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}"
    assert is_too_deep(deep)
    assert map_resource("Observation", deep, CONTEXT) == Dead(
        "structure", f"Observation nested deeper than {MAX_DEPTH}"
    )
    brackets = b'{"text":"' + b"[" * 1000 + b'"}'
    assert not is_too_deep(brackets)


def test_e23_an_entry_may_lend_its_id() -> None:
    raw = b'{"resourceType":"Organization","name":"Sample Clinic"}'
    assert isinstance(map_resource("Organization", raw, CONTEXT, resource_id="o"), Loaded)


def test_e25_a_mention_of_a_modifier_in_text_is_no_modifier() -> None:
    raw = b'{"resourceType":"Organization","id":"o","name":"the word \\"modifierExtension\\" in a name"}'
    assert isinstance(map_resource("Organization", raw, CONTEXT), Loaded)
