"""Native volumes against dcm2niix and highdicom, voxel for voxel, on synthetic and on real series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from presage_etl.dicom.choice import rank
from presage_platform.settings import ChoiceSettings
from tests.lib.dicom_archive import Archive, scan_archive, scan_fixture
from tests.lib.dicom_cases import FIXTURES
from tests.lib.nifti_oracle import DCM2NIIX, assert_same_volume, canonical, dcm2niix_volume, highdicom_volume

needs_dcm2niix = pytest.mark.skipif(DCM2NIIX is None, reason="dcm2niix is not installed")

GOOD = (
    "c01_shuffled", "c06_float_noise", "c13_per_slice", "c14_signed12", "c22_07x09", "c23_3mm_every_2", "c24_hfs",
    "c24_ffs", "c24_hfp", "c24_hfdr", "c30_implicit",
)  # fmt: skip
CHEST = ("A0001_philips_5mm", "A0002_siemens_8mm_B40f", "A0002_siemens_8mm_B70f")


def ours(archive: Archive) -> object:
    volume = archive.native(archive.only)
    assert volume.array is not None
    return canonical(volume.array, volume.affine_ras)


# dcm2niix masks 12 signed bits without extending their sign; highdicom reads them as we do
@needs_dcm2niix
@pytest.mark.parametrize("name", [name for name in GOOD if name != "c14_signed12"])
def test_i39_synthetic_series_equal_dcm2niix(name: str, tmp_path: Path) -> None:
    archive = scan_fixture(FIXTURES[name], tmp_path)
    assert_same_volume(ours(archive), dcm2niix_volume(tmp_path / "archive", tmp_path / "nii"))


@pytest.mark.filterwarnings("ignore::UserWarning")  # highdicom's remarks on the headers of small fixtures
@pytest.mark.parametrize("name", GOOD)
def test_i39_synthetic_series_equal_highdicom(name: str, tmp_path: Path) -> None:
    archive = scan_fixture(FIXTURES[name], tmp_path)
    array, affine = highdicom_volume(sorted(p for p in (tmp_path / "archive").rglob("*") if p.is_file()))
    assert_same_volume(ours(archive), canonical(array, affine))


@pytest.mark.real_data
@needs_dcm2niix
@pytest.mark.parametrize("series", CHEST)
def test_i39_real_series_equal_dcm2niix(series: str, real_data: Path, tmp_path: Path) -> None:
    archive = scan_archive(real_data / "chest_ct" / series, tmp_path / "work")
    assert_same_volume(ours(archive), dcm2niix_volume(real_data / "chest_ct" / series, tmp_path / "nii"))


@pytest.mark.real_data
@pytest.mark.parametrize("series", CHEST)
def test_i39_real_series_equal_highdicom(series: str, real_data: Path, tmp_path: Path) -> None:
    archive = scan_archive(real_data / "chest_ct" / series, tmp_path / "work")
    array, affine = highdicom_volume(sorted((real_data / "chest_ct" / series).glob("*.dcm")))
    assert_same_volume(ours(archive), canonical(array, affine))


@pytest.mark.real_data
def test_i116_the_chest_series_are_what_is_known_of_them(real_data: Path, tmp_path: Path) -> None:
    archive = scan_archive(real_data / "chest_ct", tmp_path / "work")
    statuses = archive.instances["read_status"].to_pylist()
    assert (statuses.count("ok"), statuses.count("not_dicom"), len(statuses)) == (124, 2, 126)
    assert [one.verdict for one in archive.candidates] == ["ok"] * 3
    found = sorted(
        (len(one.slices), *(round(step, 4) for step in one.geometry.spacing_mm[1:])) for one in archive.candidates
    )  # type: ignore[union-attr]
    assert found == [(30, 0.6465, 8.0), (30, 0.6465, 8.0), (64, 0.8418, 5.0)]
    assert len({one.study_uid for one in archive.candidates}) == 2
    rank(archive.candidates, ChoiceSettings())
    chosen = {one.attributes["kernel"][0]: one.rank_reason for one in archive.candidates if one.rank == 1}
    assert chosen == {"L": "only candidate", "B40f": "kernel: soft (B40f) before sharp (B70f)"}
    linking = archive.candidates[0].attributes
    assert linking["accession_key"] is None and linking["issuer"] is None and linking["patient_key"]
    assert {one.attributes["birth_year"] for one in archive.candidates} == {2007 - 58, 2007 - 53}


@pytest.mark.real_data
@needs_dcm2niix
def test_i116_the_compressed_series_needs_derived_uids_and_equals_dcm2niix(real_data: Path, tmp_path: Path) -> None:
    refused = scan_archive(real_data / "ct_j2k", tmp_path / "refused")
    assert refused.only.verdict == "rejected_missing_uid"
    archive = scan_archive(real_data / "ct_j2k", tmp_path / "work", missing_uid="derive")
    candidate = archive.only
    assert candidate.verdict == "ok_derived_uid"
    assert candidate.attributes["uid_from_meta"] and candidate.attributes["kernel"] == ["Br38f", "3"]
    assert candidate.image_dt_source == "AcquisitionDateTime"
    assert candidate.geometry is not None and candidate.geometry.spacing_mm[2] == pytest.approx(2.0)
    assert any(reason.startswith("thickness_differs: thickness 3.00 mm, step 2.00 mm") for reason in candidate.reasons)
    assert_same_volume(ours(archive), dcm2niix_volume(real_data / "ct_j2k", tmp_path / "nii"))


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore::UserWarning")  # highdicom's remarks on a header with empty UIDs
def test_i116_a_mended_copy_of_the_compressed_series_equals_highdicom(real_data: Path, tmp_path: Path) -> None:
    copies = []
    for path in sorted((real_data / "ct_j2k").glob("CT.*")):
        data = pydicom.dcmread(path)
        # highdicom refuses empty UIDs: the copy takes them from its meta information, and two that are made up
        data.SOPClassUID, data.SOPInstanceUID = data.file_meta.MediaStorageSOPClassUID, path.name[3:]
        data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.3.4", "1.2.3.4.5"
        copies.append(tmp_path / path.name)
        data.save_as(copies[-1])
    archive = scan_archive(real_data / "ct_j2k", tmp_path / "work", missing_uid="derive")
    array, affine = highdicom_volume(copies)
    assert_same_volume(ours(archive), canonical(array, affine))
    assert np.isfinite(array).all()
