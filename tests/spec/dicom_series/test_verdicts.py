"""Every awkward series ends in the verdict that the table names; every verdict has a series that ends in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from presage_platform.volumes.catalogue import MEANINGS, Verdict, gravest
from tests.lib.dicom_archive import scan_fixture
from tests.lib.dicom_cases import FIXTURES, POLICY_FIXTURES

EVERY_FIXTURE = {**FIXTURES, **POLICY_FIXTURES}

NOT_PRODUCED_YET = {
    Verdict.NO_AFFINE,  # NIfTI input
    Verdict.BAD_AFFINE,
    Verdict.NOT_3D,
    Verdict.OK_RESAMPLED_SPACING,  # refused with the reason not_supported_yet
    Verdict.OK_RESAMPLED_TILT,
}


@pytest.mark.parametrize("name", EVERY_FIXTURE)
def test_i22_a_fixture_ends_in_its_verdict(name: str, tmp_path: Path) -> None:
    fixture = EVERY_FIXTURE[name]
    assert tuple(scan_fixture(fixture, tmp_path).final_verdicts()) == fixture.verdicts


def test_i27_every_code_has_a_fixture() -> None:
    produced = {Verdict(code) for fixture in EVERY_FIXTURE.values() for code in fixture.verdicts}
    assert set(Verdict) - produced == NOT_PRODUCED_YET


def test_i27_every_case_has_a_fixture() -> None:
    assert {fixture.case for fixture in FIXTURES.values()} == set(range(1, 31))


def test_i22_every_code_has_a_meaning_and_a_status() -> None:
    assert set(MEANINGS) == set(Verdict)
    assert {verdict.status for verdict in Verdict} == {"ok", "rejected"}
    assert all((verdict.status == "rejected") == verdict.value.startswith("rejected_") for verdict in Verdict)


def test_i26_the_gravest_decides() -> None:
    written = (
        "uid_across_patients uid_conflict missing_uid burned_in photometric secondary_capture localizer derived "
        "functional_groups no_decoder undecodable no_rescale bad_orientation bad_position single_slice too_few_slices "
        "duplicate_positions missing_slices position_drift spacing coverage not_ct"
    )
    nifti = {"rejected_no_affine", "rejected_bad_affine", "rejected_not_3d"}
    assert [verdict.value for verdict in Verdict if verdict.status == "rejected" and verdict.value not in nifti] == [
        f"rejected_{word}" for word in written.split()
    ]
    assert gravest([Verdict.OK_LOSSY, Verdict.SPACING, Verdict.NOT_CT]) is Verdict.SPACING
    assert gravest([]) is Verdict.OK
