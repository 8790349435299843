"""P16: words that stand for patients go through the whole pipeline, and come out of no command, log or report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from presage_platform.errors import ExitCode
from presage_platform.postgres.connection import open_database
from presage_platform.postgres.placement import state_folder_of
from presage_platform.settings import read_settings
from tests.lib.canaries import NUM_PERSONS, Canaries, Inputs, plant
from tests.lib.dicom_factory import uid
from tests.lib.tiny_site import FAILING_TASK, lay_out

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LEVELS = (("--quiet",), (), ("-v",), ("-vv",), ("-vv", "--debug"))
# Every command in one process, each progress line shown, every warning printed; `!` is a statement for the database,
# `?` makes the mapping of one resource type, or the merge, fail with the resource in the message.
DRIVER = """
import dataclasses, json, sys
from pathlib import Path
from presage_platform import progress
from presage_platform.cli import run

progress.QUIET_SECONDS = progress.LINE_SECONDS = 0.0
workspace = Path(sys.argv[1])


def execute(statement):
    from presage_platform.postgres.connection import open_database
    from presage_platform.settings import read_settings

    with open_database(read_settings(workspace), command="test") as database, database.connect() as connection:
        connection.execute(statement)
        connection.commit()


def spoil(what):
    from presage_etl.fhir import mapping, pipeline

    def fail(*arguments, **named):
        raise ValueError(sys.argv[2] + repr(arguments))

    if what == "mapping":
        mapping.MAPPERS["Procedure"] = dataclasses.replace(mapping.MAPPERS["Procedure"], rows=fail)
    else:
        pipeline.merge = fail


for words in json.loads(sys.stdin.read()):
    print(f"@{json.dumps(words[:3])}", flush=True)
    print(f"@{json.dumps(words[:3])}", file=sys.stderr, flush=True)
    if words[0] == "!":
        execute(words[1])
    elif words[0] == "?":
        spoil(words[1])
    else:
        print(f"={run([*words, '--workspace', str(workspace)])}", flush=True)
"""


@dataclass
class PassedThrough:
    """What is left after every command has run on the planted inputs."""

    inputs: Inputs
    workspace: Path
    output: bytes = b""
    codes: list[tuple[list[str], int]] = field(default_factory=list)

    def perform(self, commands: list[list[str]]) -> None:
        """Run commands one after the other, and keep what they print."""
        secret = self.inputs.canaries.new("identity", "message of an unforeseen error")
        environment = {**os.environ, "PYTHONWARNINGS": "always", "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, self.workspace, secret],
            input=json.dumps(commands).encode(),
            capture_output=True,
            env=environment,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        self.output += done.stdout + done.stderr
        found = [int(line[1:]) for line in done.stdout.decode().splitlines() if line.startswith("=")]
        self.codes += zip((words for words in commands if words[0] not in "!?"), found, strict=True)

    def codes_of(self, *words: str) -> set[int]:
        """Return the exit codes of the commands that begin with these words."""
        return {code for command, code in self.codes if command[: len(words)] == list(words)}

    def output_of(self, command: str) -> str:
        """Return what a command printed."""
        return "".join(part for part in self.output.decode().split("@[") if part.startswith(f'"{command}"'))

    def dump(self, schema: str) -> bytes:
        """Return all rows of a schema as text."""
        with (
            open_database(read_settings(self.workspace), command="test") as database,
            database.connect() as connection,
        ):
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [schema]).fetchall()
            rows = [connection.execute(f'SELECT t::text FROM {schema}."{name}" AS t').fetchall() for (name,) in tables]
        return repr(rows).encode()


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PassedThrough]:
    folder = tmp_path_factory.mktemp("canary")
    inputs = plant(folder / "inputs")
    workspace = lay_out(folder / "workspace", folder / "inputs")
    passed = PassedThrough(inputs, workspace)
    passed.perform([["db", "start", "--keep"]])
    try:
        passed.perform(list(commands(inputs, folder)))
        yield passed
    finally:
        passed.perform([["db", "stop"]])


def commands(inputs: Inputs, folder: Path) -> Iterator[list[str]]:
    """The pipeline with all that can fail in it, then the pipeline once at each log level."""
    loud = ["-vv", "--debug"]
    fhir = ["etl", "fhir", str(inputs.fhir), "--max-dead", "1"]
    yield ["etl", "vocabulary", str(folder / "inputs" / "vocabulary"), *loud]
    yield ["!", "ALTER TABLE cdm.condition_occurrence ADD CONSTRAINT none_allowed CHECK (condition_source_value = '')"]
    yield [*fhir, *loud]
    yield ["!", "ALTER TABLE cdm.condition_occurrence DROP CONSTRAINT none_allowed"]
    yield [*fhir, "--json", "--workers", "2", *loud]
    yield ["etl", "dicom", str(inputs.dicom), "--workers", "2", *loud]
    for mapping in inputs.bad_mappings:
        yield ["link", "--map", str(mapping), *loud]
    yield ["link", "--map", str(inputs.mapping), *loud]
    yield ["tasks", "lock", *loud]
    yield ["tasks", "test", *loud]
    yield ["label", *loud]
    yield ["label", "--tasks", str(failing_task(folder)), "--skip-tests", *loud]
    yield ["label", "--index", str(wrong_index(folder, inputs.canaries)), *loud]
    small = [word for change in ("schedule.epochs=2", "encoder.widths=[4,4,4,4]") for word in ("--set", change)]
    for arm in ("time_to_event", "base"):
        yield ["train", "tiny", "--arm", arm, *small, *loud]
        yield ["embed", f"tiny-{arm}", *loud]
    yield ["eval", "tiny-time_to_event", "tiny-base", "--resamples", "10", "--horizons", "180d,365d", *loud]
    for level in LEVELS:
        yield [*fhir, "--full", *level]
        yield ["etl", "retry", *level]
        yield ["etl", "dicom", str(inputs.dicom), *level]
        yield ["link", "--map", str(inputs.bad_mappings[0]), *level]
        yield ["link", "--map", str(inputs.mapping), *level]
        yield ["tasks", "check", *level]
        yield ["tasks", "preview", str(folder / "workspace" / "tasks" / "diabetes.sql"), *level]
        yield ["label", *level]
        yield ["volumes", "verify", *level]
    yield ["?", "mapping"]
    yield [*fhir, "--full", *loud]
    yield ["?", "merge"]
    yield [*fhir, "--full", *loud]


def failing_task(folder: Path) -> Path:
    """A folder with a task whose cast fails on what a source code is."""
    tasks = folder / "failing"
    tasks.mkdir()
    (tasks / "leak.sql").write_text(FAILING_TASK)
    return tasks


def wrong_index(folder: Path, canaries: Canaries) -> Path:
    """An index file whose persons are names."""
    path = folder / "index.parquet"
    names = [canaries.new("identity", "person of an index file") for _ in range(2)]
    pq.write_table(pa.table({"study_id": [1, 1], "person_id": names, "t0": ["2019-03-04 10:00"] * 2}), path)
    return path


def test_p16_no_command_prints_a_word_of_a_patient(passed: PassedThrough) -> None:
    leaks = {}
    for part in passed.output.split(b"@["):
        found = passed.inputs.canaries.found_in(part)
        if found:
            leaks[part.partition(b"]")[0].decode()] = found
    assert leaks == {}


def test_p16_progress_is_shown_and_holds_counts_only(passed: PassedThrough) -> None:
    for line in ("etl fhir:", "scan:", "convert:", "extract:", "train:"):
        assert f"\n{line} ".encode() in passed.output


@pytest.mark.parametrize("folder", ["logs", "reports", "labels", "runs", "volumes", "timeline", "tasks"])
def test_p16_no_file_of_the_workspace_holds_a_word_of_a_patient(passed: PassedThrough, folder: str) -> None:
    files = [path for path in sorted((passed.workspace / folder).rglob("*")) if path.is_file()]
    assert files, "nothing was written, hence nothing was proved"
    known = {"identity: birth date"} if folder == "timeline" else set()  # the snapshot of persons, for their ages
    found = {path.name: passed.inputs.canaries.found_in(content(path)) - known for path in files}
    assert {name: places for name, places in found.items() if places} == {}


def test_p16_the_server_log_holds_no_row(passed: PassedThrough) -> None:
    homes = (passed.workspace / "postgres", state_folder_of(passed.workspace))  # the second where root owns the first
    log = next(home / "server.log" for home in homes if (home / "server.log").is_file())
    assert b"ready to accept connections" in log.read_bytes()
    assert passed.inputs.canaries.found_in(log.read_bytes()) == set()


def test_e82_the_cdm_holds_no_identifier_name_address_or_narrative(passed: PassedThrough) -> None:
    rows = passed.dump("cdm")
    # The day of birth is a person's row in OMOP; it stands in no other form and place.
    found = passed.inputs.canaries.found_in(rows, ("identity",)) - {"identity: birth date"}
    assert found == set()
    assert passed.inputs.canaries.found_in(rows, ("text",))  # the search does find what may be there


def test_e82_the_ledger_keeps_identifiers_as_keyed_hashes_only(passed: PassedThrough) -> None:
    rows = passed.dump("ledger")
    allowed = {"identity: reference to nobody", "identity: id with blanks"}  # keys of resources, which the ledger holds
    assert passed.inputs.canaries.found_in(rows, ("identity",)) <= allowed
    assert passed.inputs.canaries.found_in(rows, ("key",))


def test_i12_the_catalogue_holds_paths_but_nobody(passed: PassedThrough) -> None:
    data = b"".join(content(path) for path in (passed.workspace / "catalogue").rglob("*") if path.is_file())
    described = {"text: DICOM SeriesDescription", "text: DICOM ProtocolName"}
    assert passed.inputs.canaries.found_in(data, ("identity", "text", "key")) <= described
    assert passed.inputs.canaries.found_in(data, ("path",))


def test_p14_every_forced_failure_happened(passed: PassedThrough) -> None:
    fhir = [code for words, code in passed.codes if words[:2] == ["etl", "fhir"]]
    assert fhir[0] == ExitCode.DATABASE and fhir[-1] == ExitCode.BUG
    assert set(fhir[1:-1]) == {ExitCode.OK}
    assert passed.codes_of("etl", "dicom") == {ExitCode.OK}
    refused = [code for words, code in passed.codes if words[0] == "link" and words[2] != str(passed.inputs.mapping)]
    assert ExitCode.INPUT in refused and set(refused) <= {ExitCode.INPUT, ExitCode.OK}
    assert passed.codes_of("link", "--map", str(passed.inputs.mapping)) == {ExitCode.OK}
    assert passed.codes_of("label", "--tasks") == {ExitCode.TASK}
    assert passed.codes_of("label", "--index") == {ExitCode.INPUT}
    for command in ("train", "embed", "tasks", "volumes"):
        assert passed.codes_of(command) == {ExitCode.OK}
    # Fourteen persons may be too few for a head: it is said in a line, which is searched like every other.
    assert passed.codes_of("eval") <= {ExitCode.OK, ExitCode.INPUT, ExitCode.NOT_COMPUTABLE}, passed.output_of("eval")


def test_the_planted_studies_went_all_the_way(passed: PassedThrough) -> None:
    with (
        open_database(read_settings(passed.workspace), command="test") as database,
        database.connect() as connection,
    ):
        reasons = {reason for (reason,) in connection.execute("SELECT DISTINCT reason FROM dead_letter").fetchall()}
        assert connection.execute("SELECT count(*) FROM study_link").fetchone() == (NUM_PERSONS,)
        assert connection.execute(
            "SELECT count(*) FROM image_study WHERE study_uid = %s", [uid("study 0")]
        ).fetchone() == (1,)
    assert {"not-json", "bad-date", "structure", "person-missing", "no-resource-type", "modifier-extension"} <= reasons


def content(path: Path) -> bytes:
    """The bytes of a file; what a Parquet file compresses is read."""
    data = path.read_bytes()
    if path.suffix != ".parquet":
        return data
    table: Any = pq.read_table(path)
    return data + repr(table.to_pylist()).encode() + repr(table.schema).encode()
