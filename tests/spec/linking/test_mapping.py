"""The crosswalk file: what is read, what is refused and how it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from presage_etl.linking.mapping import read_crosswalk
from presage_etl.linking.study import Study
from presage_platform.errors import InputError, SettingsError
from presage_platform.ledger.identity import keyed_hash
from presage_platform.settings import LinkSettings

SECRET = b"key"


def test_i80_headers_may_carry_the_prefix_and_columns_may_be_declared(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("dicom_study_uid,person_id\nurn:oid:1.2,7\n")
    (tmp_path / "b.csv").write_text("note,MRN,Who\nx,0042,Patient/a\n")
    declared = {
        "kind": "csv",
        "path": str(tmp_path / "b.csv"),
        "columns": {"MRN": "patient_id", "Who": "fhir_patient_id"},
    }
    crosswalk = read_crosswalk(tmp_path / "a.csv", LinkSettings(mapping=(declared,)), SECRET)
    assert crosswalk.find(Study(1, "1.2")) == {("person_id", "7")}
    assert crosswalk.find(Study(2, "1.3", patient_key=keyed_hash(SECRET, " 0042\0"))) == {("fhir_patient_id", "a")}
    assert crosswalk.find(Study(3, "1.3", patient_key=keyed_hash(SECRET, "42"))) == set()
    assert crosswalk.num_unused == 0


def test_i84_no_plain_identifier_is_kept_and_leading_zeros_only_go_by_policy(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("patient_id,identifier\n0042,Ford\n")
    kept = read_crosswalk(tmp_path / "a.csv", LinkSettings(), SECRET)
    assert "0042" not in repr(kept) and "Ford" not in repr(kept)
    assert ("patient_id", keyed_hash(SECRET, "0042")) in kept.targets
    stripped = read_crosswalk(tmp_path / "a.csv", LinkSettings(strip_leading_zeros=True), SECRET)
    assert ("patient_id", keyed_hash(SECRET, "42")) in stripped.targets


@pytest.mark.parametrize("kind", ["sql", "filename"])
def test_i80_an_adapter_that_is_not_there_is_refused_by_name(kind: str) -> None:
    with pytest.raises(SettingsError, match=f"{kind!r} is not read by this release"):
        read_crosswalk(None, LinkSettings(mapping=({"kind": kind, "path": "x"},)), SECRET)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbfstudy_uid,person_id\n", "byte order mark"),
        (b"study_uid;person_id\n1;2\n", "semicolons"),
        (b"study_uid,name\n1,Trillian\n", "0 columns name the person"),
        (b"study_uid,patient_id,person_id\n1,2,3\n", "2 columns name the image"),
        (b"study_uid,person_id\n1,2\n1,2,Trillian\n", "line 3: has 3 columns, the header 2"),
        (b"study_uid,person_id\nTrillian,\n", "line 2 column 2: is empty"),
        (b"study_uid,person_id\n1,\xff\n", "line 2: is not UTF-8"),
        (b'study_uid,person_id\n"1,Trillian\n', "quotes do not close"),
    ],
)
def test_i100_a_bad_mapping_names_file_line_and_remedy_and_no_content(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "map.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_crosswalk(path, LinkSettings(), b"key")
    assert "map.csv" in str(caught.value) and "Trillian" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_crosswalk(tmp_path / "absent.csv", LinkSettings(), b"key")
