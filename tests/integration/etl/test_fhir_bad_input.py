"""Bad input: nothing is lost, nothing is loaded by half, and the exit code says what it was (E104, E106)."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from presage_etl.fhir.ledger import writer_lock
from presage_etl.fhir.pipeline import LetterChoice
from presage_platform.errors import InputError, LockedError, QualityError, UsageError, VocabularyError
from presage_platform.postgres.connection import open_database
from presage_platform.settings import Settings
from tests.lib.fhir_export import (
    load,
    observation,
    patient,
    rows_of,
    small_hospital,
    write_ndjson,
)

GOOD = json.dumps(patient("a")).encode()
BAD_LINES = [
    (b'{"resourceType": "Patient", "id": "x"', "not-json"),
    (GOOD + GOOD, "not-json"),
    (b'{"resourceType": "Patient", "id": "\xff"}', "not-json"),
    (b'{"resourceType": "Patient", "id": "a\x00"}', "not-json"),
    (b'{"resourceType": "Patient", "id": "\\ud800"}', "not-json"),
    (b'{"id": "x"}', "no-resource-type"),
    (b'{"resourceType": "Patient"}', "no-id"),
    (b'{"resourceType": "Patient", "id": 7}', "structure"),
    (b'"text"', "not-json"),
    (json.dumps({"resourceType": "Patient", "id": "y"}).encode(), "no-birth-date"),
]


def test_e106_wrong_lines_are_dead_letters_and_the_run_goes_on(hospital: Settings, tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(b"\n".join([GOOD, *(line for line, _ in BAD_LINES)]))
    report = load(hospital, tmp_path / "a.ndjson")
    assert report.total.num_in == 1 + len(BAD_LINES)
    assert report.total.loaded == {"new": 1}
    found = rows_of(hospital, "SELECT split_part(reason, ':', 1) FROM dead_letter ORDER BY line")
    assert [reason for (reason,) in found] == [reason for _, reason in BAD_LINES]
    again = load(hospital, tmp_path / "a.ndjson", full=True)
    assert again.total.num_dead == len(BAD_LINES)
    assert rows_of(hospital, "SELECT count(*), min(attempts) FROM dead_letter") == [(len(BAD_LINES), 2)]


@pytest.mark.parametrize("seed", range(2))
def test_e95_nothing_is_lost_whatever_the_damage(hospital: Settings, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    lines = []
    for resource in small_hospital(8) * 2:
        raw = bytearray(json.dumps(resource).encode())
        for _ in range(rng.choice([0, 0, 1, 3])):
            raw[rng.randrange(len(raw))] = rng.choice(b'{}[]",:0a\\\x00\xff9 ')
        lines.append(bytes(raw).replace(b"\n", b" "))
    (tmp_path / "a.ndjson").write_bytes(b"\n".join(lines))
    report = load(hospital, tmp_path / "a.ndjson")
    assert report.balances
    assert report.total.num_in == len(lines)
    assert report.total.num_dead > 10
    assert report.total.num_loaded > 20


def test_e106_an_array_is_read_element_by_element(hospital: Settings, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([patient("a"), observation("o", "a", "2020-01-01")]))
    assert load(hospital, tmp_path / "a.json").total.loaded == {"new": 2}


def test_e104_too_many_dead_letters_are_a_quality_error(hospital: Settings, tmp_path: Path) -> None:
    path = write_ndjson(tmp_path / "a.ndjson", [patient("a"), observation("o", "nobody", "2020-01-01")])
    with pytest.raises(QualityError, match="max-dead"):
        load(hospital, path, max_dead=0.01)
    assert rows_of(hospital, "SELECT count(*) FROM person") == [(1,)]


def test_e106_a_truncated_archive_is_a_quality_error(hospital: Settings, tmp_path: Path) -> None:
    path = write_ndjson(tmp_path / "a.ndjson.gz", [patient(f"p{n}") for n in range(3000)], "gzip")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(QualityError, match="ends early"):
        load(hospital, path)
    assert rows_of(hospital, "SELECT count(*) > 100 FROM person") == [(True,)]


def test_e17_without_a_vocabulary_nothing_begins(settings: Settings, tmp_path: Path) -> None:
    path = write_ndjson(tmp_path / "a.ndjson", [patient("a")])
    with pytest.raises(VocabularyError, match="platform etl vocabulary"):
        load(settings, path)
    assert rows_of(settings, "SELECT count(*) FROM run") == [(0,)]


def test_e106_nothing_usable_leaves_the_database_as_it_was(hospital: Settings, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="looked for"):
        load(hospital, tmp_path / "x.csv")
    assert rows_of(hospital, "SELECT count(*) FROM run") == [(0,)]


def test_e92_a_second_writer_is_told_who_is_at_work(hospital: Settings, tmp_path: Path) -> None:
    path = write_ndjson(tmp_path / "a.ndjson", [patient("a")])
    told = pytest.raises(LockedError, match="another load is at work")
    with open_database(hospital, command="test") as database, writer_lock(database), told:
        load(hospital, path)


def test_e27_other_policies_need_a_word(hospital: Settings, tmp_path: Path) -> None:
    path = write_ndjson(tmp_path / "a.ndjson", [patient("a")])
    load(hospital, path)
    with pytest.raises(UsageError, match="patient_address"):
        load(hospital, path, policies=("patient_address=none",))
    report = load(hospital, path, policies=("patient_address=none",), accept_policy_change=True)
    assert report.total.loaded == {"updated": 1}
    assert rows_of(hospital, "SELECT location_id FROM person") == [(None,)]
    assert rows_of(hospital, "SELECT count(*) FROM policy_change") == [(1,)]


def test_e97_retry_sends_letters_through_once_more(hospital: Settings, tmp_path: Path) -> None:
    load(hospital, write_ndjson(tmp_path / "a.ndjson", [observation("o", "nobody", "2020-01-01")]))
    report = load(hospital, letters=LetterChoice(reason="person-missing"))
    assert (report.total.num_in, report.total.dead) == (1, {"person-missing": 1})
    assert rows_of(hospital, "SELECT attempts, resolved_by_run FROM dead_letter") == [(2, None)]


def test_e96_ledger_reasons_are_of_the_closed_list(hospital: Settings, tmp_path: Path) -> None:
    from presage_platform.ledger.reasons import is_known

    (tmp_path / "a.ndjson").write_bytes(b"\n".join(line for line, _ in BAD_LINES))
    load(hospital, tmp_path / "a.ndjson", write_ndjson(tmp_path / "b.ndjson", small_hospital()))
    reasons = rows_of(hospital, "SELECT reason FROM dead_letter UNION SELECT reason FROM exclusion")
    assert [reason for (reason,) in reasons if not is_known(reason)] == []


def test_e74_texts_that_are_too_long_or_hold_nul_never_stop_a_run(hospital: Settings, tmp_path: Path) -> None:
    long, nul = "ü" * 300, "a\0b"
    codes = {"coding": [{"system": nul, "code": nul, "display": nul}], "text": nul}
    names: dict[str, object] = {"identifier": [{"system": nul, "value": nul}], "gender": nul}
    write_ndjson(
        tmp_path / "a.ndjson",
        [
            patient("a", **names),
            observation("long", "a", "2020-01-01", code={"text": long}, valueString=long, valueQuantity=None),
            observation("nul", "a", "2020-01-02", code=codes, valueString=nul, valueQuantity=None),
            observation("lost", "a", "2020-01-03", encounter={"reference": f"Encounter/{nul}"}),
        ],
    )
    report = load(hospital, tmp_path / "a.ndjson")
    assert report.total.loaded == {"new": 4}
    texts = "SELECT observation_source_value, value_as_string FROM observation ORDER BY observation_date"
    assert rows_of(hospital, texts) == [(long[:50], long[:60]), ("ab", "ab")]
    assert rows_of(hospital, "SELECT DISTINCT value FROM long_value") == [(long,)]
    cut = rows_of(hospital, "SELECT element, count FROM run_note WHERE kind = 'text-cut' ORDER BY 1")
    assert cut == [
        ("observation.observation_source_value", 1),
        ("observation.value_as_string", 1),
        ("observation.value_source_value", 1),
    ]
