"""Laws of the mappings: nothing that comes in ever raises, and equal input gives equal rows."""

from __future__ import annotations

import json
import re
from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from presage_etl.fhir.coding import NORMALISERS
from presage_etl.fhir.dates import MAX_YEAR, MIN_YEAR, Clock
from presage_etl.fhir.mapping import MAPPERS, decode, map_resource
from presage_etl.fhir.outcome import Dead, Excluded, Loaded, RefusedError
from presage_platform.ledger.reasons import is_known
from tests.lib.vocabulary import tiny_context

CONTEXT = tiny_context()
CLOCKS = st.sampled_from([Clock.declared(zone) for zone in ("UTC", "America/New_York", "Asia/Kathmandu")])
TYPES = st.sampled_from(sorted(MAPPERS))

# the regular expression of the FHIR R4 dateTime data type, narrowed to years that are believed
FHIR_DATE_TIME = (
    r"(1[89][0-9]{2}|2[0-2][0-9]{2})(-(0[1-9]|1[0-2])(-(0[1-9]|1[0-9]|2[0-8])"
    r"(T([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]{1,9})?(Z|(\+|-)((0[0-9]|1[0-3]):[0-5][0-9]|14:00)))?)?)?"
)


@given(CLOCKS, st.from_regex(re.compile(FHIR_DATE_TIME, re.ASCII), fullmatch=True), st.booleans())
def test_e70_every_date_that_fhir_allows_is_read(clock: Clock, text: str, end: bool) -> None:
    when = clock.read(text, "x", end=end)
    assert abs((when.day - date(int(text[:4]), int(text[5:7] or 1), int(text[8:10] or 1))).days) <= 366
    assert (when.moment is None) == ("T" not in text)
    assert (when.imputed is None) == (len(text) >= 10)


@given(CLOCKS, st.text(max_size=40))
def test_e73_any_other_text_is_a_bad_date(clock: Clock, text: str) -> None:
    try:
        when = clock.read(text, "x")
    except RefusedError as refused:
        assert refused.outcome == Dead("bad-date", "x")
    else:
        assert MIN_YEAR <= when.day.year <= MAX_YEAR + 1


@given(TYPES, st.binary(max_size=200))
def test_e106_any_bytes_end_in_an_outcome(resource_type: str, raw: bytes) -> None:
    outcome = map_resource(resource_type, raw, CONTEXT)
    assert isinstance(outcome, Dead | Excluded)
    assert is_known(outcome.reason)


ATOMS = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab:/#?|-T0123", max_size=8)
)
NAMES = st.sampled_from(
    ["coding", "code", "system", "start", "end", "value", "reference", "url", "extension", "text", "unit", "identifier"]
)
JSON = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(st.data())
def test_e23_any_content_of_the_elements_ends_in_an_outcome(data: st.DataObject) -> None:
    resource_type = data.draw(TYPES)
    fields = [name for name in MAPPERS[resource_type].struct.__struct_encode_fields__ if name not in ("id", "meta")]
    resource = data.draw(st.dictionaries(st.sampled_from(fields), JSON, max_size=5))
    resource |= {"resourceType": resource_type, "id": "x"}
    if data.draw(st.booleans()):
        resource |= {"status": data.draw(st.sampled_from(["final", "completed", "active", "finished", "available"]))}
        resource |= {"intent": "order", "birthDate": "1970-01-01"}
        resource |= {"subject": {"reference": "Patient/a"}, "patient": {"reference": "Patient/a"}}
    outcome = map_resource(resource_type, json.dumps(resource).encode(), CONTEXT)
    if isinstance(outcome, Loaded):
        slots = [(row.table, row.slot) for row in outcome.rows]
        assert len(set(slots)) == len(slots)
    else:
        assert is_known(outcome.reason)
    assert map_resource(resource_type, json.dumps(resource).encode(), tiny_context()) == outcome


OBSERVATION = json.dumps(
    {
        "resourceType": "Observation",
        "id": "o",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "718-7"}]},
        "subject": {"reference": "Patient/a"},
        "effectiveDateTime": "2024-03-01T08:15:00Z",
        "valueQuantity": {"value": 7.4, "unit": "g/dL", "system": "http://unitsofmeasure.org", "code": "g/dL"},
    }
).encode()


@given(st.integers(0, len(OBSERVATION) - 1), st.binary(max_size=3), st.integers(0, 5))
def test_e106_a_damaged_line_never_stops_a_run(place: int, patch: bytes, removed: int) -> None:
    damaged = OBSERVATION[:place] + patch + OBSERVATION[place + removed :]
    outcome = map_resource("Observation", damaged, CONTEXT)
    if not isinstance(outcome, Loaded):
        assert is_known(outcome.reason)


@given(TYPES, st.integers(0, 4000))
def test_e106_depth_never_ends_the_process(resource_type: str, depth: int) -> None:
    raw = b'{"resourceType":"X","id":"x","extension":' + b"[" * depth + b"]" * depth + b"}"
    outcome = decode(resource_type, raw, CONTEXT)
    if depth > 201:
        assert outcome == Dead("structure", f"{resource_type} nested deeper than 200")


@given(st.sampled_from(sorted(NORMALISERS)), st.text(max_size=15))
def test_e31_normalisers_take_any_text_and_are_stable(name: str, code: str) -> None:
    spellings = NORMALISERS[name](code)
    assert spellings
    if name not in ("ndc11", "leading-zeros", "upper", "no-dot"):  # upper case is not stable for every script
        assert NORMALISERS[name](spellings[0])[0] == spellings[0] or not code.isascii()
