"""Bad input of every stage: one line that begins with `platform: `, the exit code of the book, and nothing lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from presage_etl.dicom.instances import locked_catalogue
from presage_etl.fhir.ledger import writer_lock
from presage_platform.cli import run
from presage_platform.errors import ExitCode
from presage_platform.postgres.connection import open_database
from presage_platform.runs import RunFolder
from presage_platform.settings import Settings, read_settings
from tests.lib.canaries import Inputs, plant
from tests.lib.tiny_site import BODY, DIABETES, FIXTURE, HEAD, lay_out

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

COMMANDS = sorted(point.name for point in entry_points(group="presage.commands"))
SMALL = ("--set", "schedule.epochs=1", "--set", "encoder.widths=[4,4,4,4]")
T0 = datetime(2019, 3, 4, 10)


@dataclass(frozen=True)
class Site:
    """A workspace that went through every command, the inputs it was made of, and a folder of bad ones."""

    workspace: Path
    inputs: Inputs
    bad: Path

    @property
    def settings(self) -> Settings:
        """Settings of the workspace."""
        return read_settings(self.workspace)

    def words(self, command: str) -> list[str]:
        """Split a command; names in braces become paths."""
        places = {
            "bad": self.bad,
            "fhir": self.inputs.fhir,
            "dicom": self.inputs.dicom,
            "map": self.inputs.mapping,
            "vocabulary": self.workspace.parent / "inputs" / "vocabulary",
        }
        return [word.format(**places) for word in command.split()]

    def state(self) -> dict[str, Any]:
        """Rows of the CDM and of what stands behind it, and the files of volumes, labels and runs."""
        tables = ("ledger.resource", "ledger.origin", "ledger.study_link", "ledger.image_study", "ledger.image_series")
        with open_database(self.settings, command="test") as database, database.connect() as connection:
            cdm = connection.execute("SELECT 'cdm.' || tablename FROM pg_tables WHERE schemaname = 'cdm'").fetchall()
            names = sorted([*tables, *(name for (name,) in cdm)])
            counts = " UNION ALL ".join(f"SELECT '{name}', count(*) FROM {name}" for name in names)
            found: dict[str, Any] = dict(connection.execute(counts.encode()).fetchall())
        for folder in ("volumes", "labels", "runs", "tasks"):
            for path in sorted((self.workspace / folder).rglob("*")):
                if path.is_file() and path.name != "lock":
                    found[str(path.relative_to(self.workspace))] = path.stat().st_size
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    inputs = plant(folder / "inputs")
    workspace = lay_out(folder / "workspace", folder / "inputs")
    site = Site(workspace, inputs, folder / "bad")
    at = ["--workspace", str(workspace), "--quiet"]
    assert run(["db", "start", "--keep", *at]) == ExitCode.OK
    try:
        for command in (
            "etl vocabulary {vocabulary}", "etl fhir {fhir} --max-dead 1", "etl dicom {dicom}", "link --map {map}",
            "tasks lock", "label",
        ):  # fmt: skip
            assert run([*site.words(command), *at]) == ExitCode.OK
        assert run(["train", "tiny", *SMALL, *at]) == ExitCode.OK
        write_bad_inputs(site.bad, site)
        yield site
    finally:
        run(["db", "stop", *at])


def write_bad_inputs(bad: Path, site: Site) -> None:
    """Write one specimen of everything that goes wrong."""
    for name in ("empty", "csv", "broken", "commas", "drop", "nohead", "unlocked", "stale", "failing"):
        (bad / name).mkdir(parents=True)
    (bad / "text.txt").write_text("this is a note, no image and no table\n")
    (bad / "csv" / "patients.csv").write_text("id,name\n1,x\n")
    (bad / "broken" / "a.ndjson").write_text('{"resourceType": "Patient", "id": "torn"\n{"resourceType": "Patient"}\n')
    for path in (site.workspace.parent / "inputs" / "vocabulary").iterdir():
        (bad / "commas" / path.name).write_text(path.read_text().replace("\t", ","))
    (bad / "drop" / "drop.sql").write_text(HEAD.format(name="drop") + "drop table condition_occurrence")
    (bad / "nohead" / "nohead.sql").write_text("select 1")
    (bad / "unlocked" / "unlocked.sql").write_text(HEAD.format(name="unlocked") + BODY)
    lock = site.workspace / "tasks" / "diabetes.lock.json"
    for name, body in (("stale", DIABETES + "where true\n"), ("failing", DIABETES)):
        (bad / name / "diabetes.sql").write_text(body)
        shutil.copy(lock, bad / name / "diabetes.lock.json")
        (bad / name / "tests").mkdir()
        wrong = FIXTURE.replace("state: censored", "state: competing", 1) if name == "failing" else FIXTURE
        (bad / name / "tests" / "diabetes.yaml").write_text(wrong)
    for name, columns in INDEX_FILES.items():
        pq.write_table(pa.table(columns), bad / f"{name}.parquet")
    (bad / "broken.toml").write_text("name = [")
    (bad / "ragged.csv").write_text("patient_id,fhir_patient_id\nonly\n")
    (bad / "headless.csv").write_text("a,b\n1,2\n")


INDEX_FILES: dict[str, dict[str, Any]] = {
    "duplicate": {"study_id": [1, 1], "person_id": [1, 2], "t0": [T0, T0]},
    "nobody": {"study_id": [1, 2], "person_id": [1, None], "t0": [T0, T0]},
    "future": {"study_id": [1], "person_id": [1], "t0": [datetime(2190, 1, 1)]},
    "stranger": {"study_id": [1], "person_id": [99_999], "t0": [T0]},
    "names": {"study_id": [1], "person_id": ["x"], "t0": [T0]},
    "halves": {"study_id": [1.5], "person_id": [1], "t0": [T0]},
    "words": {"study_id": [1], "person_id": [1], "t0": ["2019-03-04"]},
    "columns": {"study": [1]},
    "rowless": {name: pa.array([], pa.int64()) for name in ("study_id", "person_id", "t0")},
}

USAGE, INPUT, TASK, RECIPE = ExitCode.USAGE, ExitCode.INPUT, ExitCode.TASK, ExitCode.RECIPE
CASES: list[tuple[str, ExitCode, str]] = [
    # command, code, what the line says
    ("etl vocabulary {bad}/absent", INPUT, "does not exist"),
    ("etl vocabulary {bad}/empty", INPUT, "no vocabulary file found"),
    ("etl vocabulary {bad}/text.txt", INPUT, "neither a folder nor a .zip"),
    ("etl vocabulary {bad}/commas", ExitCode.VOCABULARY, "separated by a comma, expected tabs"),
    ("etl vocabulary", USAGE, "Missing argument"),
    ("etl fhir {bad}/absent", INPUT, "no FHIR resource found"),
    ("etl fhir {bad}/empty", INPUT, "no FHIR resource found"),
    ("etl fhir {bad}/csv", INPUT, "found a table of text"),
    ("etl fhir {bad}/broken", ExitCode.QUALITY, "2 dead"),
    ("etl fhir", USAGE, "needs at least one PATH"),
    ("etl fhir {fhir} --policy nonsense=1", USAGE, "unknown policy `nonsense`"),
    ("etl fhir {fhir} --policy patient_address=mars", USAGE, "allowed: none, state, zip3"),
    ("etl fhir {fhir} --max-dead lots", USAGE, "--max-dead"),
    ("etl fhir {fhir} --extracted-on yesterday", USAGE, "--extracted-on"),
    ("etl fhir {fhir} --workers 0", USAGE, "--workers"),
    ("etl retry --reason nonsense", USAGE, "expected one of not-json"),
    ("etl explain", USAGE, "needs Type/id"),
    ("etl explain nonsense", USAGE, "Type/id"),
    ("etl explain Patient/nobody", INPUT, "was ever read"),
    ("etl explain --file {bad}/absent", USAGE, "does not exist"),
    ("etl unmapped --export {bad}/absent/codes.csv", INPUT, "cannot be written"),
    ("etl dicom {bad}/absent", INPUT, "cannot be read"),
    ("etl dicom {bad}/empty", INPUT, "no DICOM image found"),
    ("etl dicom {bad}/text.txt", INPUT, "1 not dicom"),
    ("etl dicom {dicom} --recipe nonsense", RECIPE, "no volume recipe is named"),
    ("etl dicom {dicom} --series some", USAGE, "expected chosen or all"),
    ("etl dicom {dicom} --max-rejected lots", USAGE, "a share is written"),
    ("link --map {bad}/absent", INPUT, "cannot be read"),
    ("link --map {bad}/empty", INPUT, "cannot be read"),
    ("link --map {bad}/ragged.csv", INPUT, "ragged.csv line 2: has 1 columns"),
    ("link --map {bad}/headless.csv", INPUT, "headless.csv line 1: 0 columns name the image"),
    ("link --max-quarantined lots", USAGE, "a share is written"),
    ("link --retry --reason nonsense", USAGE, "no quarantine reason"),
    ("tasks check {bad}/absent", INPUT, "no task file"),
    ("tasks check {bad}/empty", INPUT, "no .sql file"),
    ("tasks check {bad}/text.txt", TASK, "no front matter"),
    ("tasks check {bad}/drop", TASK, "task drop: Q3 9:1 DROP"),
    ("tasks lock {bad}/drop", TASK, "task drop: Q3 9:1 DROP"),
    ("tasks preview {bad}/drop/drop.sql", TASK, "task drop: Q3 9:1 DROP"),
    ("tasks test {bad}/stale", TASK, "changed since it was locked"),
    ("tasks test {bad}/failing", ExitCode.TASK_TEST, "task diabetes: test"),
    ("tasks copy nonsense", USAGE, "no shipped task `nonsense`"),
    ("label --tasks {bad}/absent", USAGE, "is no folder"),
    ("label --tasks {bad}/drop --bins 90,900", TASK, "task drop: Q3 9:1 DROP"),
    ("label --tasks {bad}/nohead --bins 90,900", TASK, "no front matter"),
    ("label --tasks {bad}/unlocked --bins 90,900", TASK, "not locked"),
    ("label --tasks {bad}/stale --bins 90,900", TASK, "changed since it was locked"),
    ("label --tasks {bad}/failing --bins 90,900", ExitCode.TASK_TEST, "task diabetes: test"),
    ("label --bins nonsense", USAGE, "expected a number of bins"),
    ("label --bins 0", USAGE, "at least one bin"),
    ("label --index {bad}/absent", USAGE, "no index file"),
    ("label --index {bad}/text.txt", INPUT, "is not Parquet"),
    ("label --index {bad}/duplicate.parquet", INPUT, "index row 2: its study is listed twice"),
    ("label --index {bad}/nobody.parquet", INPUT, "index row 2: person_id is missing"),
    ("label --index {bad}/future.parquet", INPUT, "index row 1: t0 lies in the future"),
    ("label --index {bad}/stranger.parquet", INPUT, "index row 1: its person is not in the CDM"),
    ("label --index {bad}/names.parquet", INPUT, "person_id of the wrong type"),
    ("label --index {bad}/halves.parquet", INPUT, "study_id of the wrong type"),
    ("label --index {bad}/words.parquet", INPUT, "t0 of the wrong type"),
    ("label --index {bad}/columns.parquet", INPUT, "lacks study_id, person_id, t0"),
    ("label --index {bad}/rowless.parquet", INPUT, "index rowless.parquet"),
    ("label --snapshot nonsense", USAGE, "without a database all of"),
    ("train tinny", RECIPE, "did you mean `tiny`?"),
    ("train {bad}/absent.toml", RECIPE, "cannot be read"),
    ("train {bad}/broken.toml", RECIPE, "is not TOML"),
    ("train tiny --set schedule.epoch=1", RECIPE, "did you mean `epochs`?"),
    ("train tiny --set nonsense", RECIPE, "expected a.b=value"),
    ("train tiny --labels ffff", RECIPE, "no label store begins with ffff"),
    ("train tiny --volumes ffff", ExitCode.INTEGRITY, "recipe ffff"),
    ("train --resume nonsense", USAGE, "no run `nonsense`"),
    ("embed nonsense", USAGE, "no run `nonsense`"),
    ("embed {bad}/empty", USAGE, "no run"),
    ("eval", USAGE, "name at least one run"),
    ("eval tiny-time_to_event --labels ffff", RECIPE, "no label store begins with ffff"),
    ("eval tiny-time_to_event --horizons nonsense", USAGE, "is not a duration"),
    ("eval tiny-time_to_event --compare nonsense", USAGE, "expected A:B"),
    ("eval nonsense", USAGE, "nonsense"),
    ("eval {bad}/columns.parquet", INPUT, ""),
    ("eval --render {bad}/text.txt", INPUT, "not a readable report.json"),
    ("db restore {bad}/absent", INPUT, "cannot be read"),
    ("db restore {bad}/text.txt", INPUT, "is no backup"),
    ("db backup {bad}/absent/x.dump", INPUT, "cannot be written"),
    ("nonsense", USAGE, "No such command"),
    ("etl nonsense", USAGE, "No such command"),
]


def refused(capsys: pytest.CaptureFixture[str], words: list[str], code: ExitCode, said: str) -> None:
    """Run a command that must end with one line and this code."""
    capsys.readouterr()
    found = run(words)
    line = capsys.readouterr().err
    assert line.startswith("platform: ") and line.count("\n") == 1, line
    assert "Traceback" not in line
    assert (found, said in line) == (code, True), line


@pytest.mark.parametrize(("command", "code", "said"), CASES, ids=[case[0] for case in CASES])
def test_p15_bad_input_is_one_line_and_nothing_is_lost(
    site: Site, capsys: pytest.CaptureFixture[str], command: str, code: ExitCode, said: str
) -> None:
    before = site.state()
    words = site.words(command)
    at = [] if "nonsense" in words[:2] and code == USAGE and "No such" in said else ["--workspace", str(site.workspace)]
    refused(capsys, [*words, *at], code, said)
    assert site.state() == before


@pytest.mark.parametrize("command", COMMANDS)
def test_p15_an_unknown_option_is_said_by_every_command(capsys: pytest.CaptureFixture[str], command: str) -> None:
    refused(capsys, [*command.split("."), "--no-such-option"], USAGE, "usage: No such option: --no-such-option")


SETTINGS = [
    ("[labeling]\nkk = 3\n", {}, "did you mean `k`?"),
    ("[labelling]\nk = 3\n", {}, "labeling"),
    ("[labeling]\nk = 'many'\n", {}, "labeling.k"),
    ("[labeling\n", {}, "platform.toml"),
    ("", {"PRESAGE_LABELING__KK": "3"}, "kk"),
    ("", {"PRESAGE_LABELING__K": "many"}, "labeling.k"),
]


@pytest.mark.parametrize("command", ["etl fhir {fhir}", "etl dicom {dicom}", "link", "label", "train tiny"])
@pytest.mark.parametrize(("text", "variables", "said"), SETTINGS, ids=range(len(SETTINGS)))
def test_p13_settings_that_are_wrong_stop_every_command(
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    text: str,
    variables: dict[str, str],
    said: str,
) -> None:
    (tmp_path / "platform.toml").write_text(text)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    refused(capsys, [*site.words(command), "--workspace", str(tmp_path)], USAGE, said)
    assert [path.name for path in tmp_path.iterdir() if path.name != "logs"] == ["platform.toml"]


@pytest.mark.parametrize("command", ["volumes info", "embed x", "db psql", "train tiny"])
def test_p13_a_workspace_that_does_not_exist_is_not_made_by_a_reader(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    refused(capsys, [*command.split(), "--workspace", str(tmp_path / "absent")], USAGE, "no workspace at")
    assert not (tmp_path / "absent").exists()


def test_e106_no_vocabulary_is_said_before_anything_is_read(
    site: Site, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert settings.database.url is not None
    url = settings.database.url.get_secret_value()
    (settings.workspace / "platform.toml").write_text(f'[database]\nurl = "{url}"\n')
    words = [*site.words("etl fhir {fhir}"), "--workspace", str(settings.workspace)]
    refused(capsys, words, ExitCode.VOCABULARY, "platform etl vocabulary")
    with open_database(settings, command="test") as database, database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM ledger.resource").fetchone() == (0,)


def copy_files(site: Site, workspace: Path) -> None:
    """Copy what training and evaluation read."""
    left_out = shutil.ignore_patterns("postgres", "catalogue", "timeline", "logs")
    shutil.copytree(site.workspace, workspace, ignore=left_out)


def without(*folders: str) -> Callable[[Path], None]:
    """Return what removes folders of a workspace."""

    def remove(workspace: Path) -> None:
        for name in folders:
            shutil.rmtree(workspace / name)

    return remove


def torn_shard(workspace: Path) -> None:
    for shard in workspace.glob("volumes/*/shard-*.bin"):
        os.truncate(shard, shard.stat().st_size // 2)


def torn_labels(workspace: Path) -> None:
    for path in workspace.glob("labels/*/studies.parquet"):
        os.truncate(path, path.stat().st_size // 2)


ABSENCES: list[tuple[str, Callable[[Path], None], str, ExitCode]] = [
    ("no labels", without("labels"), "train tiny", RECIPE),
    ("no labels", without("labels"), "eval tiny-time_to_event", RECIPE),
    ("no volumes", without("volumes"), "train tiny", ExitCode.INTEGRITY),
    ("no volumes", without("volumes"), "volumes info", INPUT),
    ("no runs", without("runs"), "embed tiny-time_to_event", USAGE),
    ("torn shard", torn_shard, "volumes verify", ExitCode.INTEGRITY),
    ("torn shard", torn_shard, "train tiny --set seed=3", ExitCode.INTEGRITY),
    ("torn labels", torn_labels, "label --verify", ExitCode.INTEGRITY),
    ("torn labels", torn_labels, "train tiny --set seed=3", RECIPE),
]


@pytest.mark.parametrize(
    ("damage", "command", "code"), [case[1:] for case in ABSENCES], ids=[f"{case[0]}: {case[2]}" for case in ABSENCES]
)
def test_a_store_that_is_absent_or_torn_is_refused(
    site: Site,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    command: str,
    code: ExitCode,
) -> None:
    workspace = tmp_path / "workspace"
    copy_files(site, workspace)
    damage(workspace)
    refused(capsys, [*command.split(), "--workspace", str(workspace)], code, "")


def etl_writer(site: Site, stack: ExitStack) -> None:
    database = stack.enter_context(open_database(site.settings, command="test"))
    stack.enter_context(writer_lock(database))


def scanner(site: Site, stack: ExitStack) -> None:
    stack.enter_context(locked_catalogue(site.settings.catalogue_dir))


@pytest.mark.parametrize(
    ("other", "command"),
    [
        (etl_writer, "etl fhir {fhir}"),
        (etl_writer, "etl retry"),
        (etl_writer, "etl vocabulary {vocabulary}"),
        (scanner, "etl dicom {dicom}"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_e94_of_two_writers_the_second_is_refused(
    site: Site, capsys: pytest.CaptureFixture[str], other: Callable[[Site, ExitStack], None], command: str
) -> None:
    before = site.state()
    with ExitStack() as stack:
        other(site, stack)
        refused(capsys, [*site.words(command), "--workspace", str(site.workspace)], ExitCode.LOCKED, "wait for it")
    assert site.state() == before


def test_m8_of_two_trainings_of_one_run_the_second_is_refused(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_files(site, tmp_path / "workspace")
    (folder,) = (tmp_path / "workspace" / "runs").iterdir()
    for name in ("finished.json", "weights.safetensors"):
        (folder / name).unlink()
    with RunFolder(folder):
        words = ["train", "tiny", *SMALL, "--workspace", str(tmp_path / "workspace")]
        refused(capsys, words, ExitCode.LOCKED, "wait for it")
    assert not (folder / "weights.safetensors").exists()


@pytest.mark.parametrize("command", ["etl vocabulary {vocabulary}", "etl fhir {fhir}", "etl dicom {dicom}"])
def test_e106_a_workspace_that_cannot_be_written_is_said_before_anything_starts(
    site: Site, tmp_path: Path, command: str
) -> None:
    (tmp_path / "platform.toml").touch()
    tmp_path.chmod(0o500)
    as_anybody = ["setpriv", *(f"--{kind}=-dac_override,-dac_read_search" for kind in ("bounding-set", "inh-caps"))]
    words = [sys.executable, "-m", "presage_platform", *site.words(command), "--workspace", str(tmp_path)]
    if os.geteuid() == 0:
        words = [*as_anybody, *words]  # root writes wherever it wants to, unless it gives that right away
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    tmp_path.chmod(0o700)
    assert done.returncode == USAGE, done.stderr
    assert done.stderr.startswith("platform: workspace ") and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["platform.toml"]


def test_a_log_folder_that_cannot_be_written_adds_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "platform.toml").touch()
    (tmp_path / "logs").write_text("in the way")
    refused(capsys, ["volumes", "info", "-vv", "--workspace", str(tmp_path)], INPUT, "no volume store here")


def test_e106_good_rows_of_a_bad_file_stay_and_dead_letters_wait(site: Site) -> None:
    with open_database(site.settings, command="test") as database, database.connect() as connection:
        (dead,) = connection.execute("SELECT count(*) FROM dead_letter WHERE resolved_by_run IS NULL").fetchone() or (
            0,
        )
        assert dead > 0
        assert connection.execute("SELECT count(*) FROM person").fetchone() == (14,)
