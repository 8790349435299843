"""The archive of awkward series: each fixture writes one case of the verdict table and says what must come of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

from tests.lib.dicom_factory import (
    AXIAL,
    CORONAL,
    IMPLICIT,
    SAGITTAL,
    Spec,
    every,
    sequence,
    setting,
    slice_dataset,
    stored_pixels,
    uid,
    write_dataset,
    write_series,
    write_slice,
)

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"


@dataclass(frozen=True)
class Fixture:
    """How to write one archive, and the verdicts of its candidates (sorted), final where pixels are read."""

    build: Callable[[Path], None]
    verdicts: tuple[str, ...]
    policy: dict[str, Any] = field(default_factory=dict)
    max_volume_gb: float = 8.0

    @property
    def case(self) -> int:
        """Number of the case in the table."""
        return int(self.build.__name__[1:3])


def c01_shuffled(folder: Path) -> None:
    write_series(folder, file_name=lambda k: f"{(k * 5 + 3) % 8:03d}")


def c01_reverse_numbers(folder: Path) -> None:
    write_series(folder, change=lambda data, k: setattr(data, "InstanceNumber", 100 - k))


def c01_no_numbers(folder: Path) -> None:
    write_series(folder, change=setting(InstanceNumber=None))


def c02_axial_plus_coronal(folder: Path) -> None:
    write_series(folder / "a")
    write_series(folder / "b", iop=CORONAL, change=_other_slices("coronal"))


def c03_same_file_twice(folder: Path) -> None:
    paths = write_series(folder)
    shutil.copy(paths[2], folder / "again.dcm")


def c03_uid_conflict(folder: Path) -> None:
    write_series(folder)
    data = slice_dataset(Spec(), 2)
    data.PixelData = bytes(len(data.PixelData))
    data.ContentTime = "235959"
    write_dataset(folder / "other.dcm", data)


def c03_same_position(folder: Path) -> None:
    write_series(folder)
    data = slice_dataset(Spec(), 2)
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = uid("another")
    write_dataset(folder / "other.dcm", data)


def c04_one_gap(folder: Path) -> None:
    write_series(folder, offsets_mm=tuple(2.5 * k for k in range(12) if k != 6))


def c04_end_cut(folder: Path) -> None:
    for path in write_series(folder)[-2:]:
        path.unlink()


def c05_1_4_7mm(folder: Path) -> None:
    write_series(folder, offsets_mm=(0.0, 1.14, 2.28, 6.5, 10.72, 18.1, 25.48))


def c05_head_protocol(folder: Path) -> None:
    write_series(folder, offsets_mm=(0.0, 3.0, 6.0, 9.0, 16.0, 23.0, 30.0, 45.0))


def c06_one_decimal(folder: Path) -> None:
    def change(data: Dataset, k: int) -> None:
        x, y, z = data.ImagePositionPatient
        data.ImagePositionPatient = [x, y, round(float(z) + 0.01 * (k % 3), 1)]

    write_series(folder, step_mm=1.25, num_slices=12, change=change)


def c06_float_noise(folder: Path) -> None:
    def change(data: Dataset, k: int) -> None:
        x, y, z = data.ImagePositionPatient
        data.ImagePositionPatient = [x, y, float(z) + 1e-5 * (-1) ** k]

    write_series(folder, change=change)


def c07_tilt_pos(folder: Path) -> None:
    write_series(folder, change=_tilted(18.5))


def c07_tag_lies(folder: Path) -> None:
    write_series(folder, change=setting(GantryDetectorTilt=15.0))


def c08_single(folder: Path) -> None:
    write_series(folder, num_slices=1)


def c08_three(folder: Path) -> None:
    write_series(folder, num_slices=3)


def c08_nan(folder: Path) -> None:
    write_series(folder, change=lambda data, k: data.pop("ImagePositionPatient") if k == 3 else None)


def c08_zero_stack(folder: Path) -> None:
    write_series(folder, change=setting(ImagePositionPatient=[1.0, 2.0, 3.0]))


def c08_skewed_directions(folder: Path) -> None:
    write_series(folder, change=setting(ImageOrientationPatient=[1.0, 0.0, 0.0, 0.2, 1.0, 0.0]))


def c09_enhanced(folder: Path) -> None:
    data = slice_dataset(Spec(), 0)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = ENHANCED_CT
    data.NumberOfFrames = 4
    data.PixelData = data.PixelData * 4
    data.PerFrameFunctionalGroupsSequence = sequence({}, {}, {}, {})
    write_dataset(folder / "enhanced.dcm", data)


def c10_scout(folder: Path) -> None:
    write_series(folder, num_slices=1, change=setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))


def c10_untyped_scout(folder: Path) -> None:
    write_series(folder, num_slices=1)
    write_series(folder / "b", num_slices=1, iop=SAGITTAL, change=_other_slices("lateral"))


def c11_mip(folder: Path) -> None:
    write_series(folder, change=setting(ImageType=["DERIVED", "SECONDARY", "AXIAL", "MIP"]))


def c11_mpr_coronal(folder: Path) -> None:
    write_series(folder, iop=CORONAL, change=setting(ImageType=["ORIGINAL", "PRIMARY", "MPR"]))


def c11_dose_report(folder: Path) -> None:
    write_series(folder, num_slices=1, change=setting(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]))


def c12_sc(folder: Path) -> None:
    def change(data: Dataset, k: int) -> None:
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
        data.ConversionType = "WSD"

    write_series(folder, change=change)


def c12_burned(folder: Path) -> None:
    write_series(folder, change=setting(BurnedInAnnotation="YES"))


def c13_per_slice(folder: Path) -> None:
    def change(data: Dataset, k: int) -> None:
        data.RescaleSlope, data.RescaleIntercept = (1, -1024) if k % 2 else (2, -1200)
        hu = Spec().slice_hu(k)
        data.PixelData = ((hu + 1024) if k % 2 else (hu // 2 * 2 + 1200) // 2).astype(np.uint16).tobytes()

    write_series(folder, change=change)


def c13_lut(folder: Path) -> None:
    def change(data: Dataset, k: int) -> None:
        del data.RescaleSlope, data.RescaleIntercept, data.RescaleType
        data.ModalityLUTSequence = sequence({"LUTDescriptor": [4096, 0, 16], "ModalityLUTType": "HU"})
        table = (np.arange(4096) * 2).astype(np.uint16)
        data.ModalityLUTSequence[0].add_new("LUTData", "OW", table.tobytes())

    write_series(folder, change=change)


def c13_fractional(folder: Path) -> None:
    write_series(folder, change=setting(RescaleSlope=0.5, RescaleIntercept=-512.25))


def c13_absent(folder: Path) -> None:
    write_series(folder, change=setting(RescaleSlope=None, RescaleIntercept=None))


def c14_signed12(folder: Path) -> None:
    write_series(folder, signed=True, intercept=0.0)


def c14_dirty_high_bits(folder: Path) -> None:
    def change(data: Dataset, k: int) -> None:
        dirty = np.frombuffer(data.PixelData, np.uint16) | np.uint16(0xA000)
        data.PixelData = dirty.tobytes()

    write_series(folder, change=change)


def c14_j2k_sign_mismatch(folder: Path) -> None:
    from openjpeg.utils import encode

    def change(data: Dataset, k: int) -> None:
        # a signed codestream of 12 bits under a header that says unsigned: the bits are what was meant
        bits = np.frombuffer(data.PixelData, np.uint16).reshape(data.Rows, data.Columns)
        signed = (bits.astype(np.int16) << 4 >> 4).astype(np.int16)
        _encapsulated(data, encode(signed, bits_stored=12), "1.2.840.10008.1.2.4.90")

    write_series(folder, rows=48, columns=40, change=change)


def c15_minus2000(folder: Path) -> None:
    def change(data: Dataset, k: int) -> None:
        data.PixelPaddingValue = -2000
        _pad_corner(data, -2000)

    write_series(folder, signed=True, intercept=0.0, bits_stored=16, change=change)


def c15_range(folder: Path) -> None:
    def change(data: Dataset, k: int) -> None:
        data.PixelPaddingValue, data.PixelPaddingRangeLimit = 3000, 3010
        _pad_corner(data, 3005)

    write_series(folder, change=change)


def c15_signed_pad(folder: Path) -> None:
    def change(data: Dataset, k: int) -> None:
        # written as unsigned by mistake: the same bits as -1500
        data.add_new("PixelPaddingValue", "US", 65536 - 1500)
        _pad_corner(data, -1500)

    write_series(folder, signed=True, intercept=0.0, bits_stored=16, change=change)


def c16_mono1(folder: Path) -> None:
    def change(data: Dataset, k: int) -> None:
        data.PhotometricInterpretation = "MONOCHROME1"
        data.PixelData = (4095 - np.frombuffer(data.PixelData, np.uint16)).astype(np.uint16).tobytes()

    write_series(folder, change=change)


def c16_rgb(folder: Path) -> None:
    def change(data: Dataset, k: int) -> None:
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit = 7
        data.PixelData = bytes(data.Rows * data.Columns * 3)

    write_series(folder, change=change)


def c17_unknown_syntax(folder: Path) -> None:
    write_series(folder, change=lambda data, k: _encapsulated(data, b"\0" * 64, "1.2.840.10008.1.2.4.100"))


def c17_lossy(folder: Path) -> None:
    write_series(folder, change=setting(LossyImageCompression="01"))


def c18_short(folder: Path) -> None:
    write_series(folder, num_slices=12, change=lambda data, k: _cut(data, 100) if k == 5 else None)


def c18_empty(folder: Path) -> None:
    write_series(folder, num_slices=12, change=lambda data, k: data.pop("PixelData") if k == 5 else None)


def c18_bad_j2k(folder: Path) -> None:
    from openjpeg.utils import encode

    def change(data: Dataset, k: int) -> None:
        bits = np.frombuffer(data.PixelData, np.uint16).reshape(data.Rows, data.Columns)
        code = encode(bits, bits_stored=12)
        _encapsulated(data, code[:20] + b"\xff" * 40 if k == 5 else code, "1.2.840.10008.1.2.4.90")

    write_series(folder, rows=48, columns=40, num_slices=12, change=change)


def c18_all_cut(folder: Path) -> None:
    write_series(folder, change=every(lambda data: _cut(data, 100)))


def c18_one_pad_byte(folder: Path) -> None:
    spec = Spec(rows=25, columns=21, change=None)

    def change(data: Dataset, k: int) -> None:
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit = 7
        data.RescaleSlope, data.RescaleIntercept = 1, -200
        values = np.clip(spec.slice_hu(k) + 200, 0, 255).astype(np.uint8)
        data.PixelData = values.tobytes() + b"\0"
        data["PixelData"].VR = "OB"

    write_series(folder, rows=25, columns=21, change=change)


def c19_no_preamble(folder: Path) -> None:
    for path in write_series(folder, syntax=IMPLICIT):
        content = path.read_bytes()
        meta_bytes = 12 + int.from_bytes(content[140:144], "little")
        path.write_bytes(content[132 + meta_bytes :])


def c19_text_file(folder: Path) -> None:
    write_series(folder)
    (folder / "notes.dcm").write_text("This is a text of more than one hundred and thirty-two characters. " * 4)


def c20_mixed(folder: Path) -> None:
    write_series(folder, series="one", file_name=lambda k: f"a{k}")
    write_series(folder, series="two", file_name=lambda k: f"b{k}", change=setting(ConvolutionKernel="B70f"))


def c20_scattered(folder: Path) -> None:
    write_series(folder, file_name=lambda k: f"{k % 3}/deep/{k}")


def c21_two_kernels(folder: Path) -> None:
    write_series(folder / "a")
    write_series(folder / "b", change=_other_slices("sharp", ConvolutionKernel="B70f"))


def c21_two_phases(folder: Path) -> None:
    write_series(folder / "a")
    write_series(folder / "b", change=_other_slices("late", AcquisitionNumber=2))


def c22_07x09(folder: Path) -> None:
    write_series(folder, row_step_mm=0.9, column_step_mm=0.7)


def c23_3mm_every_2(folder: Path) -> None:
    write_series(folder, step_mm=2.0, change=setting(SliceThickness=3.0))


def c23_no_thickness(folder: Path) -> None:
    write_series(folder, change=setting(SliceThickness=None))


def c23_zero_thickness(folder: Path) -> None:
    write_series(folder, change=setting(SliceThickness=0.0))


def c24_hfs(folder: Path) -> None:
    write_series(folder)


def c24_ffs(folder: Path) -> None:
    write_series(folder, iop=(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0), change=setting(PatientPosition="FFS"))


def c24_hfp(folder: Path) -> None:
    write_series(folder, iop=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0), change=setting(PatientPosition="HFP"))


def c24_hfdr(folder: Path) -> None:
    write_series(folder, iop=(0.0, 1.0, 0.0, -1.0, 0.0, 0.0), change=setting(PatientPosition="HFDR"))


def c25_short(folder: Path) -> None:
    write_series(folder)


def c26_study_of_six(folder: Path) -> None:
    write_series(folder / "1", series="thick", step_mm=8.0, num_slices=4)
    write_series(folder / "2", series="soft")
    write_series(folder / "3", series="sharp", change=setting(ConvolutionKernel="B70f"))
    write_series(
        folder / "4", series="scout", num_slices=1, change=setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    )
    write_series(folder / "5", series="mpr", iop=CORONAL, change=setting(ImageType=["DERIVED", "SECONDARY", "MPR"]))
    write_series(folder / "6", series="long", num_slices=9)


def c27_iso2022_jp(folder: Path) -> None:
    def change(data: Dataset, k: int) -> None:
        data.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        data.SeriesDescription = "胸部"

    write_series(folder, change=change)


def c27_broken_bytes(folder: Path) -> None:
    for path in write_series(folder, change=setting(SpecificCharacterSet="ISO_IR 192", SeriesDescription="XXXX")):
        path.write_bytes(path.read_bytes().replace(b"XXXX", b"X\xff\xfeX"))


def c28_tz(folder: Path) -> None:
    write_series(folder, change=setting(TimezoneOffsetFromUTC="+0900"))


def c28_dt_only(folder: Path) -> None:
    gone = dict.fromkeys(("StudyTime", "SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime", "ContentDate"))
    write_series(folder, change=setting(AcquisitionDateTime="20210304235500.25-0500", **gone))


def c28_no_date(folder: Path) -> None:
    write_series(folder, change=setting(StudyDate=None, SeriesDate=None, AcquisitionDate=None, ContentDate=None))


def c28_2187(folder: Path) -> None:
    write_series(folder, change=setting(AcquisitionDate="21870304", StudyDate="21870304"))


def c29_two_patients(folder: Path) -> None:
    write_series(folder / "a")
    write_series(folder / "b", patient="somebody else", change=_other_slices("other"))


def c29_empty(folder: Path) -> None:
    write_series(folder, change=setting(StudyInstanceUID="", SeriesInstanceUID="", SOPClassUID="", SOPInstanceUID=""))


def c29_malformed(folder: Path) -> None:
    for path in write_series(folder, change=setting(SeriesInstanceUID="1.2.840.777777")):
        path.write_bytes(path.read_bytes().replace(b"1.2.840.777777", b"1.2.840.777x77"))


def c30_implicit(folder: Path) -> None:
    write_series(folder, syntax=IMPLICIT)


def c30_magnetic_resonance(folder: Path) -> None:
    write_series(folder, change=setting(Modality="MR", SOPClassUID=MR_IMAGE))


def c30_huge(folder: Path) -> None:
    write_series(folder, change=setting(Rows=65535, Columns=65535))


def c30_big_endian(folder: Path) -> None:
    def change(data: Dataset, k: int) -> None:
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()

    write_series(folder, syntax=ExplicitVRBigEndian, change=change)


OK, REJECTED = "ok", "rejected_"

FIXTURES: dict[str, Fixture] = {
    made.build.__name__: made
    for made in (
        Fixture(c01_shuffled, ("ok",)),
        Fixture(c01_reverse_numbers, ("ok",)),
        Fixture(c01_no_numbers, ("ok",)),
        Fixture(c02_axial_plus_coronal, ("ok", "ok")),
        Fixture(c03_same_file_twice, ("ok_dropped_duplicates",)),
        Fixture(c03_uid_conflict, ("rejected_uid_conflict",)),
        Fixture(c03_same_position, ("rejected_duplicate_positions",)),
        Fixture(c04_one_gap, ("rejected_missing_slices",)),
        Fixture(c04_end_cut, ("ok",)),
        Fixture(c05_1_4_7mm, ("rejected_spacing",)),
        Fixture(c05_head_protocol, ("rejected_spacing",)),
        Fixture(c06_one_decimal, ("ok_rounded_positions",)),
        Fixture(c06_float_noise, ("ok",)),
        Fixture(c07_tilt_pos, ("rejected_position_drift",)),
        Fixture(c07_tag_lies, ("ok",)),
        Fixture(c08_single, ("rejected_single_slice",)),
        Fixture(c08_three, ("rejected_too_few_slices",)),
        Fixture(c08_nan, ("rejected_bad_position",)),
        Fixture(c08_zero_stack, ("rejected_bad_position",)),
        Fixture(c08_skewed_directions, ("rejected_bad_orientation",)),
        Fixture(c09_enhanced, ("rejected_functional_groups",)),
        Fixture(c10_scout, ("rejected_localizer",)),
        Fixture(c10_untyped_scout, ("rejected_localizer", "rejected_localizer")),
        Fixture(c11_mip, ("rejected_derived",)),
        Fixture(c11_mpr_coronal, ("rejected_derived",)),
        Fixture(c11_dose_report, ("rejected_derived",)),
        Fixture(c12_sc, ("rejected_secondary_capture",)),
        Fixture(c12_burned, ("rejected_burned_in",)),
        Fixture(c13_per_slice, ("ok",)),
        Fixture(c13_lut, ("ok",)),
        Fixture(c13_fractional, ("ok_rounded_hu",)),
        Fixture(c13_absent, ("rejected_no_rescale",)),
        Fixture(c14_signed12, ("ok",)),
        Fixture(c14_dirty_high_bits, ("ok",)),
        Fixture(c14_j2k_sign_mismatch, ("ok",)),
        Fixture(c15_minus2000, ("ok",)),
        Fixture(c15_range, ("ok",)),
        Fixture(c15_signed_pad, ("ok",)),
        Fixture(c16_mono1, ("ok_inverted",)),
        Fixture(c16_rgb, ("rejected_photometric",)),
        Fixture(c17_unknown_syntax, ("rejected_no_decoder",)),
        Fixture(c17_lossy, ("ok_lossy",)),
        Fixture(c18_short, ("rejected_missing_slices",)),
        Fixture(c18_empty, ("rejected_missing_slices",)),
        Fixture(c18_bad_j2k, ("rejected_missing_slices",)),
        Fixture(c18_all_cut, ("rejected_undecodable",)),
        Fixture(c18_one_pad_byte, ("ok",)),
        Fixture(c19_no_preamble, ("ok",)),
        Fixture(c19_text_file, ("ok",)),
        Fixture(c20_mixed, ("ok", "ok")),
        Fixture(c20_scattered, ("ok",)),
        Fixture(c21_two_kernels, ("ok", "ok")),
        Fixture(c21_two_phases, ("ok", "ok")),
        Fixture(c22_07x09, ("ok",)),
        Fixture(c23_3mm_every_2, ("ok",)),
        Fixture(c23_no_thickness, ("ok",)),
        Fixture(c23_zero_thickness, ("ok",)),
        Fixture(c24_hfs, ("ok",)),
        Fixture(c24_ffs, ("ok",)),
        Fixture(c24_hfp, ("ok",)),
        Fixture(c24_hfdr, ("ok",)),
        Fixture(c25_short, ("rejected_coverage",), {"min_extent_mm": 100.0}),
        Fixture(c26_study_of_six, ("ok", "ok", "ok", "ok", "rejected_derived", "rejected_localizer")),
        Fixture(c27_iso2022_jp, ("ok",)),
        Fixture(c27_broken_bytes, ("ok",)),
        Fixture(c28_tz, ("ok",)),
        Fixture(c28_dt_only, ("ok",)),
        Fixture(c28_no_date, ("ok",)),
        Fixture(c28_2187, ("ok",)),
        Fixture(c29_two_patients, ("rejected_uid_across_patients",)),
        Fixture(c29_empty, ("rejected_missing_uid",)),
        Fixture(c29_malformed, ("ok",)),
        Fixture(c30_implicit, ("ok",)),
        Fixture(c30_magnetic_resonance, ("rejected_not_ct",)),
        Fixture(c30_huge, ("rejected_undecodable",)),
        Fixture(c30_big_endian, ("ok",)),
    )
}

POLICY_FIXTURES: dict[str, Fixture] = {
    "c04_filled": Fixture(c04_one_gap, ("ok_interpolated_gaps",), {"missing": "interpolate"}),
    "c11_allowed": Fixture(c11_mip, ("ok_derived",), {"allow_derived": ("MIP",)}),
    "c12_allowed": Fixture(c12_burned, ("ok",), {"allow_pixel_risk": "checked by hand"}),
    "c17_lossy_refused": Fixture(c17_lossy, ("rejected_no_decoder",), {"lossy": "reject"}),
    "c29_derived": Fixture(c29_empty, ("ok_derived_uid",), {"missing_uid": "derive"}),
    "c30_small_limit": Fixture(c24_hfs, ("rejected_undecodable",), max_volume_gb=1e-6),
}
"""The same archives under another policy."""


def _other_slices(name: str, **elements: Any) -> Callable[[Dataset, int], None]:
    """Return a change that gives the slices of a series UIDs of their own."""

    def change(data: Dataset, k: int) -> None:
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = uid(name, k)
        setting(**elements)(data, k)

    return change


def _tilted(degrees: float) -> Callable[[Dataset, int], None]:
    def change(data: Dataset, k: int) -> None:
        x, y, z = (float(value) for value in data.ImagePositionPatient)
        data.ImagePositionPatient = [x, y + k * 2.5 * np.tan(np.radians(degrees)), z]

    return change


def _encapsulated(data: Dataset, code: bytes, syntax: str) -> None:
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate([code])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True


def _pad_corner(data: Dataset, stored: int) -> None:
    values = np.frombuffer(data.PixelData, np.int16).reshape(data.Rows, data.Columns).copy()
    values[:5, :4] = stored
    data.PixelData = values.tobytes()


def _cut(data: Dataset, num_bytes: int) -> None:
    data.PixelData = data.PixelData[:num_bytes]


__all__ = ["AXIAL", "FIXTURES", "POLICY_FIXTURES", "ExplicitVRLittleEndian", "Fixture", "stored_pixels", "write_slice"]
