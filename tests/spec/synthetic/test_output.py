"""Command, output and determinism of the synthetic hospital (rules S1 to S5, S51 to S55)."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter, namedtuple
from datetime import date
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from presage_etl.synthetic.cli import synth
from presage_etl.synthetic.parameters import parse_grid, read_parameters
from presage_etl.synthetic.synth import make_hospital
from presage_platform.cli import ENTRY_POINTS, with_shared_options
from presage_platform.errors import ExitCode, InputError, PresageError, UsageError
from presage_platform.truth_guard import truth_withheld
from tests.lib.synthetic import make, resources, tiny_parameters, truth

ORACLES_OF_A_WORKSPACE = "presage_etl.synthetic.answers.oracle"  # joins the oracles to a workspace's database
DECLARATIONS = {
    "presage_platform.errors", "presage_platform.ledger.reasons", "presage_platform.logs",
    "presage_platform.omop.imaging", "presage_platform.omop.tables", "presage_platform.options",
    "presage_platform.parallel", "presage_platform.progress", "presage_platform.settings",
    "presage_platform.volumes.catalogue",
}  # fmt: skip


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


def test_s5_the_record_begins_in_2005_and_ends_with_the_cut(hospital: Path) -> None:
    """Every time of every resource, births and what was planted aside; meta tells when the resource was written."""
    first, last = date(2005, 1, 1), date(2023, 12, 31)
    planted = {row["where"] for row in truth(hospital, "planted_fhir") if "where" in row}
    seen: set[int] = set()
    for kind in ("Encounter", "Observation", "Procedure", "MedicationRequest", "Immunization", "ImagingStudy"):
        for resource in resources(hospital, kind):
            if f"{kind}/{resource['id']}" in planted:
                continue
            texts = [resource.get(name) for name in ("effectiveDateTime", "performedDateTime", "authoredOn", "started")]
            texts += [resource.get("occurrenceDateTime"), *resource.get("period", {}).values()]
            for day in (date.fromisoformat(text[:10]) for text in texts if isinstance(text, str) and len(text) >= 10):
                seen.add(day.year)
                assert first <= day <= last, kind
    assert {2012, 2023} <= seen
    offsets = {text[-6:] for r in resources(hospital, "ImagingStudy") if len(text := r["started"]) > 10}
    assert offsets <= {"-05:00", "-04:00"}
    assert len(offsets) == 2


def test_s51_no_other_code_names_the_truth_folder() -> None:
    roots = [Path("platform/presage_platform"), Path("modeling/presage_modeling"), Path("etl/presage_etl")]
    offenders = [
        path
        for root in roots
        for path in root.rglob("*.py")
        if "synthetic" not in path.parts
        and path.name not in ("demo.py", "truth_guard.py")
        and '"truth"' in path.read_text(encoding="utf-8")
    ]
    assert offenders == []


def test_s51_no_command_but_synth_and_demo_may_open_the_truth(hospital: Path) -> None:
    """Every command that is listed, with a body that opens a file of the truth in place of its own."""
    answers = hospital / "truth" / "README.md"
    found = {}
    for point in entry_points(group=ENTRY_POINTS):

        def body() -> None:
            answers.read_text(encoding="utf-8")

        body.__name__ = point.value.rpartition(":")[2]
        try:
            with_shared_options(body)(quiet=True, verbose=0, debug=False)
        except InputError as error:
            found[point.name] = "holds the answers" in str(error)
        else:
            found[point.name] = False
    assert len(found) > 20
    assert {name for name, refused in found.items() if not refused} == {"synth", "demo"}
    assert answers.read_text(encoding="utf-8")  # and afterwards it is open again


def test_s51_a_path_into_the_truth_is_refused_on_the_command_line(hospital: Path, tmp_path: Path) -> None:
    link = tmp_path / "innocent"
    link.symlink_to(hospital / "truth")
    for path in (hospital / "truth", hospital / "truth" / "scans.parquet", link / "scans.parquet"):
        with pytest.raises(InputError, match="holds the answers"), truth_withheld("label", {"index": [path]}):
            pass
    (tmp_path / "truth").mkdir()
    with truth_withheld("label", {"index": tmp_path / "truth"}):  # a folder of that name is no synthetic hospital
        (tmp_path / "truth" / "own.txt").write_text("mine")
    with truth_withheld("etl_fhir", {"folder": hospital / "fhir"}):
        assert (hospital / "site.toml").read_text()


@pytest.mark.slow
def test_s49_a_hospital_is_made_without_torch_database_or_network(tmp_path: Path) -> None:
    """In a process of its own, where every socket is refused; SQLAlchemy is there for its declarations of tables."""
    program = """
import sys
from pathlib import Path
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind"):
        raise SystemExit(f"the generator used {event}")
sys.addaudithook(refuse)
from tests.lib.synthetic import tiny_parameters
from presage_etl.synthetic.synth import make_hospital
make_hospital(Path(sys.argv[1]), tiny_parameters(patients=3, modes=["fhir", "dicom", "omop"]), workers=1)
roots = {name.split(".")[0] for name in sys.modules}
print(sorted(roots & {"torch", "monai", "psycopg", "requests", "urllib3", "httpx", "adbc_driver_postgresql"}))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path.cwd())])}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "h")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_s52_the_truth_is_computed_without_the_code_that_it_checks() -> None:
    """The import graph: what the generator reaches of the product, through any number of steps, is declarations."""
    import grimp

    graph = grimp.build_graph("presage_platform", "presage_etl", cache_dir=None)
    for name in [
        n for n in graph.modules if n.startswith(("presage_etl.synthetic.scale", "presage_etl.synthetic.cli"))
    ]:
        graph.remove_module(name)  # cohorts of benchmark size go through the stores' public writers
    own = {name for name in graph.modules if name.startswith("presage_etl.synthetic")}
    answers = own - {ORACLES_OF_A_WORKSPACE}
    assert len(answers) > 30
    direct = {found for name in answers for found in graph.find_modules_directly_imported_by(name)} - own
    assert direct <= DECLARATIONS, sorted(direct - DECLARATIONS)
    reached = {found for name in answers for found in graph.find_upstream_modules(name)} - own
    checked = (
        "presage_etl.",
        "presage_platform.labeling",
        "presage_platform.omop.vocabulary",
        "presage_platform.volumes.store",
    )
    assert not [name for name in reached if name.startswith(checked)]


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
        ({"latents": {"correlation": [{"pair": [1, 9], "value": 0.5}]}}, "less than or equal to 8"),
        ({"latents": {"correlation": [{"pair": [2, 2], "value": 0.5}]}}, "with itself"),
        ({"patients": 0}, "patients"),
        ({"record": {"stamped_at_start": -0.1}}, "record.stamped_at_start"),
        ({"defects": {"dicom_rate": 1.5}}, "defects.dicom_rate"),
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


def command() -> Typer:
    app = Typer()
    app.command()(synth)
    return app


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--patients", "0"], 2),
        (["--preset", "huge"], 2),
        (["--grid", "16x64x64"], 2),
        (["--grid", "64x64"], 2),
        (["--defect-rate", "1.5"], 2),
        ([], None),
    ],
)
def test_s55_bad_use_ends_with_its_exit_code_and_writes_nothing(
    words: list[str], code: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last case is good use on a full disk."""
    if code is None:
        full = namedtuple("full", "total used free")(1000, 999, 1)
        monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    out = tmp_path / "new" / "hospital"
    result = CliRunner().invoke(command(), ["--out", str(out), *words])
    found = getattr(result.exception, "exit_code", result.exit_code)
    assert found == (ExitCode.DISK_FULL if code is None else code)
    assert not isinstance(result.exception, PresageError) or "\n" not in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_s55_a_folder_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written") as caught:
        make_hospital(tmp_path / "file" / "hospital", tiny_parameters(), workers=1)
    assert caught.value.exit_code == ExitCode.INPUT
    with pytest.raises(InputError, match="is not a folder"):
        make_hospital(tmp_path / "file", tiny_parameters(), workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_s54_the_command_prints_all_parameters_and_makes_nothing(tmp_path: Path) -> None:
    result = CliRunner().invoke(command(), ["--preset", "demo", "--seed", "9", "--print-parameters"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == read_parameters("demo", seed=9).model_dump(mode="json")
    missing = CliRunner().invoke(command(), ["--preset", "small"])
    assert isinstance(missing.exception, UsageError)


def test_the_command_reports_json(hospital: Path) -> None:
    app = command()
    parameters = ["--out", str(hospital), "--preset", "small", "--json"]
    result = CliRunner().invoke(app, parameters)
    assert isinstance(result.exception, InputError)  # other parameters than those of the fixture
