"""Geometry from positions and directions, at the edges of its tolerances."""

from __future__ import annotations

import numpy as np
import pytest

from presage_etl.dicom.geometry import (
    Orientation,
    Spacing,
    drift_mm,
    lps_to_ras,
    orientation,
    regularity,
    same_orientation,
    stack_geometry,
    tilt_degrees,
)

AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def axial() -> Orientation:
    directions = orientation(AXIAL)
    assert directions is not None
    return directions


def stack(*z_mm: float, x_mm: float = 3.0) -> np.ndarray:
    return np.array([[x_mm, -7.0, z] for z in z_mm])


def test_i30_the_affine_is_the_formula() -> None:
    positions = stack(10.0, 12.5, 15.0)
    geometry = stack_geometry(positions, axial(), [0.9, 0.7], (24, 20), regularity(positions[:, 2]))
    np.testing.assert_array_equal(
        geometry.affine_ras, [[-0.7, 0, 0, -3.0], [0, -0.9, 0, 7.0], [0, 0, 2.5, 10.0], [0, 0, 0, 1]]
    )
    assert geometry.shape_zyx == (3, 24, 20)
    assert geometry.extent_mm == 7.5


def test_i30_lps_becomes_ras_by_turning_two_axes() -> None:
    np.testing.assert_array_equal(lps_to_ras(np.eye(4)), np.diag([-1.0, -1.0, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("iop", "legal", "orthonormalised"),
    [
        (AXIAL, True, False),
        ([1.0, 0.0, 0.0, 0.00005, 1.0, 0.0], True, False),
        ([1.0, 0.0, 0.0, 0.0005, 1.0, 0.0], True, True),
        ([1.0, 0.0, 0.0, 0.002, 1.0, 0.0], False, False),
        ([1.002, 0.0, 0.0, 0.0, 1.0, 0.0], False, False),
        ([1.0, 0.0, 0.0, 0.0, float("nan"), 0.0], False, False),
        ([0.0] * 6, False, False),
        ([1.0, 0.0, 0.0], False, False),
        (None, False, False),
    ],
)
def test_i31_directions(iop: list[float] | None, legal: bool, orthonormalised: bool) -> None:
    found = orientation(iop)
    assert (found is not None) == legal
    if found is not None:
        assert found.orthonormalised == orthonormalised
        assert abs(found.row @ found.column) <= 1e-4


def test_i31_same_orientation_within_a_thousandth() -> None:
    assert same_orientation(AXIAL, [1.0, 0.0009, 0.0, 0.0, 1.0, 0.0])
    assert not same_orientation(AXIAL, [1.0, 0.0011, 0.0, 0.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("off_mm", "spacing"),
    [(0.0, Spacing.REGULAR), (0.024, Spacing.REGULAR), (0.03, Spacing.ROUNDED), (0.058, Spacing.ROUNDED)],
)
def test_i34_regular_and_rounded_positions(off_mm: float, spacing: Spacing) -> None:
    along = np.arange(10) * 2.5
    along[4] += off_mm
    assert regularity(along).spacing is spacing


def test_i34_thin_slices_have_a_tighter_limit() -> None:
    along = np.arange(10) * 0.4
    along[4] += 0.045  # within 0.06 mm, beyond a tenth of the step
    assert regularity(along).spacing is not Spacing.ROUNDED


def test_i35_gaps_are_counted_from_the_median_step() -> None:
    found = regularity(np.array([0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]) * 2.5)
    assert found.spacing is Spacing.MISSING
    assert found.gaps == ((5, 2, 7.5),)
    assert found.step_mm == 2.5


def test_i35_four_steps_in_five_must_agree() -> None:
    assert regularity(np.array([0.0, 1.0, 2.0, 4.0, 5.0])).spacing is Spacing.IRREGULAR
    assert regularity(np.array([0.0, 1.0, 2.0, 4.0, 5.0, 6.0])).spacing is Spacing.MISSING
    assert regularity(np.array([0.0, 1.0, 2.0, 3.5, 4.5, 5.5])).spacing is Spacing.IRREGULAR


def test_i36_tilt_is_the_angle_between_stack_and_normal() -> None:
    leaning = stack(0.0, 2.0, 4.0)
    leaning[:, 1] += leaning[:, 2] * np.tan(np.radians(18.5))
    assert tilt_degrees(leaning, axial()) == pytest.approx(18.5)
    assert tilt_degrees(stack(0.0, 2.0, 4.0), axial()) == 0.0


def test_i36_drift_is_the_distance_from_the_straight_line() -> None:
    positions = stack(0.0, 2.0, 4.0, 6.0)
    assert drift_mm(positions, axial()) == pytest.approx(0.0)
    positions[2, 0] += 0.25
    assert drift_mm(positions, axial()) == pytest.approx(0.25)
