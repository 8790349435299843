"""Twelve outcomes written by hand in SQL, as a user writes them, give exactly what the simulation planted.

Death, two readmissions, seven diagnoses, two laboratory values; each passes `tasks check`, `lock`, `test` and `preview`,
and `platform label` gives every study the state of `truth/true_labels` in the incident and in the next view.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lib.synthetic import make, truth
from tests.lib.twelve_tasks import TWELVE, write_twelve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

LOAD = (
    ("etl", "vocabulary", "{hospital}/vocabulary"),
    ("etl", "fhir", "{hospital}/fhir/export-1"),
    ("etl", "dicom", "{hospital}/dicom"),
    ("link",),
)


def platform(workspace: Path, *words: str) -> Any:
    """Run one public command in a workspace; return the JSON that tasks and labels print."""
    as_json = words[0] in ("tasks", "label")
    command = [sys.executable, "-c", "from presage_platform.cli import main; main()", *words]
    command += ["--json"] if as_json else []
    environment = {**os.environ, "PRESAGE_WORKSPACE": str(workspace), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=580)
    assert run.returncode == 0, f"{' '.join(words)}: {run.stdout[-2000:]}{run.stderr[-2000:]}"
    return json.loads(run.stdout) if as_json else None


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("synthetic") / "hospital", patients=120, persons_per_shard=40)


@pytest.fixture(scope="module")
def workspace(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("workspace") / "w"
    folder.mkdir(mode=0o700)
    (folder / "platform.toml").write_text((hospital / "site.toml").read_text())
    write_twelve(folder / "tasks")
    for words in LOAD:
        platform(folder, *(word.format(hospital=hospital) for word in words))
    yield folder
    subprocess.run(
        [sys.executable, "-c", "from presage_platform.cli import main; main()", "db", "stop"],
        env={**os.environ, "PRESAGE_WORKSPACE": str(folder)},
        check=True,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def label_hash(workspace: Path) -> str:
    checked = platform(workspace, "tasks", "check")
    assert {row["task"] for row in checked} == set(TWELVE) and all(row["ok"] for row in checked)
    locked = platform(workspace, "tasks", "lock")
    assert not any(row["without_records"] for row in locked), "every concept set has records here"
    tested = platform(workspace, "tasks", "test")
    assert {row["task"] for row in tested} == set(TWELVE) and all(row["passed"] >= 3 for row in tested)
    return str(platform(workspace, "label", "--allow-fewer")["label_hash"])


@pytest.fixture(scope="module")
def study_of(workspace: Path, hospital: Path, label_hash: str) -> dict[int, str]:
    from presage_platform.postgres.connection import open_database
    from presage_platform.settings import read_settings

    with open_database(read_settings(workspace), command="test") as database, database.connect() as connection:
        study_ids = dict(connection.execute("select study_uid, study_id from image_study").fetchall())
    return {
        study_ids[row["study_uid"]]: row["study"] for row in truth(hospital, "joins") if row["study_uid"] in study_ids
    }


@pytest.mark.parametrize("view", ["incident", "next"])
@pytest.mark.parametrize("task", TWELVE)
def test_s43_every_state_and_time_is_the_planted_one(
    workspace: Path, hospital: Path, label_hash: str, study_of: dict[int, str], task: str, view: str
) -> None:
    from presage_platform.labeling.store import LabelStore

    wanted = {row["study"]: row for row in truth(hospital, "true_labels") if (row["task"], row["view"]) == (task, view)}
    found = LabelStore.open(workspace / "labels" / label_hash).task_view(task, risk=view)  # type: ignore[arg-type]
    assert len(found.study_id) > 100
    for row, study_id in enumerate(found.study_id.tolist()):
        true = wanted[study_of[study_id]]
        if true["state"] in ("masked", "prevalent"):
            assert not found.at_risk[row], (task, view, true["study"])
            assert (found.mask[row] != 0) == (true["state"] == "masked")
            continue
        cause = {"censored": 0, "event": 1, "competing": 2}[true["state"]]
        expected = true["time_s"] if cause == 1 else true["end_s"]
        assert (bool(found.at_risk[row]), int(found.cause[row]), int(found.time_s[row])) == (True, cause, expected), (
            task,
            view,
            true["study"],
        )


def test_s43_the_twelve_have_events_that_can_be_wrong(hospital: Path) -> None:
    states: dict[str, set[str]] = {}
    for row in truth(hospital, "true_labels"):
        if row["task"] in TWELVE and row["view"] == "incident":
            states.setdefault(row["task"], set()).add(row["state"])
    assert set(states) == set(TWELVE)
    assert all({"event", "censored"} <= found for found in states.values()), states


def test_l77_preview_counts_the_states_that_label_wrote(workspace: Path, label_hash: str) -> None:
    import pyarrow.parquet as pq

    for task in ("readmission_30d", "haemoglobin_below_12"):
        states = platform(workspace, "tasks", "preview", str(workspace / "tasks" / f"{task}.sql"))["states"]
        rows = pq.read_table(workspace / "labels" / label_hash / "outcomes" / f"{task}.parquet").to_pylist()
        words = [row["state"] for row in rows]
        assert states == {word: words.count(word) for word in sorted(set(words))}
