"""Stored values to Hounsfield units."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from presage_etl.dicom.candidate import SliceRef
from presage_etl.dicom.hounsfield import SliceCounts, hounsfield, stored_values
from tests.lib.dicom_archive import scan_archive
from tests.lib.dicom_factory import write_series


@pytest.fixture(scope="module")
def ref(tmp_path_factory: pytest.TempPathFactory) -> SliceRef:
    folder = tmp_path_factory.mktemp("slices")
    write_series(folder / "archive", num_slices=4)
    return scan_archive(folder / "archive", folder / "work").only.slices[0]


def convert(values: list[int], ref: SliceRef, dtype: type = np.uint16) -> tuple[list[int], SliceCounts, list[bool]]:
    raw = np.array([values], dtype)
    counts, out = SliceCounts(), np.empty(raw.shape, np.int16)
    invalid = hounsfield(stored_values(raw, ref, counts), ref, None, counts, out)
    return out[0].tolist(), counts, ([False] * len(values) if invalid is None else invalid[0].tolist())


def test_i43_whole_numbers_stay_whole(ref: SliceRef) -> None:
    assert convert([0, 1024, 4095], ref)[0] == [-1024, 0, 3071]


def test_i43_high_bits_are_masked_and_counted(ref: SliceRef) -> None:
    values, counts, _ = convert([0xF400, 0x0400], ref)
    assert values == [0, 0]
    assert counts.dirty_high_bits == 1


def test_i43_signs_extend_from_the_stored_bits(ref: SliceRef) -> None:
    signed = replace(ref, pixel_representation=1, rescale_intercept=0.0)
    assert convert([0x0FFF, 0x07FF, 0x0C00], signed)[0] == [-1, 2047, -1024]


def test_i43_halves_round_to_even(ref: SliceRef) -> None:
    halves = replace(ref, rescale_slope=0.5, rescale_intercept=0.0)
    values, counts, _ = convert([1, 3, 5, 4], halves)
    assert values == [0, 2, 2, 2]
    assert counts.max_rounding == 0.5


def test_i43_values_outside_int16_are_clipped_and_counted(ref: SliceRef) -> None:
    steep = replace(ref, rescale_slope=100.0, rescale_intercept=0.0)
    values, counts, _ = convert([4095, 10], steep)
    assert values == [32767, 1000]
    assert counts.clipped == 1


def test_i45_values_below_air_are_air_and_invalid_even_undeclared(ref: SliceRef) -> None:
    values, counts, invalid = convert([0, 1024], replace(ref, rescale_intercept=-2000.0))
    assert values == [-1024, -976]
    assert invalid == [True, False]
    assert (counts.below_air, counts.source_min) == (1, -2000)


def test_i45_padding_is_found_among_stored_values_before_inversion(ref: SliceRef) -> None:
    padded = replace(ref, photometric="MONOCHROME1", padding_value=7)
    values, counts, invalid = convert([7, 4095 - 7], padded)
    assert invalid == [True, False]
    assert values == [-1024, -1017]
    assert counts.padded == 1


def test_i44_percentiles_are_over_valid_voxels(ref: SliceRef) -> None:
    padded = replace(ref, padding_value=0)
    _, counts, invalid = convert([0] * 50 + list(range(1024, 1124)), padded)
    assert counts.percentiles(sum(invalid), (0.01, 0.5, 0.99)) == [0.0, 49.0, 98.0]
