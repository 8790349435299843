"""Which series represents a study, and the words that say why."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from presage_etl.dicom.candidate import Candidate
from presage_etl.dicom.choice import chosen, kernel_class, rank, read_overrides
from presage_etl.dicom.series import candidates
from presage_platform.errors import InputError
from presage_platform.settings import ChoiceSettings
from presage_platform.volumes.catalogue import Verdict
from tests.lib.dicom_archive import Archive, scan_fixture
from tests.lib.dicom_cases import FIXTURES


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return scan_fixture(FIXTURES["c26_study_of_six"], tmp_path_factory.mktemp("study"))


def regrouped(study: Archive) -> list[Candidate]:
    return candidates(study.instances, study.settings.imaging.series)


def ranks(found: list[Candidate]) -> dict[str, tuple[int | None, str | None]]:
    return {one.series_key: (one.rank, one.rank_reason) for one in found}


@pytest.mark.parametrize(
    ("manufacturer", "kernel", "expected"),
    [
        ("SIEMENS", ["B40f"], "soft"),
        ("Siemens Healthineers", ["Br38f", "3"], "soft"),
        ("SIEMENS", ["B70f"], "sharp"),
        ("SIEMENS", ["Bl57d"], "sharp"),
        ("SIEMENS", ["I30f"], "soft"),
        ("GE MEDICAL SYSTEMS", ["STANDARD"], "soft"),
        ("GE MEDICAL SYSTEMS", ["BONEPLUS"], "sharp"),
        ("Philips", ["B"], "soft"),
        ("Philips", ["L"], "sharp"),
        ("TOSHIBA", ["FC08"], "soft"),
        ("CANON_MEC", ["FC52"], "sharp"),
        ("TOSHIBA", ["FC30"], "unknown"),
        ("Other", ["B40f"], "unknown"),
        (None, None, "unknown"),
    ],
)
def test_i50_kernels_have_classes(manufacturer: str | None, kernel: list[str] | None, expected: str) -> None:
    assert kernel_class(manufacturer, kernel) == expected


def test_i53_the_choice_ignores_order_and_rejected_siblings(study: Archive) -> None:
    found = regrouped(study)
    rank(found, ChoiceSettings())
    expected = ranks(found)
    again = regrouped(study)
    random.Random(3).shuffle(again)
    rank(again, ChoiceSettings())
    assert ranks(again) == expected
    without = [one for one in regrouped(study) if one.verdict.status == "ok"]
    rank(without, ChoiceSettings())
    assert ranks(without) == {key: value for key, value in expected.items() if value[0] is not None}


def test_i50_a_resampled_or_lossy_series_stands_behind_a_plain_one(study: Archive) -> None:
    found = regrouped(study)
    rank(found, ChoiceSettings())
    best = next(one for one in found if one.rank == 1)
    best.verdict = Verdict.OK_LOSSY
    rank(found, ChoiceSettings())
    assert best.rank == 4
    assert best.rank_reason == "verdict: ok_lossy after ok"


def test_i52_per_study_says_how_many_become_volumes(study: Archive) -> None:
    found = regrouped(study)
    rank(found, ChoiceSettings())
    assert len(chosen(found, ChoiceSettings())) == 1
    assert len(chosen(found, ChoiceSettings(per_study=2))) == 2
    assert len(chosen(found, ChoiceSettings(per_study="all"))) == 4


def test_i52_an_override_wins_and_shows(study: Archive, tmp_path: Path) -> None:
    found = regrouped(study)
    sharp = next(one for one in found if one.attributes["kernel"] == ["B70f"])
    never = next(one for one in found if len(one.slices) == 9)
    path = tmp_path / "override.csv"
    path.write_text(f"series_uid,choice,note\n{sharp.series_uid},use,lung study\n{never.series_uid},never,motion\n")
    rank(found, ChoiceSettings(), read_overrides(path))
    assert (sharp.rank, sharp.rank_reason) == (1, "override: lung study")
    assert (never.rank, never.rank_reason) == (None, "override: motion")


def test_i52_an_override_of_a_rejected_series_is_an_error_that_names_the_verdict(
    study: Archive, tmp_path: Path
) -> None:
    found = regrouped(study)
    scout = next(one for one in found if one.verdict == Verdict.LOCALIZER)
    path = tmp_path / "override.csv"
    path.write_text(f"{scout.series_uid},use,please\n")
    with pytest.raises(InputError, match="rejected_localizer"):
        rank(found, ChoiceSettings(), read_overrides(path))


def test_i52_a_broken_override_file_is_refused_without_its_content(tmp_path: Path) -> None:
    path = tmp_path / "override.csv"
    path.write_text("1.2.3,perhaps,secret words\n")
    with pytest.raises(InputError, match="line 1") as caught:
        read_overrides(path)
    assert "secret" not in str(caught.value) and "1.2.3" not in str(caught.value)
