"""The synthetic hospital through the public commands: counts, links and every label against `truth/` (S43)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lib.synthetic import make, truth

pytestmark = pytest.mark.slow

COMMANDS = (
    ("etl", "vocabulary", "{hospital}/vocabulary"),
    ("etl", "fhir", "{hospital}/fhir/export-1"),
    ("etl", "dicom", "{hospital}/dicom"),
    ("link",),
    ("tasks", "lock"),
    ("label",),
)


def platform(workspace: Path, *words: str) -> str:
    """Run one public command in a workspace; return what it printed."""
    command = [sys.executable, "-c", "from presage_platform.cli import main; main()", *words]
    environment = {**os.environ, "PRESAGE_WORKSPACE": str(workspace), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=280)
    assert run.returncode == 0, f"{' '.join(words)}: {run.stdout[-2000:]}{run.stderr[-2000:]}"
    return run.stdout


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("synthetic") / "hospital")


@pytest.fixture(scope="module")
def workspace(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("workspace") / "w"
    folder.mkdir(mode=0o700)
    site = (hospital / "site.toml").read_text().replace("min_events = 3", "min_events = 1").replace("k = 16", "k = 75")
    (folder / "platform.toml").write_text(site)
    shutil.copytree(hospital / "tasks", folder / "tasks")
    for words in COMMANDS:
        platform(folder, *(word.format(hospital=hospital) for word in words))
    yield folder
    platform(folder, "db", "stop")


@pytest.fixture(scope="module")
def counts(workspace: Path, hospital: Path) -> dict[str, int]:
    """Rows of every table after the last command."""
    from presage_platform.postgres.connection import open_database
    from presage_platform.settings import read_settings

    names = {row["name"] for row in truth(hospital, "expected_counts") if row["kind"] == "table"}
    found = {}
    with open_database(read_settings(workspace), command="test") as database, database.connect() as connection:
        for name in sorted(names):
            found[name] = connection.execute(f"select count(*) from {name}").fetchone()[0]
        found["quarantine"] = connection.execute("select count(*) from link_quarantine").fetchone()[0]
    return found


def test_s43_every_table_holds_the_planted_rows(counts: dict[str, int], hospital: Path) -> None:
    expected: dict[str, int] = {}
    for row in truth(hospital, "expected_counts"):  # `link` comes after `etl` and replaces its figure
        if row["kind"] == "table" and (row["stage"] == "link" or row["name"] not in expected):
            expected[row["name"]] = row["expected"]
    assert {name: counts[name] for name in expected} == expected
    quarantined = sum(row["expected"] for row in truth(hospital, "expected_counts") if row["kind"] == "quarantine")
    assert counts["quarantine"] == quarantined


def test_s35_what_is_excluded_unreadable_and_dead_is_what_was_planted(workspace: Path, hospital: Path) -> None:
    from presage_platform.demo import compare

    counts = [count for count in compare(hospital, workspace, "etl") if count.kind != "table"]
    assert {count.kind for count in counts} == {"excluded", "unmapped", "dead"}
    assert {(count.kind, count.name): count.found for count in counts} == {
        (count.kind, count.name): count.planted for count in counts
    }
    assert all(count.planted > 0 for count in counts if count.kind != "dead")


def test_s43_every_label_equals_the_truth_to_the_second(workspace: Path, hospital: Path) -> None:
    from presage_platform.labeling.store import LabelStore
    from presage_platform.postgres.connection import open_database
    from presage_platform.settings import read_settings

    with open_database(read_settings(workspace), command="test") as database, database.connect() as connection:
        study_ids = dict(connection.execute("select study_uid, study_id from image_study").fetchall())
    study_of = {study_ids[row["study_uid"]]: row["study"] for row in truth(hospital, "joins")}
    wanted = {(row["study"], row["task"], row["view"]): row for row in truth(hospital, "true_labels")}
    store = LabelStore.open(next(path for path in (workspace / "labels").iterdir() if path.name != "splits"))
    compared = 0
    for path in sorted((store.path / "outcomes").glob("*.parquet")):
        compared += _compare_outcome(path, study_of, wanted)
    assert compared == 8 * len(store.studies)
    assert _compare_concepts(store, study_of, wanted) > 0


def _compare_outcome(path: Path, study_of: dict[int, str], wanted: dict[tuple[str, str, str], dict[str, Any]]) -> int:
    import pyarrow.parquet as pq

    rows = pq.read_table(path).to_pylist()
    for row in rows:
        true = wanted[study_of[row["study_id"]], path.stem, "incident"]
        assert row["state"] == true["state"], (path.stem, true["study"])
        assert bool(row["prevalent"]) == true["prevalent"]
        assert row["end_s"] == true["end_s"]
        if row["state"] == "event":
            assert row["time_s"] == true["time_s"]
    return len(rows)


def _compare_concepts(store: Any, study_of: dict[int, str], wanted: dict[tuple[str, str, str], dict[str, Any]]) -> int:
    known = {task for _, task, _ in wanted}
    compared = 0
    for name in store.tasks["task"].to_pylist():
        if name not in known:
            continue
        view = store.task_view(name, risk="next")
        for study_id, time_s, cause in zip(
            view.study_id.tolist(), view.time_s.tolist(), view.cause.tolist(), strict=True
        ):
            true = wanted[study_of[study_id], name, "next"]
            assert (cause == 1) == (true["state"] == "event"), (name, true["study"])
            assert cause != 1 or time_s == true["time_s"]
            compared += 1
    return compared
