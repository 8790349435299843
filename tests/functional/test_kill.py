"""kill -9 in the middle of a command, then the same command: what is left equals an undisturbed run, byte for byte."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from presage_platform.settings import Settings, parse_settings
from tests.lib.cohort import planted_workspace
from tests.lib.database import TestServer, fresh_database
from tests.lib.dicom_factory import Spec, setting, write_series
from tests.lib.fhir_export import copy_of, dump, small_hospital, tiny_template, write_ndjson
from tests.lib.volumes import store_bytes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE_S = 120.0
Seen = Callable[[], bool]


def platform(workspace: Path, *words: str | Path) -> list[str]:
    """The public command, as a user types it."""
    return [sys.executable, "-m", "presage_platform", *map(str, words), "--workspace", str(workspace), "--quiet"]


def finish(command: list[str]) -> None:
    """Run a command to its end, which must be a good one."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr


def kill_when(seen: Seen, command: list[str]) -> None:
    """Start a command and send SIGKILL to it and its workers as soon as `seen`; it must not have ended before."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )  # a session of its own: the group that is killed holds this command and its workers, nothing else
    try:
        end = time.monotonic() + PATIENCE_S
        while not seen():
            assert process.poll() is None, "the command ended before the moment came"
            assert time.monotonic() < end
            time.sleep(0.002)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL


# --- health records --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vocabulary(server: TestServer) -> Iterator[str]:
    with tiny_template(server) as template:
        yield template


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    made = small_hospital(num_persons=200)
    for part in range(4):
        write_ndjson(folder / f"{part}.ndjson", made[part::4])
    return folder


def at_workspace(settings: Settings) -> Path:
    """Name the database in platform.toml, so that the public command finds it."""
    assert settings.database.url is not None
    settings.workspace.mkdir(mode=0o700, exist_ok=True)
    (settings.workspace / "platform.toml").write_text(
        f'[database]\nurl = "{settings.database.url.get_secret_value()}"\n[imaging]\nrecipes = ["tiny"]\n'
    )
    return settings.workspace


@pytest.fixture(scope="module")
def undisturbed_load(
    server: TestServer, vocabulary: str, export: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    with copy_of(server, vocabulary, tmp_path_factory.mktemp("undisturbed")) as settings:
        finish(platform(at_workspace(settings), "etl", "fhir", export))
        return dump(settings)


MOMENTS = {
    "a run has begun": "SELECT EXISTS (SELECT FROM ledger.run WHERE state = 'running')",
    "a chunk is staged": "SELECT EXISTS (SELECT FROM ledger.chunk WHERE run_no = (SELECT max(run_no) FROM ledger.run))",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_e94_a_killed_load_is_continued_to_the_same_rows_and_ids(
    server: TestServer, vocabulary: str, export: Path, undisturbed_load: dict[str, Any], tmp_path: Path, moment: str
) -> None:
    with copy_of(server, vocabulary, tmp_path) as settings:
        command = platform(at_workspace(settings), "etl", "fhir", export)
        assert settings.database.url is not None
        with psycopg.connect(settings.database.url.get_secret_value(), autocommit=True) as watcher:
            kill_when(lambda: bool(watcher.execute(MOMENTS[moment].encode()).fetchone()[0]), command)  # type: ignore[index]
        assert dump(settings) != undisturbed_load
        finish(command)
        assert dump(settings) == undisturbed_load
        finish(command)
        assert dump(settings) == undisturbed_load


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    for number in range(12):
        spec = Spec(study=f"study {number}", patient=f"patient {number}", rows=20, columns=20, num_slices=8)
        write_series(folder / str(number), spec, change=setting(RescaleIntercept=-1024 - number))
    return folder


@pytest.fixture(scope="module")
def undisturbed_store(
    server: TestServer, archive: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with fresh_database(server) as url:
        workspace = at_workspace(parse_settings(folder, {"database": {"url": url}}, environment={}))
        finish(platform(workspace, "etl", "dicom", archive))
        return stores(workspace)


def stores(workspace: Path) -> dict[str, dict[str, bytes]]:
    """Every byte of every volume store."""
    return {folder.name: store_bytes(folder) for folder in sorted((workspace / "volumes").iterdir()) if folder.is_dir()}


def scanned(workspace: Path) -> bool:
    return any((workspace / "catalogue").glob("instances/*.parquet"))


def converted(workspace: Path) -> bool:
    """Whether the first volumes are on disk: the catalogue is complete, the store is not."""
    return sum(path.stat().st_size for path in (workspace / "volumes").rglob("*") if is_there(path)) > 500_000


def is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


@pytest.mark.parametrize("seen", [scanned, converted])
def test_i66_a_killed_conversion_is_continued_to_the_same_bytes(
    server: TestServer, archive: Path, undisturbed_store: dict[str, dict[str, bytes]], tmp_path: Path,
    seen: Callable[[Path], bool],
) -> None:  # fmt: skip
    with fresh_database(server) as url:
        workspace = at_workspace(parse_settings(tmp_path, {"database": {"url": url}}, environment={}))
        command = platform(workspace, "etl", "dicom", archive)
        kill_when(lambda: seen(workspace), command)
        finish(command)
        assert stores(workspace) == undisturbed_store
        finish(platform(workspace, "volumes", "verify"))


# --- training --------------------------------------------------------------------------------------------------------

QUICK = (
    "encoder.widths=[4,4,4,4]", "encoder.stem_pool=false", "schedule.epochs=40", "head.rank=4", "memory.cpu_threads=1",
    "schedule.log_every_steps=1", "checkpoint.every_steps=8", "validation.every_steps=8",
)  # fmt: skip


def train(workspace: Path) -> list[str]:
    return platform(workspace, "train", "tiny", *(word for change in QUICK for word in ("--set", change)))


def weights(workspace: Path) -> bytes:
    (path,) = workspace.glob("runs/*/weights.safetensors")
    return path.read_bytes()


@pytest.fixture(scope="module")
def undisturbed_weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("undisturbed")
    planted_workspace(folder, num_studies=25, num_tasks=3)
    finish(train(folder))
    return weights(folder)


def first_step(workspace: Path) -> bool:
    return any(path.stat().st_size > 0 for path in workspace.glob("runs/*/metrics.jsonl"))


def second_checkpoint(workspace: Path) -> bool:
    return len([path for path in workspace.glob("runs/*/checkpoints/*") if not path.name.startswith(".")]) >= 2


@pytest.mark.parametrize("seen", [first_step, second_checkpoint])
def test_m83_a_killed_training_is_continued_to_the_same_weights(
    tmp_path: Path, undisturbed_weights: bytes, seen: Callable[[Path], bool]
) -> None:
    planted_workspace(tmp_path, num_studies=25, num_tasks=3)
    kill_when(lambda: seen(tmp_path), train(tmp_path))
    assert not list(tmp_path.glob("runs/*/weights.safetensors"))
    finish(train(tmp_path))
    assert weights(tmp_path) == undisturbed_weights
