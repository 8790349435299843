"""Text that does not fit its column (E74)."""

from __future__ import annotations

import pyarrow as pa

from presage_etl.fhir.fit import fit
from presage_etl.fhir.gates import without_nul
from presage_etl.fhir.outcome import Row
from presage_etl.fhir.stage import Batch, Cut
from presage_platform.ledger.tables import TABLE_NUMBERS


def test_e74_what_fits_is_left_as_it_is() -> None:
    texts = pa.array(["äöü", None, ""], pa.string())
    assert fit(texts, 3) == (texts, {})
    assert fit(pa.array([None], pa.string()), 1)[1] == {}


def test_e74_text_is_cut_between_characters() -> None:
    texts = pa.array(["\U0001f912\U0001f912\U0001f912", None, "ab", "äöü"], pa.string())
    fitted, cut = fit(texts, 2)
    assert fitted.to_pylist() == ["\U0001f912\U0001f912", None, "ab", "äö"]
    assert cut == {0: "\U0001f912\U0001f912\U0001f912", 3: "äöü"}


def test_e74_only_the_escape_of_nul_is_taken_out() -> None:
    assert without_nul(b'"a\\u0000b"') == b'"ab"'
    assert without_nul(b'"a\\\\u0000b"') == b'"a\\\\u0000b"'  # a backslash and the letters u0000
    assert without_nul(b'"\\\\\\u0000"') == b'"\\\\"'
    plain = b'{"a": 1}'
    assert without_nul(plain) is plain


def test_e37_a_batch_keeps_the_whole_of_what_it_cuts() -> None:
    batch = Batch()
    text = "x" * 70
    batch.add_row(5, Row("observation", "main", 55, {"value_as_string": text, "observation_source_value": "short"}, {}))
    tables, cuts = batch.tables()
    assert tables["stage_observation"]["value_as_string"].to_pylist() == ["x" * 60]
    assert cuts == [Cut(5, "observation", "main", "value_as_string", text)]
    (whole,) = tables["stage_long_value"].to_pylist()
    assert (whole["stage_no"], whole["table_no"], whole["value"]) == (5, TABLE_NUMBERS["observation"], text)
