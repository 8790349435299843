"""The table of planted image defects: complete, honest about its words, and drawn without touching anything else."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.planted.dicom import CASES, assign, check_words, fixtures
from presage_etl.synthetic.planted.series import Expected, Facts
from presage_etl.synthetic.synth import make_hospital
from presage_platform.errors import UsageError
from tests.lib.dicom_cases import FIXTURES
from tests.lib.synthetic import tiny_parameters, truth

# Fixtures of the case table by their names in the specification; a syntax each is c17's own business.
TABLE = [
    "c01_shuffled",
    "c01_reverse_numbers",
    "c01_no_numbers",
    "c02_axial_plus_coronal",
    "c03_same_file_twice",
    "c03_uid_conflict",
    "c03_same_position",
    "c04_one_gap",
    "c04_end_cut",
    "c05_1_4_7mm",
    "c05_head_protocol",
    "c06_one_decimal",
    "c06_float_noise",
    "c07_tilt_pos",
    "c07_tilt_neg",
    "c07_tag_lies",
    "c07_tilt_and_steps",
    "c08_single",
    "c08_three",
    "c08_nan",
    "c08_zero_stack",
    "c09_enhanced",
    "c09_legacy_converted",
    "c09_rescale_per_frame",
    "c10_scout",
    "c10_untyped_scout",
    "c11_mip",
    "c11_mpr_coronal",
    "c11_dose_report",
    "c12_sc",
    "c12_burned",
    "c13_per_slice",
    "c13_lut",
    "c13_fractional",
    "c13_absent",
    "c14_signed12",
    "c14_dirty_high_bits",
    "c14_j2k_sign_mismatch",
    "c15_minus2000",
    "c15_range",
    "c15_signed_pad",
    "c16_mono1",
    "c16_rgb",
    "c18_short",
    "c18_empty",
    "c18_bad_j2k",
    "c18_one_pad_byte",
    "c19_no_preamble",
    "c19_text_file",
    "c20_mixed",
    "c20_scattered",
    "c21_two_kernels",
    "c21_two_phases",
    "c22_07x09",
    "c23_3mm_every_2",
    "c23_no_thickness",
    "c23_zero_thickness",
    "c24_hfs",
    "c24_ffs",
    "c24_hfp",
    "c24_hfdr",
    "c25_short",
    "c25_wrong_tag",
    "c26_study_of_six",
    "c27_iso2022_jp",
    "c27_broken_bytes",
    "c28_tz",
    "c28_dt_only",
    "c28_no_date",
    "c28_2187",
    "c29_two_patients",
    "c29_empty",
    "c29_malformed",
]


def facts(number: int, **changes: object) -> Facts:
    from datetime import date

    plain = Facts(
        study=f"s{number:06d}-0",
        person=f"p{number:06d}",
        person_index=number,
        scan=0,
        t0=1_600_000_000,
        zone="America/New_York",
        in_record=number % 5 > 0,
        birth=date(1950, 3, 4),
        death_s=1_650_000_000 if number % 3 else None,
        other_person="p999999",
        other_mrn="SYN0999999",
        other_accession="SYA099999900",
        other_t0=1_600_500_000,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_s31_every_fixture_of_the_case_table_is_planted() -> None:
    planted = {name for name in fixtures() if not name.startswith("c17_")}
    assert planted == set(TABLE)
    assert {name for name in FIXTURES if not name.startswith(("c17_", "c30_"))} <= planted | {
        "c08_skewed_directions",  # planted as directions_skewed: not of the table
        "c18_all_cut",  # as all_truncated
    }
    assert len({case.kind for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    "words", [("rejected_unheard_of", (), ()), ("ok", ("a whim",), ()), ("ok", (), ("wished_away",))]
)
def test_s31_a_word_that_no_verdict_knows_is_refused(words: tuple[str, tuple[str, ...], tuple[str, ...]]) -> None:
    verdict, reasons, actions = words
    expected = Expected((), verdict, reasons, actions, (), (), None, None)
    with pytest.raises(ValueError, match="does not know"):
        check_words("some_kind", expected)


def test_s31_every_kind_finds_a_study_that_can_bear_it(defects: Parameters) -> None:
    chosen = assign(defects, [facts(number) for number in range(200)])
    kinds = [assignment.kind for assignment in chosen.values()]
    assert sorted(kinds) == sorted(case.kind for case in CASES)
    for study, assignment in chosen.items():
        case = next(case for case in CASES if case.kind == assignment.kind)
        assert case.fits(assignment.facts) and assignment.facts.study == study


def test_s31_too_few_studies_are_refused_in_one_line(defects: Parameters) -> None:
    with pytest.raises(UsageError, match="ask for more persons"):
        assign(defects, [facts(number) for number in range(20)])


def test_s31_the_rate_is_the_share_of_studies() -> None:
    parameters = tiny_parameters(defects={"dicom_rate": 0.2})
    chosen = assign(parameters, [facts(number) for number in range(2000)])
    assert 0.17 < len(chosen) / 2000 < 0.23
    assert len({assignment.kind for assignment in chosen.values()}) > 80
    more = assign(parameters, [facts(number) for number in range(1000, 3000)])
    both = {f"s{number:06d}-0" for number in range(1000, 2000)}
    assert {s: a.kind for s, a in chosen.items() if s in both} == {s: a.kind for s, a in more.items() if s in both}


def test_s32_a_defect_changes_its_own_study_and_nothing_else(tmp_path: Path) -> None:
    """With any number of workers the same bytes; without the defects the same other studies."""
    for name, rate, workers in (("none", 0.0, 1), ("one", 0.3, 1), ("two", 0.3, 2)):
        parameters = tiny_parameters(patients=16, grid=(32, 32, 32), defects={"dicom_rate": rate})
        make_hospital(tmp_path / name, parameters, workers=workers)
    none, one, two = (digests(tmp_path / name / "dicom") for name in ("none", "one", "two"))
    assert one == two
    planted = {row["study"] for row in truth(tmp_path / "one", "planted_dicom")}
    folders = {row["study"]: row["folder"] for row in truth(tmp_path / "one", "scans")}
    assert planted and len(planted) < len(folders)
    for study, folder in folders.items():
        same = {n: d for n, d in one.items() if n.startswith(folder)} == {
            n: d for n, d in none.items() if n.startswith(folder)
        }
        assert same == (study not in planted)


def digests(archive: Path) -> dict[str, str]:
    return {
        path.relative_to(archive).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(archive.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def defects() -> Parameters:
    from presage_etl.synthetic.parameters import read_parameters

    return read_parameters("defects")
