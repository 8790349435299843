"""The DICOM files of the synthetic hospital (rules S27 to S30), read by pydicom and by the product's own reader."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from presage_etl.synthetic.identifiers import uid_root
from presage_etl.synthetic.lives.persons import draw_person
from presage_etl.synthetic.parameters import read_parameters
from presage_etl.synthetic.pictures.detector import field_of_view
from presage_etl.synthetic.pictures.dicom import Series, series_files, stored_values
from presage_etl.synthetic.pictures.scanner import FORMS, draw_acquisition
from presage_etl.synthetic.pictures.syntaxes import SYNTAXES, Syntax, drawn_syntax, is_writable
from presage_etl.synthetic.shards import orphan_scan
from presage_platform.volumes.catalogue import Verdict
from tests.lib.dicom_archive import Archive, scan_archive
from tests.lib.synthetic import truth

# DICOM PS3.3 2024b, table A.3-1: type 1 and type 2 attributes of the mandatory modules of the CT Image IOD.
TYPE_1 = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "Modality", "SeriesInstanceUID", "FrameOfReferenceUID",
    "ImageType", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelData", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient",
    "RescaleIntercept", "RescaleSlope",
)  # fmt: skip
TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber", "SeriesNumber", "PositionReferenceIndicator", "Manufacturer", "InstanceNumber",
    "SliceThickness", "KVP", "AcquisitionNumber",
)  # fmt: skip
META = (
    "FileMetaInformationGroupLength", "FileMetaInformationVersion", "MediaStorageSOPClassUID",
    "MediaStorageSOPInstanceUID", "TransferSyntaxUID", "ImplementationClassUID",
)  # fmt: skip


def slices(hospital: Path, row: dict[str, Any]) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted((hospital / "dicom" / row["folder"]).iterdir())]


@pytest.fixture(scope="module")
def archive(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """The whole archive through the product's reader."""
    return scan_archive(hospital / "dicom", tmp_path_factory.mktemp("reader") / "work")


def test_s27_every_file_holds_what_the_ct_image_iod_demands(hospital: Path) -> None:
    root = uid_root(1)
    uids, frames = set(), {}
    for row in truth(hospital, "scans"):
        for image in slices(hospital, row):
            assert [name for name in TYPE_1 if image.get(name) in (None, "")] == []
            assert [name for name in TYPE_2 if name not in image] == []
            assert [name for name in META if name not in image.file_meta] == []
            assert image.SOPClassUID == pydicom.uid.CTImageStorage
            assert image.ImageType[0] in ("ORIGINAL", "DERIVED")
            assert image.HighBit == image.BitsStored - 1 < image.BitsAllocated
            assert image.SOPInstanceUID == image.file_meta.MediaStorageSOPInstanceUID
            assert (image.IssuerOfPatientID, image.StudyID != "") == ("SYNTHETIC-HOSPITAL", True)
            assert "DeidentificationMethod" not in image
            assert "PatientIdentityRemoved" not in image
            assert str(image.PatientName).startswith("SYNTHETIC^")
            for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
                assert image[name].value.is_valid
                assert str(image[name].value).startswith(f"{root}.")
                assert len(image[name].value) <= 64
            uids.add(image.SOPInstanceUID)
            frames.setdefault(image.StudyInstanceUID, set()).add(image.FrameOfReferenceUID)
    assert len(uids) == sum(row["shape_zyx"][0] for row in truth(hospital, "scans"))
    assert all(len(found) == 1 for found in frames.values())


def test_s28_positions_and_pixels_are_those_of_the_truth(hospital: Path) -> None:
    for row in truth(hospital, "scans"):
        images = slices(hospital, row)
        direction = np.array(images[0].ImageOrientationPatient, dtype=float)
        across, down = direction[:3], direction[3:]
        np.testing.assert_allclose([across @ across, down @ down, across @ down], [1, 1, 0], atol=1e-6)
        normal = np.cross(across, down)
        images.sort(key=lambda image: float(normal @ np.array(image.ImagePositionPatient, dtype=float)))
        volume = np.stack([read_slice(image) for image in images])
        assert list(volume.shape) == row["shape_zyx"]
        assert hashlib.sha256(volume.tobytes()).hexdigest() == row["volume_sha256"]
        affine = np.array(row["affine_ras"]).reshape(4, 4)
        turn = np.array([-1.0, -1.0, 1.0])
        for place, image in enumerate(images):
            corner = (affine @ [0, 0, place, 1])[:3] * turn
            np.testing.assert_allclose(np.array(image.ImagePositionPatient, dtype=float), corner, atol=1e-4)
        spacing = [float(value) for value in images[0].PixelSpacing]  # row step, column step
        np.testing.assert_allclose(affine[:3, 0] * turn, across * spacing[1], atol=1e-6)
        np.testing.assert_allclose(affine[:3, 1] * turn, down * spacing[0], atol=1e-6)


def read_slice(image: pydicom.Dataset) -> NDArray[np.int16]:
    """HU by pydicom's decoders; padding becomes -1024 before anything else happens to it."""
    stored = image.pixel_array.astype(np.int32)
    values = stored * int(image.RescaleSlope) + int(image.RescaleIntercept)
    if "PixelPaddingValue" in image:
        values[stored == image.PixelPaddingValue] = -1024
    return values.astype(np.int16)


def test_s28_order_thickness_and_names_say_nothing(hospital: Path) -> None:
    rows = truth(hospital, "scans")
    orders = {row["instance_order"]: row for row in rows}
    assert set(orders) >= {"ascending", "descending", "shuffled"}
    differs = [abs(row["thickness_mm"] - abs(row["affine_ras"][10])) > 0.01 for row in rows]
    assert 0.05 < np.mean(differs) < 0.6
    for order, row in orders.items():
        images = slices(hospital, row)  # by file name
        along = np.array([float(image.ImagePositionPatient[2]) for image in images])
        assert abs(np.corrcoef(along, np.arange(len(along)))[0, 1]) < 0.6
        if order != "absent":
            numbers = np.array([int(image.InstanceNumber) for image in images]) * (-1 if row["feet_first"] else 1)
            rank = np.corrcoef(along, numbers)[0, 1]
            assert {"ascending": rank > 0.99, "descending": rank < -0.99, "shuffled": abs(rank) < 0.9}[order]


def test_s29_every_variety_is_drawn_with_its_share() -> None:
    parameters = read_parameters("small")
    made = [draw_acquisition(parameters, index, 0, male=True) for index in range(400)]
    assert {one.manufacturer for one in made} == {"SIEMENS", "GE MEDICAL SYSTEMS", "TOSHIBA", "Philips"}
    assert {"B30f", "STANDARD", "FC08", "B"} <= {one.kernel for one in made}
    shares = {
        "feet first": (np.mean([one.feet_first for one in made]), 0.2),
        "not square": (np.mean([one.grid.spacing[0] != one.grid.spacing[1] for one in made]), 0.1),
        "contrast": (np.mean([one.contrast for one in made]), 0.25),
        "padded": (np.mean([one.stored.padded for one in made]), 0.22),
        "two windows": (np.mean([one.num_windows == 2 for one in made]), 0.4),
        "offset": (np.mean([one.has_offset for one in made]), 0.5),
        "ISO 2022": (np.mean(["ISO 2022" in one.character_set for one in made]), 0.15),
        "thickness is not spacing": (np.mean([one.thickness_mm != one.grid.spacing[2] for one in made]), 0.3),
    }
    for name, (found, wanted) in shares.items():
        assert found == pytest.approx(wanted, abs=4 * np.sqrt(wanted * (1 - wanted) / len(made))), name
    forms = Counter((one.stored.signed, one.stored.bits, one.stored.intercept) for one in made)
    assert set(forms) == {(True, 16, 0), (True, 16, -1024), (False, 12, -1024), (False, 16, -1024)}


def test_s29_headers_say_what_truth_says(hospital: Path) -> None:
    for row in truth(hospital, "scans"):
        image = slices(hospital, row)[0]
        assert image.PatientPosition == ("FFS" if row["feet_first"] else "HFS")
        assert ("ContrastBolusAgent" in image) == row["contrast"]
        assert (image.PixelRepresentation, image.BitsStored) == (int(row["signed"]), row["bits_stored"])
        assert image.RescaleIntercept == row["rescale_intercept"]
        assert image.get("PixelPaddingValue") == (-2000 if row["padded"] else None)
        named = image.get("SpecificCharacterSet", "")
        assert ("\\".join(named) if not isinstance(named, str) else named) == row["character_set"]
        assert ("TimezoneOffsetFromUTC" in image) == ("-" in image.AcquisitionDateTime)
        assert pydicom.multival.MultiValue is not type(image.WindowCenter) or len(image.WindowCenter) == 2
        assert image.file_meta.TransferSyntaxUID == SYNTAXES[row["transfer_syntax"]].uid
        if row["character_set"] == "\\ISO 2022 IR 87":
            assert image.SeriesDescription == "胸部"
            assert image.PatientName.ideographic == "合成^試験"


@pytest.mark.parametrize("form", [form for form, _ in FORMS], ids=str)
def test_s29_every_stored_form_gives_the_same_hounsfield_units_back(form: Any) -> None:
    slice_hu = np.array([[-1024, -1000, 0], [55, 3071, -1024]], dtype=np.int16)
    outside = np.array([[True, False, False], [False, False, False]]) if form.padded else None
    stored = stored_values(slice_hu, form, outside)
    assert stored.dtype == (np.int16 if form.signed else np.uint16)
    assert int(stored.max()) < 2 ** (form.bits - form.signed)
    back = stored.astype(np.int32) + form.intercept
    if form.padded:
        assert stored[0, 0] == -2000
        back[stored == -2000] = -1024
    np.testing.assert_array_equal(back, slice_hu)


def test_s30_shares_of_the_transfer_syntaxes_add_up() -> None:
    assert sum(syntax.share for syntax in SYNTAXES.values()) == pytest.approx(1.0)
    drawn = Counter(drawn_syntax(quantile) for quantile in (np.arange(1000) + 0.5) / 1000)
    assert {name: drawn[name] / 1000 for name in ("explicit", "implicit", "rle", "deflated")} == pytest.approx(
        {"explicit": 0.55, "implicit": 0.20, "rle": 0.10, "deflated": 0.02}
    )


# JPEG-LS knows no sign: such series are stored unsigned
WRITTEN = [(name, form) for name in SYNTAXES for form, _ in FORMS if not (name == "jpeg_ls" and form.signed)]


@pytest.mark.parametrize(("name", "form"), WRITTEN, ids=str)
def test_s30_each_syntax_decodes_to_the_identical_slice(name: str, form: Any) -> None:
    """Whole files of one series, whatever was drawn for it, by pydicom's own choice of decoder."""
    parameters = read_parameters("small", grid=(40, 33, 32))
    person = draw_person(parameters, 3)
    made = replace(draw_acquisition(parameters, 3, 0, male=True), syntax=name, stored=form)
    rng = np.random.default_rng(5)
    volume = rng.integers(-1024, 3072, (2, 33, 40)).astype(np.int16)
    volume[1] = -1024  # one run after the other
    volume[1, 10:12, 5:30] = 40
    if form.padded:
        volume[:, ~field_of_view(made.grid)] = -1024
    files = list(series_files(Series(parameters, person, 0, orphan_scan(person).t0, made, volume)))
    for (_, content), wanted in zip(files, volume, strict=True):
        image = pydicom.dcmread(BytesIO(content))
        assert image.file_meta.TransferSyntaxUID == SYNTAXES[name].uid
        np.testing.assert_array_equal(read_slice(image), wanted)


def test_s30_a_missing_encoder_gives_plain_files_and_truth_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    is_writable.cache_clear()
    monkeypatch.setitem(SYNTAXES, "jpeg_ls", Syntax("1.2.840.10008.1.2.4.80", 0.08, "no_such_encoder"))
    parameters = read_parameters("small")
    made = [draw_acquisition(parameters, index, 0, male=True) for index in range(60)]
    is_writable.cache_clear()
    wanted = [one for one in made if one.wanted_syntax == "jpeg_ls"]
    assert wanted
    assert {one.syntax for one in wanted} == {"explicit"}
    assert all(one.syntax == one.wanted_syntax for one in made if one not in wanted)


def test_s30_the_reader_accepts_every_series_and_finds_the_volume_of_the_truth(
    hospital: Path, archive: Archive
) -> None:
    rows = {row["series_uid"]: row for row in truth(hospital, "scans")}
    assert len(archive.candidates) == len(rows)
    for candidate in archive.candidates:
        row = rows[candidate.series_uid]
        assert candidate.verdict == Verdict.OK, candidate.reasons
        native = archive.native(candidate)
        assert native.array is not None
        assert hashlib.sha256(native.array.tobytes()).hexdigest() == row["volume_sha256"], row["transfer_syntax"]
        np.testing.assert_allclose(native.affine_ras, np.array(row["affine_ras"]).reshape(4, 4), atol=1e-3)
        assert (native.valid is not None) == row["padded"]


MEASURE = """
import sys
from pathlib import Path
from presage_etl.synthetic.pictures import dicom
from presage_etl.synthetic.pictures.images import ImageTask, make_images
from presage_etl.synthetic.parameters import read_parameters

headers = []
encode = dicom.series_header
dicom.series_header = lambda *arguments: headers.append(1) or encode(*arguments)
parameters = read_parameters("demo", grid=(96, 96, 48))
result = make_images(ImageTask(Path(sys.argv[1]), parameters, tuple((5_000_000 + n, 0) for n in range(12))))
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(len(headers), len(result.files), status["VmHWM"].split()[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_s26_a_worker_keeps_to_300_mb_and_encodes_one_header_a_series(tmp_path: Path) -> None:
    """Speed itself is `benchmarks/bench_synthetic.py`; here what it rests upon."""
    run = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True)
    headers, files, peak_kb = (int(word) for word in run.stdout.split())
    assert (headers, files) == (12, 12 * 48)
    assert peak_kb < 300 * 1024
