"""The order of slices and the step between them: positions decide, nothing else has a say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from presage_etl.dicom.candidate import SliceRef
from presage_etl.dicom.series import slice_ref
from presage_etl.dicom.stack import Finding, Stack, build_stack
from presage_platform.settings import SeriesSettings
from presage_platform.volumes.catalogue import INSTANCE_SCHEMA, Verdict
from tests.lib.dicom_archive import scan_archive
from tests.lib.dicom_factory import CORONAL, Spec, write_series

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
OBLIQUE = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)
HEAD_DOWN = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)  # its normal points to the feet
ROW = {"root_id": 1, "rel_path": b"x", "header_hash": "0", "sop_uid": "1", "rows": 24, "columns": 20}


def refs(positions: Sequence[Sequence[float]]) -> list[SliceRef]:
    """Return slices whose UIDs and files are in another order than their positions."""
    blank = slice_ref(dict.fromkeys(INSTANCE_SCHEMA.names) | ROW)
    names = np.random.default_rng(5).permutation(len(positions))
    return [
        replace(blank, sop_uid=f"1.{name:03d}", rel_path=f"{name}", ipp=tuple(map(float, position)))
        for name, position in zip(names, positions, strict=True)
    ]


def stacked(positions: Sequence[Sequence[float]], iop: Sequence[float]) -> tuple[Stack, Finding]:
    finding = Finding()
    return build_stack(refs(positions), iop, [0.9, 0.7], None, SeriesSettings(), finding), finding


@pytest.mark.parametrize("iop", [AXIAL, HEAD_DOWN, CORONAL, OBLIQUE], ids=["axial", "feet first", "coronal", "oblique"])
def test_i32_slices_ascend_along_their_normal(iop: tuple[float, ...]) -> None:
    normal = np.cross(iop[:3], iop[3:])
    positions = [np.array([7.0, -3.0, 11.0]) + 2.5 * k * normal for k in np.random.default_rng(1).permutation(9)]
    stack, _ = stacked(positions, iop)
    along = [one.d_mm for one in stack.slices]
    assert along == sorted(along)
    np.testing.assert_allclose(along, [float(np.dot(one.ipp, normal)) for one in stack.slices], rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.diff(along), 2.5, atol=1e-9)


def test_i32_distances_keep_the_digits_of_a_double() -> None:
    """At 300 m from the origin single precision knows steps of 0.03 mm alone: slices of 0.02 mm would merge."""
    stack, finding = stacked([(0.0, 0.0, 300_000.0 + 0.02 * k) for k in (3, 0, 4, 1, 2)], AXIAL)
    assert np.diff([one.d_mm for one in stack.slices]) == pytest.approx([0.02] * 4, abs=1e-9)
    assert Verdict.DUPLICATE_POSITIONS not in finding.verdicts


@given(st.permutations(range(6)))
def test_i32_a_tie_is_refused_whatever_the_numbers_say(order: list[int]) -> None:
    places = [0.0, 2.5, 5.0, 5.0, 7.5, 10.0]
    stack, finding = stacked([(0.0, 0.0, places[k]) for k in order], AXIAL)
    assert finding.verdicts == [Verdict.DUPLICATE_POSITIONS] and stack.geometry is None


LIES: dict[str, Any] = {
    "SliceThickness": lambda k: 9.0,
    "SpacingBetweenSlices": lambda k: 4.0,
    "SliceLocation": lambda k: -3.0 * k,
    "ImagerPixelSpacing": lambda k: [0.2, 0.3],
    "InstanceNumber": lambda k: 100 - k * k,
}


@pytest.mark.parametrize("keyword", LIES)
def test_i33_no_other_element_than_the_position_makes_the_geometry(keyword: str, tmp_path: Path) -> None:
    def lie(data: Dataset, k: int) -> None:
        setattr(data, keyword, LIES[keyword](k))

    write_series(tmp_path / "archive", Spec(change=lie))
    archive = scan_archive(tmp_path / "archive", tmp_path / "work")
    geometry = archive.only.geometry
    assert geometry is not None and archive.only.verdict == Verdict.OK
    np.testing.assert_allclose(geometry.affine_ras, Spec().affine_ras(), atol=1e-9)
    assert geometry.spacing_mm == pytest.approx((0.7, 0.9, 2.5))


def test_i33_a_lying_thickness_is_reported(tmp_path: Path) -> None:
    write_series(tmp_path / "archive", Spec(change=lambda data, k: setattr(data, "SliceThickness", 9.0)))
    candidate = scan_archive(tmp_path / "archive", tmp_path / "work").only
    assert "thickness_differs: thickness 9.00 mm, step 2.50 mm" in candidate.reasons
