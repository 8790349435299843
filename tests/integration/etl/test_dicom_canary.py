"""Nothing of a person leaves the header: planted sentinels are in no catalogue, ledger row, log, warning or message."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from presage_etl.dicom.choice import rank
from presage_etl.dicom.explain import explain_series
from presage_etl.dicom.instances import read_instances
from presage_etl.dicom.registry import register
from presage_etl.dicom.scan import scan
from presage_etl.dicom.series import candidates
from presage_platform.postgres.connection import open_database
from presage_platform.settings import Settings
from tests.lib.dicom_archive import image_settings, scan_archive
from tests.lib.dicom_factory import sequence, write_series

CANARY = "zqx"
TEXTS = (
    "PatientName", "OtherPatientNames", "PatientAddress", "PatientTelephoneNumbers", "PatientComments", "MilitaryRank",
    "ReferringPhysicianName", "PerformingPhysicianName", "NameOfPhysiciansReadingStudy", "OperatorsName",
    "InstitutionName", "InstitutionAddress", "StationName", "DeviceSerialNumber", "StudyDescription",
    "AdmittingDiagnosesDescription", "ImageComments", "AdditionalPatientHistory", "PatientBirthName", "Occupation",
    "PatientMotherBirthName", "RequestingPhysician", "TextValue", "PatientID", "AccessionNumber", "OtherPatientIDs",
)  # fmt: skip
BIRTH_DATE = "19531127"


def sentinel(number: int) -> str:
    return f"{CANARY}{number:02d}k"


def planted(data: Dataset, k: int) -> None:
    for number, keyword in enumerate(TEXTS):
        setattr(data, keyword, sentinel(number))
    data.PatientBirthDate = BIRTH_DATE
    data.RequestAttributesSequence = sequence({"ScheduledProcedureStepDescription": sentinel(50)})
    data.OtherPatientIDsSequence = sequence({"PatientID": sentinel(51)})
    block = data.private_block(0x0011, sentinel(52), create=True)
    block.add_new(0x01, "LO", sentinel(53))
    block.add_new(0x02, "UT", sentinel(54))
    data.add_new(0x60000010, "US", 8)
    data.add_new(0x60003000, "OW", sentinel(55).encode() * 2)


def broken(data: Dataset, k: int) -> None:
    """Make every way to complain about a value complain about a sentinel."""
    planted(data, k)
    data.AcquisitionNumber = None
    for keyword, vr in (
        ("SliceThickness", "LO"),
        ("RescaleSlope", "LO"),
        ("InstanceNumber", "LO"),
        ("StudyDate", "LO"),
    ):
        data.add_new(keyword, vr, sentinel(60))


def assert_clean(text: str) -> None:
    assert CANARY not in text
    assert BIRTH_DATE not in text and "1953-11-27" not in text


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("change", [planted, broken])
def test_i11_no_sentinel_reaches_catalogue_log_or_message(
    change: object, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    write_series(tmp_path / "archive", change=change)
    archive = scan_archive(tmp_path / "archive", tmp_path / "work")
    messages = repr(archive.candidates) + explain_series(archive.settings, archive.only.series_key)
    if archive.only.verdict.status == "ok":
        volume = archive.native(archive.only)
        messages += repr((volume.reasons, volume.actions, volume.decoder))
    assert_clean(messages)
    assert_clean(repr(archive.instances.to_pylist()))
    for path in archive.settings.workspace.rglob("*"):
        assert path.is_dir() or CANARY.encode() not in path.read_bytes()
    assert_clean(caplog.text)
    shown = capsys.readouterr()
    assert_clean(shown.out + shown.err)


def test_i11_no_sentinel_reaches_the_ledger(settings: Settings, tmp_path: Path) -> None:
    write_series(tmp_path / "archive", change=planted)
    scan([tmp_path / "archive"], settings, 1)
    found = candidates(read_instances(settings.catalogue_dir), settings.imaging.series)
    rank(found, settings.imaging.choice)
    with open_database(settings, command="test") as database:
        register(database, found, 1)
        with database.connect() as connection:
            dump = "".join(
                repr(connection.execute(f"SELECT * FROM {table}").fetchall())
                for table in ("image_study", "image_series", "study_accession")
            )
    assert found[0].series_key in dump
    assert_clean(dump)
    assert "000.dcm" not in dump


def test_i12_a_path_is_shown_on_request_only(tmp_path: Path) -> None:
    write_series(tmp_path / "archive")
    archive = scan_archive(tmp_path / "archive", tmp_path / "work")
    assert "000.dcm" in explain_series(archive.settings, archive.only.series_key[:8])
    stale = tmp_path / "archive/000.dcm"
    stale.write_bytes(stale.read_bytes() + b"\0")
    with pytest.raises(Exception, match="gone or has changed") as caught:
        archive.native(archive.only)
    assert "000.dcm" not in str(caught.value)
    assert image_settings(tmp_path / "work")
