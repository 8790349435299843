"""What is planted in the FHIR export, and that nothing else changes with it (S38, S3)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from presage_etl.synthetic.planted import fhir as planted_fhir
from presage_etl.synthetic.planted.fhir import CASES, COMMON, Case
from presage_platform.errors import IntegrityError
from presage_platform.ledger.reasons import is_known
from tests.lib.synthetic import EXPORT, make, truth

ALL = {"fhir_all": True, "dicom_all": False}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("planted") / "h", modes=("fhir", "omop"), defects=ALL)


def test_s38_every_reason_is_one_that_the_ledger_knows() -> None:
    for case in CASES:
        assert (case.reason is None) == (case.expected == "loaded"), case.kind
        assert case.reason is None or is_known(case.reason), case.kind
        assert case.rows == 0 or case.expected == "loaded", case.kind


def test_s38_a_reason_that_the_ledger_does_not_know_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    invented = Case("invented", CASES[0].make, "dead", "bad-weather")
    monkeypatch.setattr(planted_fhir, "CASES", (invented,))
    with pytest.raises(IntegrityError, match="bad-weather"):
        make(tmp_path / "h", modes=("fhir",), defects=ALL)


def test_s38_each_kind_is_planted_once_where_the_truth_says(planted: Path) -> None:
    rows = truth(planted, "planted_fhir")
    of_case = {case.kind: case for case in CASES}
    bad = [row for row in rows if (row["expected"], row["reason"]) == (of_case[row["kind"]][2:4])]
    assert sorted(row["kind"] for row in bad) == sorted(of_case)
    for row in rows:
        line = (planted / EXPORT / row["file"]).read_bytes().split(b"\n")[row["line"] - 1]
        if row["resource"] is None:
            with pytest.raises(json.JSONDecodeError):
                json.loads(line)
            continue
        resource = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
        assert f"{resource['resourceType']}/{resource['id']}" == row["resource"]
    assert {row["kind"]: row["rows"] for row in bad} == {case.kind: case.rows for case in CASES}


def test_s38_the_defects_are_what_their_names_say(planted: Path) -> None:
    where = {row["kind"]: row for row in truth(planted, "planted_fhir")}
    content = {kind: (planted / EXPORT / row["file"]).read_bytes() for kind, row in where.items()}
    assert content["byte_order_mark"].startswith(b"\xef\xbb\xbf{")
    assert content["blank_line"].startswith(b"\n{")
    assert content["carriage_returns"].endswith(b"}\r\n")
    assert where["wrong_type_in_file"]["file"].startswith("Procedure.")
    assert where["wrong_type_in_file"]["resource"].startswith("Observation/")
    assert len(content["long_line"].split(b"\n")[where["long_line"]["line"] - 1]) > 5 * 2**20
    text = json.loads(content["long_unicode_text"].split(b"\n")[0])["code"]["text"]
    assert len(text) == 300
    assert not text.isascii()


def test_s38_the_manifest_counts_planted_lines_too(planted: Path) -> None:
    manifest = json.loads((planted / EXPORT / "manifest.json").read_text())
    listed = {entry["url"].rsplit("/", 1)[1]: entry["count"] for entry in manifest["output"]}
    for name in {row["file"] for row in truth(planted, "planted_fhir")}:
        lines = [line for line in (planted / EXPORT / name).read_bytes().splitlines() if line.strip()]
        assert listed[name] == len(lines)


def test_s38_planting_changes_no_other_resource_and_no_label(hospital: Path, planted: Path) -> None:
    extra = 0
    for path in (planted / EXPORT).iterdir():
        if path.name.split(".")[1][3:].startswith("x"):
            extra += 1
        elif path.name != "manifest.json":
            assert path.read_bytes() == (hospital / EXPORT / path.name).read_bytes()
    assert extra > 5
    for name in ("true_labels", "onsets", "persons", "visits"):
        assert truth(planted, name) == truth(hospital, name)


def test_s38_a_rate_gives_that_share_of_persons_a_companion_and_the_same_ones_for_any_number_of_workers(
    tmp_path: Path,
) -> None:
    rate = {"fhir_rate": 0.5, "dicom_rate": 0.0}
    one = make(tmp_path / "one", modes=("fhir",), defects=rate, workers=1)
    two = make(tmp_path / "two", modes=("fhir",), defects=rate, workers=2)
    rows = truth(one, "planted_fhir")
    assert rows == truth(two, "planted_fhir")
    hosts = {row["resource"].split("/")[1][:8] for row in rows if row["resource"]}
    assert 6 <= len(hosts) <= 18
    assert {row["kind"] for row in rows} <= {case.kind for case in COMMON}
    for path in (one / EXPORT).iterdir():
        assert path.read_bytes() == (two / EXPORT / path.name).read_bytes()
