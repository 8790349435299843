"""Bulk manifests are read as lists of files, never as resources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from presage_etl.fhir.inputs import find_files
from presage_platform.errors import InputError


def export(folder: Path, **changes: Any) -> Path:
    (folder / "Patient.000.ndjson").write_text(
        '{"resourceType":"Patient","id":"a","meta":{"lastUpdated":"2020-01-01"}}\n'
    )
    (folder / "OperationOutcome.ndjson").write_text('{"resourceType":"OperationOutcome","id":"o"}\n')
    document = {
        "transactionTime": "2023-12-31T23:59:00-05:00",
        "request": "https://synthetic.example/$export",
        "output": [{"type": "Patient", "url": "https://synthetic.example/files/Patient.000.ndjson", "count": 1}],
        "error": [{"type": "OperationOutcome", "url": "https://synthetic.example/OperationOutcome.ndjson"}],
        **changes,
    }
    path = folder / "manifest.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("given", ["manifest", "folder"])
def test_e5_a_manifest_names_files_and_the_day_of_the_export(tmp_path: Path, given: str) -> None:
    path = export(tmp_path)
    files = find_files([path if given == "manifest" else tmp_path])
    assert [file.path.name for file in files] == ["Patient.000.ndjson"]
    assert files[0].last_updated == "2023-12-31"


def test_e5_a_listed_file_that_is_missing_ends_the_run(tmp_path: Path) -> None:
    path = export(tmp_path)
    (tmp_path / "Patient.000.ndjson").unlink()
    with pytest.raises(InputError, match="type Patient that is not beside it"):
        find_files([path])


@pytest.mark.parametrize("given", ["manifest", "folder"])
def test_e5_deletions_are_files_that_come_after_every_other(tmp_path: Path, given: str) -> None:
    (tmp_path / "a-deleted.ndjson").write_text(
        '{"resourceType":"Bundle","type":"transaction","entry":[{"request":{"method":"DELETE","url":"Patient/b"}}]}\n'
    )
    path = export(tmp_path, deleted=[{"type": "Bundle", "url": "https://synthetic.example/a-deleted.ndjson"}])
    files = find_files([path if given == "manifest" else tmp_path])
    assert {file.path.name: file.is_removal for file in files} == {
        "a-deleted.ndjson": True,
        "Patient.000.ndjson": False,
    }
    assert {file.last_updated for file in files} == {"2023-12-31"}


def test_e5_a_missing_file_of_deletions_ends_the_run(tmp_path: Path) -> None:
    path = export(tmp_path, deleted=[{"type": "Bundle", "url": "https://synthetic.example/d.ndjson"}])
    with pytest.raises(InputError, match="type Bundle that is not beside it"):
        find_files([path])


def test_e5_another_json_object_is_no_manifest(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text('{"resourceType": "Patient", "id": "a"}')
    assert [file.path for file in find_files([path])] == [path]
