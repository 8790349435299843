"""The thirty cases, one by one: what the voxels, the split or the reasons must be, not only the verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from presage_etl.dicom.choice import rank
from presage_platform.settings import ChoiceSettings
from presage_platform.volumes.catalogue import ReadStatus
from tests.lib.dicom_archive import Archive, scan_archive, scan_fixture
from tests.lib.dicom_cases import FIXTURES, POLICY_FIXTURES, SECONDARY_CAPTURE
from tests.lib.dicom_factory import CORONAL, Spec, setting, slice_dataset, write_dataset, write_series


def archive_of(name: str, folder: Path) -> Archive:
    return scan_fixture({**FIXTURES, **POLICY_FIXTURES}[name], folder / name)


def volume_of(name: str, folder: Path) -> np.ndarray:
    archive = archive_of(name, folder)
    array = archive.native(archive.only).array
    assert array is not None
    return array


def reasons_of(name: str, folder: Path) -> str:
    return " | ".join(archive_of(name, folder).only.reasons)


@pytest.mark.parametrize("name", ["c01_shuffled", "c01_reverse_numbers", "c01_no_numbers"])
def test_i22_case_01_numbers_and_names_never_order_slices(name: str, tmp_path: Path) -> None:
    np.testing.assert_array_equal(volume_of(name, tmp_path), Spec().volume_hu())


def test_i22_case_02_orientations_are_split(tmp_path: Path) -> None:
    archive = archive_of("c02_axial_plus_coronal", tmp_path)
    assert [candidate.split_by for candidate in archive.candidates] == [("orientation",)] * 2
    shapes = {archive.native(candidate).array.shape for candidate in archive.candidates}  # type: ignore[union-attr]
    assert shapes == {(8, 24, 20)}
    normals = {tuple(np.abs(one.geometry.affine_ras[:3, 2]).round(3)) for one in archive.candidates if one.geometry}
    assert normals == {(0.0, 0.0, 2.5), (0.0, 2.5, 0.0)}


def test_i22_case_03_a_copy_is_dropped_and_named(tmp_path: Path) -> None:
    archive = archive_of("c03_same_file_twice", tmp_path)
    volume = archive.native(archive.only)
    np.testing.assert_array_equal(volume.array, Spec().volume_hu())
    assert [unused.reason for unused in archive.only.unused] == ["duplicate"]
    assert "dropped_duplicates" in volume.actions


def test_i22_case_03_one_uid_for_two_images_is_refused(tmp_path: Path) -> None:
    archive = archive_of("c03_uid_conflict", tmp_path)
    volume = archive.native(archive.only)
    assert volume.verdict == "rejected_uid_conflict"
    assert volume.array is None


def test_i22_case_03_two_slices_at_one_position_are_never_stacked(tmp_path: Path) -> None:
    candidate = archive_of("c03_same_position", tmp_path).only
    assert "duplicate_positions: 1 slices repeat a position" in candidate.reasons
    assert candidate.geometry is None


def test_i22_case_04_the_gap_is_named(tmp_path: Path) -> None:
    assert "gap of 5.0 mm after slice 6; step 2.5 mm" in reasons_of("c04_one_gap", tmp_path)


def test_i22_case_04_a_gap_may_be_filled_and_shows(tmp_path: Path) -> None:
    archive = archive_of("c04_filled", tmp_path)
    volume = archive.native(archive.only)
    truth = Spec(num_slices=12).volume_hu()
    assert volume.array is not None and volume.valid is not None
    assert volume.invented == (6,)
    np.testing.assert_array_equal(np.delete(volume.array, 6, axis=0), np.delete(truth, 6, axis=0))
    np.testing.assert_array_equal(volume.array[6], np.rint((truth[5] + truth[7]) / 2))
    np.testing.assert_array_equal(volume.valid.all(axis=(1, 2)), np.arange(12) != 6)
    assert len(volume.slices) == len(volume.pixel_hashes) == 11


def test_i22_case_04_a_wide_gap_is_never_filled(tmp_path: Path) -> None:
    write_series(tmp_path / "archive", offsets_mm=tuple(2.5 * k for k in range(14) if k not in (6, 7)))
    archive = scan_archive(tmp_path / "archive", tmp_path / "work", missing="interpolate")
    assert archive.only.verdict == "rejected_missing_slices"


def test_i22_case_04_a_cut_at_the_end_is_no_gap(tmp_path: Path) -> None:
    np.testing.assert_array_equal(volume_of("c04_end_cut", tmp_path), Spec().volume_hu()[:6])


def test_i22_case_05_varying_steps_are_refused_with_their_numbers(tmp_path: Path) -> None:
    assert "not_supported_yet: varying steps from 1.14 to 7.38 mm" in reasons_of("c05_1_4_7mm", tmp_path)
    assert "steps from 3.00 to 15.00 mm, at most 10.00 mm" in reasons_of("c05_head_protocol", tmp_path)


def test_i22_case_06_rounded_positions_give_the_mean_step(tmp_path: Path) -> None:
    archive = archive_of("c06_one_decimal", tmp_path)
    assert archive.only.geometry is not None
    assert archive.only.geometry.spacing_mm[2] == pytest.approx(1.25, abs=0.01)
    assert archive.only.actions == ["rounded_positions"]


def test_i22_case_07_tilt_is_refused_by_positions_not_by_its_tag(tmp_path: Path) -> None:
    assert "not_supported_yet: gantry tilt of 18.50 degrees" in reasons_of("c07_tilt_pos", tmp_path)
    np.testing.assert_array_equal(volume_of("c07_tag_lies", tmp_path), Spec().volume_hu())


def test_i22_case_08_too_few_slices_say_how_many(tmp_path: Path) -> None:
    assert reasons_of("c08_single", tmp_path).startswith("single_slice: 1 slice")
    assert "3 slices, at least 4" in reasons_of("c08_three", tmp_path)
    assert "all 8 slices stand at one position" in reasons_of("c08_zero_stack", tmp_path)


def test_i22_case_09_multi_frame_is_refused_not_stacked(tmp_path: Path) -> None:
    archive = archive_of("c09_enhanced", tmp_path)
    assert "not_supported_yet: multi-frame object of up to 4 frames" in " ".join(archive.only.reasons)
    with pytest.raises(ValueError, match="it has no volume"):
        archive.native(archive.only)


def test_i22_case_10_untyped_scouts_are_known_by_their_directions(tmp_path: Path) -> None:
    archive = archive_of("c10_untyped_scout", tmp_path)
    assert all("2 images of differing orientation" in " ".join(one.reasons) for one in archive.candidates)


def test_i22_case_11_derived_series_need_permission(tmp_path: Path) -> None:
    assert "derived: 8 of 8 slices by image type" in reasons_of("c11_mip", tmp_path)
    assert archive_of("c11_allowed", tmp_path).only.verdict == "ok_derived"


def test_i22_case_12_text_in_pixels_needs_a_reason(tmp_path: Path) -> None:
    refused = archive_of("c12_burned", tmp_path).only
    assert refused.verdict == "rejected_burned_in"
    allowed = archive_of("c12_allowed", tmp_path).only
    assert allowed.verdict == "ok"
    assert any(reason.startswith("burned_in") for reason in allowed.reasons)


def test_i22_case_13_each_slice_has_its_own_slope(tmp_path: Path) -> None:
    truth = Spec().volume_hu()
    truth[::2] = truth[::2] // 2 * 2
    np.testing.assert_array_equal(volume_of("c13_per_slice", tmp_path), truth)


def test_i22_case_13_a_modality_lut_is_applied(tmp_path: Path) -> None:
    stored = Spec().volume_hu() + 1024
    np.testing.assert_array_equal(volume_of("c13_lut", tmp_path), stored * 2)


def test_i22_case_13_fractions_round_half_to_even_and_say_so(tmp_path: Path) -> None:
    archive = archive_of("c13_fractional", tmp_path)
    volume = archive.native(archive.only)
    stored = Spec().volume_hu() + 1024
    np.testing.assert_array_equal(volume.array, np.rint(stored * 0.5 - 512.25))
    assert "rounded_hu: at most 0.250 HU" in volume.actions


@pytest.mark.parametrize("name", ["c14_signed12", "c14_dirty_high_bits"])
def test_i22_case_14_only_the_stored_bits_count(name: str, tmp_path: Path) -> None:
    np.testing.assert_array_equal(volume_of(name, tmp_path), Spec().volume_hu())


def test_i22_case_14_a_signed_codestream_is_read_as_the_header_says(tmp_path: Path) -> None:
    np.testing.assert_array_equal(volume_of("c14_j2k_sign_mismatch", tmp_path), Spec(rows=48, columns=40).volume_hu())


@pytest.mark.parametrize("name", ["c15_minus2000", "c15_range", "c15_signed_pad"])
def test_i22_case_15_padding_is_air_and_invalid(name: str, tmp_path: Path) -> None:
    archive = archive_of(name, tmp_path)
    volume = archive.native(archive.only)
    truth = Spec().volume_hu()
    truth[:, :5, :4] = -1024
    np.testing.assert_array_equal(volume.array, truth)
    assert volume.valid is not None
    assert not volume.valid[:, :5, :4].any()
    assert volume.valid.sum() == truth.size - 8 * 20
    assert "padding_to_air: 160 voxels" in volume.actions


def test_i22_case_16_monochrome1_is_turned_over(tmp_path: Path) -> None:
    np.testing.assert_array_equal(volume_of("c16_mono1", tmp_path), Spec().volume_hu())


def test_i22_case_17_an_unknown_syntax_is_refused_before_reading(tmp_path: Path) -> None:
    assert "8 of 8 slices in a transfer syntax without decoder" in reasons_of("c17_unknown_syntax", tmp_path)


@pytest.mark.parametrize("name", ["c18_short", "c18_empty", "c18_bad_j2k"])
def test_i22_case_18_a_slice_without_pixels_is_a_gap(name: str, tmp_path: Path) -> None:
    archive = archive_of(name, tmp_path)
    volume = archive.native(archive.only)
    assert volume.verdict == "rejected_missing_slices"
    assert any(unused.reason.startswith("unusable") for unused in volume.unused)
    assert len(volume.slices) == 11


def test_i22_case_18_a_pad_byte_is_legal(tmp_path: Path) -> None:
    truth = np.clip(Spec(rows=25, columns=21).volume_hu() + 200, 0, 255) - 200
    np.testing.assert_array_equal(volume_of("c18_one_pad_byte", tmp_path), truth)


def test_i22_case_19_a_missing_preamble_is_no_obstacle_and_a_text_is_no_image(tmp_path: Path) -> None:
    np.testing.assert_array_equal(volume_of("c19_no_preamble", tmp_path), Spec().volume_hu())
    statuses = archive_of("c19_text_file", tmp_path).instances["read_status"].to_pylist()
    assert sorted(statuses) == [ReadStatus.NOT_DICOM] + [ReadStatus.OK] * 8


def test_i22_case_20_folders_do_not_group(tmp_path: Path) -> None:
    assert sorted(len(one.slices) for one in archive_of("c20_mixed", tmp_path).candidates) == [8, 8]
    np.testing.assert_array_equal(volume_of("c20_scattered", tmp_path), Spec().volume_hu())


@pytest.mark.parametrize(("name", "split"), [("c21_two_kernels", "kernel"), ("c21_two_phases", "acquisition_number")])
def test_i21_case_21_reconstructions_under_one_uid_are_split_in_sight(name: str, split: str, tmp_path: Path) -> None:
    archive = archive_of(name, tmp_path)
    assert [one.split_by for one in archive.candidates] == [(split,)] * 2
    assert len({one.series_key for one in archive.candidates}) == 2


def test_i20_acquisition_number_alone_does_not_split(tmp_path: Path) -> None:
    write_series(tmp_path / "archive", change=lambda data, k: setattr(data, "AcquisitionNumber", k // 4))
    assert scan_archive(tmp_path / "archive", tmp_path / "work").only.split_by == ()


def test_i22_case_22_row_step_comes_first(tmp_path: Path) -> None:
    geometry = archive_of("c22_07x09", tmp_path).only.geometry
    assert geometry is not None
    assert geometry.spacing_mm == pytest.approx((0.7, 0.9, 2.5))


@pytest.mark.parametrize("name", ["c23_3mm_every_2", "c23_no_thickness", "c23_zero_thickness"])
def test_i22_case_23_thickness_is_only_reported(name: str, tmp_path: Path) -> None:
    candidate = archive_of(name, tmp_path).only
    step_mm = 2.0 if name == "c23_3mm_every_2" else 2.5
    assert candidate.geometry is not None
    assert candidate.geometry.spacing_mm[2] == pytest.approx(step_mm)
    told = any(reason.startswith("thickness_differs") for reason in candidate.reasons)
    assert told == (name == "c23_3mm_every_2")


def test_i22_case_24_one_anatomy_however_the_patient_lay(tmp_path: Path) -> None:
    blob_mm = set()
    for name in ("c24_hfs", "c24_ffs", "c24_hfp", "c24_hfdr"):
        archive = archive_of(name, tmp_path)
        volume = archive.native(archive.only)
        assert volume.array is not None
        z, y, x = np.nonzero((volume.array > 280) & (volume.array < 320))  # the blob of the patient's left
        centre = volume.affine_ras @ np.array([x.mean(), y.mean(), z.mean(), 1.0])
        blob_mm.add(tuple(np.round(centre[:3] / 2.0)))
    (place,) = blob_mm
    assert place[0] > 0  # RAS: the left of a patient has negative x in RAS, and the phantom stands right of zero


def test_i22_case_25_a_short_stack_is_refused_only_by_policy(tmp_path: Path) -> None:
    assert "extent 20.0 mm, at least 100.0 mm" in reasons_of("c25_short", tmp_path)


def test_i22_case_26_the_longest_soft_stack_represents_the_study(tmp_path: Path) -> None:
    archive = archive_of("c26_study_of_six", tmp_path)
    rank(archive.candidates, ChoiceSettings())
    ranked = sorted((one for one in archive.candidates if one.rank), key=lambda one: one.rank or 0)
    assert [len(one.slices) for one in ranked] == [9, 8, 8, 4]
    assert [one.rank_reason for one in ranked] == [
        "longer extent: 22.5 mm before 20 mm",
        "kernel: soft (B40f) before sharp (B70f)",
        "slice step: 2.5 mm before 8.0 mm",
        "slice step: 8.0 mm after 2.5 mm",
    ]


def test_i14_case_27_text_that_cannot_be_decoded_never_refuses_an_image(tmp_path: Path) -> None:
    assert set(archive_of("c27_iso2022_jp", tmp_path).instances["series_description"].to_pylist()) == {"胸部"}
    assert set(archive_of("c27_broken_bytes", tmp_path).instances["series_description"].to_pylist()) == {
        "X\ufffd\ufffdX"
    }


def test_i22_case_28_no_date_is_no_fault_of_the_image(tmp_path: Path) -> None:
    candidate = archive_of("c28_no_date", tmp_path).only
    assert (candidate.image_dt, candidate.image_dt_precision) == (None, None)
    assert "no_date: no date in the header" in candidate.reasons


def test_i22_case_29_missing_uids_are_derived_only_by_policy(tmp_path: Path) -> None:
    assert archive_of("c29_empty", tmp_path).only.verdict == "rejected_missing_uid"
    candidate = archive_of("c29_derived", tmp_path).only
    assert candidate.study_uid.startswith("2.25.") and candidate.series_uid.startswith("2.25.")
    assert "derived_uid" in candidate.actions
    np.testing.assert_array_equal(volume_of("c29_derived", tmp_path / "again"), Spec().volume_hu())


def test_i22_case_29_uids_of_two_patients_are_refused_on_both_sides(tmp_path: Path) -> None:
    write_series(tmp_path / "archive/a", series="one")
    write_series(tmp_path / "archive/b", study="other", series="two", patient="somebody else")
    for path in sorted((tmp_path / "archive/b").iterdir())[:1]:
        own = (tmp_path / "archive/a/000.dcm").read_bytes()
        path.write_bytes(own.replace(b"patient ", b"stranger"))
    archive = scan_archive(tmp_path / "archive", tmp_path / "work")
    refused = [one for one in archive.candidates if one.verdict == "rejected_uid_across_patients"]
    assert len(refused) == 1 and len(refused[0].slices) == 8
    assert len(archive.candidates) == 2


def test_i22_case_29_a_malformed_uid_is_kept_and_told(tmp_path: Path) -> None:
    candidate = archive_of("c29_malformed", tmp_path).only
    assert candidate.series_uid == "1.2.840.777x77"
    assert any(reason.startswith("uid_malformed") for reason in candidate.reasons)


def test_i22_case_30_every_syntax_of_one_series_gives_one_volume(tmp_path: Path) -> None:
    for name in ("c30_implicit", "c30_big_endian"):
        np.testing.assert_array_equal(volume_of(name, tmp_path), Spec().volume_hu())


def test_i30_oblique_and_coronal_affines_map_to_the_truth(tmp_path: Path) -> None:
    angle = np.radians(25.0)
    oblique = (np.cos(angle), np.sin(angle), 0.0, -np.sin(angle) * 0.8, np.cos(angle) * 0.8, 0.6)
    for number, iop in enumerate((CORONAL, oblique)):
        spec = Spec(iop=tuple(float(value) for value in iop), series=f"s{number}")
        write_series(tmp_path / f"a{number}", spec)
        archive = scan_archive(tmp_path / f"a{number}", tmp_path / f"w{number}")
        volume = archive.native(archive.only)
        np.testing.assert_allclose(volume.affine_ras, spec.affine_ras(), atol=1e-9)
        np.testing.assert_array_equal(volume.array, spec.volume_hu())


def test_i22_case_03_two_images_of_one_uid_are_no_copies(tmp_path: Path) -> None:
    write_series(tmp_path / "a")
    data = slice_dataset(Spec(), 2)
    data.PixelData = bytes(len(data.PixelData))  # nothing in the header tells the two apart
    write_dataset(tmp_path / "a" / "other.dcm", data)
    archive = scan_archive(tmp_path / "a", tmp_path / "w")
    volume = archive.native(archive.only)
    assert volume.verdict == "rejected_uid_conflict"
    assert volume.reasons == ["uid_conflict: 1 SOP UIDs stand for two images"]
    assert volume.actions == []


def test_i22_case_12_text_in_a_capture_is_said(tmp_path: Path) -> None:
    """A conversion type does not hide that text is burned in."""
    capture = setting(SOPClassUID=SECONDARY_CAPTURE, ConversionType="WSD", BurnedInAnnotation="YES")
    write_series(tmp_path / "a", change=capture)
    candidate = scan_archive(tmp_path / "a", tmp_path / "w").only
    assert candidate.verdict == "rejected_burned_in"
    assert {reason.split(":")[0] for reason in candidate.reasons} == {"burned_in", "pixel_risk", "secondary_capture"}


def test_i22_case_18_of_pixels_that_nobody_read_nothing_is_said(tmp_path: Path) -> None:
    archive = archive_of("c18_all_cut", tmp_path)
    words = {reason.split(":")[0] for reason in archive.native(archive.only).reasons}
    assert words == {"undecodable"}
