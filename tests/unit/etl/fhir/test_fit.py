"""Text that does not fit its column (E74)."""

from __future__ import annotations

import pyarrow as pa

from presage_etl.fhir.fit import Change, fit
from presage_etl.fhir.outcome import Row
from presage_etl.fhir.stage import Batch
from presage_platform.ledger.tables import TABLE_NUMBERS


def test_e74_what_fits_is_left_as_it_is() -> None:
    texts = pa.array(["äöü", None, ""], pa.string())
    assert fit(texts, 3) == (texts, [])
    assert fit(pa.array([None], pa.string()), None)[1] == []


def test_e74_text_is_cut_between_characters_and_nul_bytes_go() -> None:
    texts = pa.array(["\U0001f912\U0001f912\U0001f912", None, "a\0b", "ab\0cd"], pa.string())
    fitted, changes = fit(texts, 2)
    assert fitted.to_pylist() == ["\U0001f912\U0001f912", None, "ab", "ab"]
    assert changes == [
        Change(0, "\U0001f912\U0001f912\U0001f912", is_cut=True),
        Change(2, "ab", is_cut=False),
        Change(3, "abcd", is_cut=True),
    ]
    assert fit(texts, None)[0].to_pylist()[2:] == ["ab", "abcd"]


def test_e37_a_batch_keeps_the_whole_of_what_it_cuts() -> None:
    batch = Batch()
    text = "x" * 70
    batch.add_row(5, Row("observation", "main", 55, {"value_as_string": text, "observation_source_value": "short"}, {}))
    tables, unfit = batch.tables()
    assert tables["stage_observation"]["value_as_string"].to_pylist() == ["x" * 60]
    assert [(one.stage_no, one.table, one.slot, one.column) for one in unfit] == [
        (5, "observation", "main", "value_as_string")
    ]
    (whole,) = tables["stage_long_value"].to_pylist()
    assert (whole["stage_no"], whole["table_no"], whole["value"]) == (5, TABLE_NUMBERS["observation"], text)
