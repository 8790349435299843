"""What the reader makes of files: forms, references within Bundles, damage."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from presage_etl.fhir.inputs import find_files
from presage_etl.fhir.reader import Entry, partitions, read
from presage_etl.fhir.reference import reference_key, settle
from presage_platform.errors import InputError
from tests.lib.fhir_export import observation, patient, write_bundle, write_ndjson


def entries(path: Path) -> list[Entry]:
    return [entry for partition in partitions(find_files([path])) for entry in read(partition)]


@pytest.mark.parametrize(
    ("name", "data", "form"),
    [
        ("a.json", b'{"resourceType": "Patient"}\n{"resourceType": "Patient"}\n', "ndjson"),
        ("a.json", b'{\n "resourceType": "Patient"\n}\n', "json"),
        ("a.ndjson", b'{"resourceType": "Patient"}', "ndjson"),
        ("a.txt", b'\xef\xbb\xbf  {"resourceType": "Bundle", "entry": []}', "json"),
        ("a.bin", gzip.compress(b'{"a": 1}\n{"a": 2}\n'), "ndjson"),
        ("a.json", b"[]", "json"),
        ("a.csv", b"id,name\n1,2\n", "unusable"),
    ],
)
def test_e1_forms_are_told_by_content(tmp_path: Path, name: str, data: bytes, form: str) -> None:
    (tmp_path / name).write_bytes(data)
    write_ndjson(tmp_path / "z.ndjson", [patient("a")])
    assert find_files([tmp_path])[0].form == form


def test_e1_a_folder_is_walked_without_hidden_files_and_links_out_of_it(tmp_path: Path) -> None:
    write_ndjson(tmp_path / "in" / "b" / "x.ndjson", [patient("a")])
    write_ndjson(tmp_path / "in" / "a.ndjson", [patient("a")])
    write_ndjson(tmp_path / "in" / ".hidden.ndjson", [patient("a")])
    write_ndjson(tmp_path / "out.ndjson", [patient("a")])
    (tmp_path / "in" / "link.ndjson").symlink_to(tmp_path / "out.ndjson")
    assert [file.path.name for file in find_files([tmp_path / "in"])] == ["a.ndjson", "x.ndjson"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"<?xml version='1.0'?><Patient/>", "XML"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"person_id,year\n1,2\n", "table"),
        (b"", "empty file"),
    ],
)
def test_e106_input_that_is_no_fhir_is_named(tmp_path: Path, data: bytes, told: str) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(InputError, match=told):
        find_files([tmp_path / "x"])


def test_e106_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no FHIR resource found"):
        find_files([tmp_path / "absent"])


def test_e106_a_truncated_archive_gives_its_lines_and_one_dead_letter(tmp_path: Path) -> None:
    path = write_ndjson(tmp_path / "a.ndjson.gz", [observation(f"o{n}", "a", "2020") for n in range(2000)], "gzip")
    path.write_bytes(path.read_bytes()[:-400])
    found = entries(path)
    assert found[-1].dead == "truncated-file"
    assert len(found) > 100
    assert all(entry.dead is None for entry in found[:-1])


def test_e18_references_within_a_bundle_become_keys(tmp_path: Path) -> None:
    found = entries(write_bundle(tmp_path / "b.json", [patient("a"), observation("o", "a", "2020")]))
    assert json.loads(found[1].raw)["subject"]["reference"] == "Patient/a"


def test_e18_an_entry_without_id_is_named_by_its_urn(tmp_path: Path) -> None:
    person = {"resourceType": "Patient", "birthDate": "1950"}
    event = {"resourceType": "Observation", "subject": {"reference": "urn:uuid:0a"}}
    entry = [{"fullUrl": "urn:uuid:0a", "resource": person}, {"fullUrl": "urn:uuid:0b", "resource": event}]
    (tmp_path / "b.json").write_text(json.dumps({"resourceType": "Bundle", "type": "batch", "entry": entry}))
    first, second = entries(tmp_path / "b.json")
    assert json.loads(first.raw)["id"] == "0a"
    assert json.loads(second.raw)["subject"]["reference"] == "Patient/0a"


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("Patient/a", "Patient/a"),
        ("Patient/a/_history/3", "Patient/a"),
        ("https://own.org/fhir/Patient/a", "Patient/a"),
        ("https://other.org/fhir/Patient/a", "https://other.org/fhir|Patient/a"),
        ("Patient?identifier=urn:mrn|7", "Patient?urn:mrn|<7>"),
        ("urn:uuid:1", "urn:uuid:1"),
        ("somebody", None),
    ],
)
def test_e18_forms_of_references(written: str, key: str | None) -> None:
    assert reference_key(written, frozenset({"https://own.org/fhir"}), lambda value: f"<{value}>") == key


def test_e18_own_base_is_taken_off() -> None:
    raw = b'{"subject": {"reference": "https://own.org/fhir/Patient/a/_history/2"}, "x": "https://own.org/fhir/Patient/b"}'
    settled = settle(raw, {}, frozenset({"https://own.org/fhir"}))
    assert settled == b'{"subject": {"reference": "Patient/a"}, "x": "https://own.org/fhir/Patient/b"}'


@pytest.mark.parametrize("compress", [False, True])
def test_e3_a_large_bundle_is_cut_between_its_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: bool
) -> None:
    from presage_etl.fhir import large_bundle, reader

    events = [observation(f"o{n}", "a", "2020", note=[{"text": '} ] "entry": [ \\" {'}]) for n in range(40)]
    path = write_bundle(tmp_path / "b.json", [*events, patient("a")])
    if compress:
        path.write_bytes(gzip.compress(path.read_bytes()))
    whole = entries(path)
    for module in (large_bundle, reader):
        monkeypatch.setattr(module, "BLOCK_BYTES", 2_000)
    monkeypatch.setattr(reader, "MAX_RESOURCE_BYTES", 5_000)
    cut = list(partitions(find_files([path])))
    assert len(cut) > 5
    found = [entry for partition in cut for entry in read(partition)]
    assert [(entry.raw, entry.offset) for entry in found] == [(entry.raw, entry.offset) for entry in whole]
    assert json.loads(found[0].raw)["subject"]["reference"] == "Patient/a"
