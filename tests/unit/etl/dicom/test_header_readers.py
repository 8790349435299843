"""Two readers, one truth: the byte walker agrees with pydicom wherever it is sure, and leaves the rest to it."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from presage_etl.dicom.elements import DEFLATED, Header
from presage_etl.dicom.header import pydicom_header, read_header
from presage_etl.dicom.walker import walk_header
from presage_platform.volumes.catalogue import ReadStatus
from tests.lib.dicom_cases import FIXTURES
from tests.lib.dicom_factory import IMPLICIT, Spec, sequence, setting, write_slice


def walked(path: Path) -> Header | None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return walk_header(descriptor, path.stat().st_size)
    finally:
        os.close(descriptor)


def parsed(path: Path) -> Header:
    with path.open("rb") as file:
        return pydicom_header(file, path.stat().st_size)


def one_slice(folder: Path, **spec: object) -> Path:
    return write_slice(folder, Spec(**spec), 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FIXTURES)
def test_i03_both_readers_agree_on_every_fixture(name: str, tmp_path: Path) -> None:
    FIXTURES[name].build(tmp_path)
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    sure = [(path, header) for path in paths if (header := walked(path)) is not None]
    assert all(header == parsed(path) for path, header in sure)
    expected_unsure = {"c09_enhanced", "c19_no_preamble", "c30_big_endian", "c18_empty", "c19_text_file"}
    assert len(sure) == len(paths) or name in expected_unsure or name == "c27_iso2022_jp"


@pytest.mark.real_data
def test_i03_both_readers_agree_on_every_real_file(real_data: Path) -> None:
    paths = [*sorted((real_data / "chest_ct").rglob("*.dcm")), *sorted((real_data / "ct_j2k").glob("CT.*"))]
    assert len(paths) == 144
    assert all(walked(path) == parsed(path) for path in paths)


def nested(data: Dataset, k: int) -> None:
    """Add sequences of undefined length, one in another, before and after wanted elements."""
    inner = sequence({"CodeValue": "1"})
    data.ProcedureCodeSequence = sequence({"CodeMeaning": "x", "PurposeOfReferenceCodeSequence": inner})
    data.RequestAttributesSequence = sequence({"ScheduledProcedureStepID": "7"}, {})
    for element in (data["ProcedureCodeSequence"], data["RequestAttributesSequence"]):
        element.is_undefined_length = True
        for item in element.value:
            item.is_undefined_length_sequence_item = True


@pytest.mark.parametrize("syntax", [Spec().syntax, IMPLICIT])
def test_i03_the_walker_skips_sequences_of_undefined_length(syntax: str, tmp_path: Path) -> None:
    path = one_slice(tmp_path, syntax=syntax, change=nested)
    header = walked(path)
    assert header is not None
    assert header == parsed(path)
    assert header.values["kernel"] == ["B40f"]


def test_i03_a_header_longer_than_the_prefix_is_read_on(tmp_path: Path) -> None:
    path = one_slice(tmp_path, change=lambda data, k: data.add_new(0x00091010, "OB", bytes(200_000)))
    header = walked(path)
    assert header is not None and header.pixel_offset is not None and header.pixel_offset > 200_000
    assert header == parsed(path)


def identified(data: Dataset, k: int) -> None:
    data.OtherPatientIDsSequence = sequence({"PatientID": "second"}, {"PatientID": "third"})
    data.IssuerOfAccessionNumberSequence = sequence({"LocalNamespaceEntityID": "RIS"})


def test_i03_sequences_that_are_read_are_left_to_pydicom(tmp_path: Path) -> None:
    path = one_slice(tmp_path, change=identified)
    assert walked(path) is None
    status, header = read_header(path, path.stat().st_size)
    assert status is ReadStatus.OK and header is not None
    assert header.values["other_patient_ids"] == ["second", "third"]
    assert header.values["accession_issuer"] == ["RIS"]


def test_i03_big_endian_is_left_to_pydicom(tmp_path: Path) -> None:
    path = one_slice(tmp_path, syntax=ExplicitVRBigEndian)
    assert walked(path) is None
    status, header = read_header(path, path.stat().st_size)
    assert status is ReadStatus.OK and header is not None
    assert (header.values["rows"], header.values["ipp"]) == ([24], parsed(one_slice(tmp_path)).values["ipp"])


def deflated(path: Path, extra: bytes = b"") -> Path:
    content = path.read_bytes()
    meta_end = 144 + int.from_bytes(content[140:144], "little")
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = compressor.compress(content[meta_end:] + extra) + compressor.flush()
    meta = content[:meta_end].replace(b"1.2.840.10008.1.2.1\0", DEFLATED.encode())
    grown = len(DEFLATED) - 20
    meta = meta[:140] + (int.from_bytes(meta[140:144], "little") + grown).to_bytes(4, "little") + meta[144:]
    at = meta.index(DEFLATED.encode()) - 2
    path.write_bytes(meta[:at] + len(DEFLATED).to_bytes(2, "little") + meta[at + 2 :] + body)
    return path


def test_i03_deflated_headers_are_inflated(tmp_path: Path) -> None:
    plain = parsed(one_slice(tmp_path))
    path = deflated(one_slice(tmp_path))
    status, header = read_header(path, path.stat().st_size)
    assert status is ReadStatus.OK and header is not None
    assert header.values == plain.values
    assert header.pixel_offset is None and header.has_pixels


def test_i05_empty_sop_uids_come_from_the_meta_information(tmp_path: Path) -> None:
    path = one_slice(tmp_path, change=setting(SOPInstanceUID=None, SOPClassUID=None))
    header = walked(path)
    assert header is not None
    assert "sop_uid" not in header.values
    assert header.meta_sop_uid and header.meta_sop_class_uid


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", ReadStatus.NOT_DICOM),
        (b"\x08\0\x05\0" + bytes(100), ReadStatus.NOT_DICOM),  # under 132 bytes: no second try
        (b"\x08\0" + os.urandom(3) + bytes(500), ReadStatus.NOT_DICOM),
        (b"PK\x03\x04" + bytes(500), ReadStatus.ARCHIVE_SKIPPED),
        (b"\x1f\x8b" + bytes(500), ReadStatus.ARCHIVE_SKIPPED),
        (bytes(257) + b"ustar" + bytes(300), ReadStatus.ARCHIVE_SKIPPED),
        (bytes(128) + b"DICM" + bytes(5), ReadStatus.UNREADABLE),
        (b"plain text " * 40, ReadStatus.NOT_DICOM),
    ],
    ids=["empty", "short", "noise", "zip", "gzip", "tar", "only magic", "text"],
)
def test_i04_what_is_no_dicom_is_counted_as_what_it_is(content: bytes, status: ReadStatus, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert read_header(path, len(content))[0] is status


def test_i100_sequences_nested_without_end_do_not_exhaust_the_reader(tmp_path: Path) -> None:
    item = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    content = one_slice(tmp_path).read_bytes()
    at = content.index(b"\x28\x00\x02\x00US")
    path = tmp_path / "deep"
    path.write_bytes(content[:at] + item * 10_000)
    assert read_header(path, path.stat().st_size)[0] is ReadStatus.UNREADABLE


def test_a_directory_of_a_medium_is_no_image(tmp_path: Path) -> None:
    """Its file meta information says what it is; its data set has nothing that a catalogue keeps."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MediaStorageDirectoryStorage, UID("1.2.3")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory = Dataset()
    directory.file_meta, directory.FileSetID, directory.FileSetConsistencyFlag = meta, "MEDIUM", 0
    path = tmp_path / "DICOMDIR"
    directory.save_as(path, enforce_file_format=True)
    assert read_header(path, path.stat().st_size)[0] is ReadStatus.NOT_IMAGE
