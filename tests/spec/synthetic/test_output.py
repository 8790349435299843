"""Command, output and determinism of the synthetic hospital (rules S1 to S5, S51 to S55)."""

from __future__ import annotations

import ast
import hashlib
import json
from collections import Counter
from datetime import date
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

import presage_etl.synthetic
from presage_etl.synthetic.cli import synth
from presage_etl.synthetic.parameters import parse_grid, read_parameters
from presage_etl.synthetic.synth import make_hospital
from presage_platform.errors import InputError, UsageError
from tests.lib.synthetic import make, resources, tiny_parameters, truth


def test_s1_a_folder_that_holds_the_same_hospital_is_left_alone(hospital: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in hospital.rglob("*")}
    report = make_hospital(hospital, tiny_parameters(), workers=1)
    assert not report.made
    assert report.counts["persons"] == 24
    assert before == {path: path.stat().st_mtime_ns for path in hospital.rglob("*")}


def test_s1_a_folder_that_holds_something_else_is_refused(hospital: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="other parameters"):
        make_hospital(hospital, tiny_parameters(seed=2), workers=1)
    (tmp_path / "letter.txt").write_text("not a hospital")
    with pytest.raises(InputError, match="not empty"):
        make_hospital(tmp_path, tiny_parameters(), workers=1)
    assert (tmp_path / "letter.txt").read_text() == "not a hospital"


def test_s1_an_interrupted_run_is_made_again(tmp_path: Path) -> None:
    parameters = tiny_parameters(patients=2)
    (tmp_path / "synth.partial").write_text(parameters.digest())
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "left-over").write_text("half a file")
    make_hospital(tmp_path, parameters, workers=1)
    assert not (tmp_path / "dicom" / "left-over").exists()
    assert not (tmp_path / "synth.partial").exists()


def test_s2_every_part_is_there_and_hashed(hospital: Path) -> None:
    summary = json.loads((hospital / "synth.json").read_text())
    found = {p.relative_to(hospital).as_posix(): p for p in hospital.rglob("*") if p.is_file()}
    assert set(found) == {*summary["files"], "synth.json"}
    for name, digest in summary["files"].items():
        assert hashlib.sha256(found[name].read_bytes()).hexdigest() == digest, name
    assert {name.split("/")[0] for name in summary["files"]} == {
        "fhir", "dicom", "vocabulary", "tasks", "truth", "site.toml",
    }  # fmt: skip
    assert summary["synthetic"] is True


def test_s3_the_number_of_workers_changes_no_byte(hospital: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "two", workers=2)
    assert (other / "synth.json").read_bytes() == (hospital / "synth.json").read_bytes()


def test_s3_another_person_changes_nobody_else(hospital: Path, tmp_path: Path) -> None:
    more = make(tmp_path / "more", patients=25)
    known = {row["person"]: row for row in truth(more, "persons")}
    for row in truth(hospital, "persons"):
        assert known[row["person"]] == row
    lines = {json.dumps(r, sort_keys=True) for r in resources(more)}
    assert all(json.dumps(r, sort_keys=True) in lines for r in resources(hospital))


def test_s4_presets_have_their_sizes() -> None:
    assert read_parameters("demo").patients == 2000
    assert read_parameters("demo").grid == (64, 64, 32)
    assert read_parameters("small").patients == 60
    assert read_parameters("demo", patients=60).patients == 60


def test_s5_scans_and_births_lie_in_the_calendar_and_some_evenings_are_another_day_in_utc(hospital: Path) -> None:
    assert all(1925 <= row["birth"].year <= 2003 for row in truth(hospital, "persons"))
    days = [date.fromordinal(date(1970, 1, 1).toordinal() + row["t0_s"] // 86_400) for row in truth(hospital, "scans")]
    assert all(date(2012, 1, 1) <= day <= date(2021, 12, 31) for day in days)
    assert Counter(row["other_day_in_utc"] for row in truth(hospital, "scans"))[True] > 0


def test_s51_no_other_code_names_the_truth_folder() -> None:
    roots = [Path("platform/presage_platform"), Path("modeling/presage_modeling"), Path("etl/presage_etl")]
    offenders = [
        path
        for root in roots
        for path in root.rglob("*.py")
        if "synthetic" not in path.parts and path.name != "demo.py" and '"truth"' in path.read_text(encoding="utf-8")
    ]
    assert offenders == []


def test_s52_the_truth_is_computed_without_the_code_that_it_checks() -> None:
    folder = Path(str(presage_etl.synthetic.__file__)).parent
    imported = {
        node.module
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module
    }
    ours = {name for name in imported if name.startswith("presage") and not name.startswith("presage_etl.synthetic")}
    assert ours <= {
        "presage_platform.errors",
        "presage_platform.logs",
        "presage_platform.options",
        "presage_platform.parallel",
        "presage_platform.postgres.connection",
        "presage_platform.progress",
        "presage_platform.settings",
        "presage_platform.volumes.catalogue",
    }


def test_s53_names_cannot_be_taken_for_persons(hospital: Path) -> None:
    for patient in resources(hospital, "Patient"):
        assert patient["name"][0]["given"][0].startswith("Test-")
        assert patient["telecom"][0]["value"].startswith("555-01")
        assert patient["address"][0]["line"][0].endswith("Example Street")
        assert patient["identifier"][0]["value"].startswith("SYN")


def test_s54_parameters_are_frozen_and_a_change_is_another_hash() -> None:
    parameters = read_parameters("small")
    with pytest.raises(ValueError, match="frozen"):
        parameters.seed = 3  # type: ignore[misc]
    assert read_parameters("small", seed=2).digest() != parameters.digest()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"cohort": {"no_scan": 1.2}}, "cohort.no_scan"),
        ({"grid": (64, 64, 8)}, "below 32"),
        ({"latents": {"correlation": [{"pair": [1, 2], "value": 0.99}, {"pair": [1, 3], "value": -0.99},
                                      {"pair": [2, 3], "value": 0.99}]}}, "positive definite"),
        ({"colour": 3}, "colour"),
    ],
)  # fmt: skip
def test_s55_bad_parameters_are_one_line(overrides: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        read_parameters("small", **overrides)
    assert "\n" not in str(caught.value)


def test_s55_an_unknown_preset_and_a_bad_grid_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="expected one of defects, demo, paper, planted, small"):
        read_parameters("huge")
    with pytest.raises(UsageError, match="64x64x32"):
        parse_grid("64x64")


def test_the_command_reports_json(hospital: Path) -> None:
    app = Typer()
    app.command()(synth)
    parameters = ["--out", str(hospital), "--preset", "small", "--json"]
    result = CliRunner().invoke(app, parameters)
    assert isinstance(result.exception, InputError)  # other parameters than those of the fixture
