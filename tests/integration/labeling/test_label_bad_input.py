"""Bad input to `platform label`: one line that begins as the table of the documentation says, a code, nothing written."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from presage_platform.errors import DiskFullError, ExitCode, PresageError
from presage_platform.labeling import command, outcomes
from presage_platform.labeling.command import Request
from presage_platform.labeling.store import open_labels
from presage_platform.labeling.tasks import engine
from presage_platform.labeling.tasks.library import copy_tasks
from presage_platform.labeling.tasks.locks import DatabaseConcepts
from presage_platform.postgres.connection import open_database
from presage_platform.settings import Settings
from tests.lib.label_hospital import fill


@pytest.fixture
def hospital(settings: Settings) -> Settings:
    with open_database(settings, command="test") as database, database.connect() as connection:
        fill(connection)
    labeling = settings.labeling.model_copy(update={"k": 6, "min_events": 1, "bins": 4, "guard_scope": "none"})
    return settings.model_copy(update={"labeling": labeling})


def execute(settings: Settings, *statements: str) -> None:
    with open_database(settings, command="test") as database, database.connect() as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]
        connection.commit()


def refused(settings: Settings, code: ExitCode, begins: str, **request: Any) -> str:
    with pytest.raises(PresageError) as raised:
        command.label(settings, Request(allow_fewer=True, **request))
    message = str(raised.value)
    assert raised.value.exit_code == code and message.startswith(begins), message
    assert "\n" not in message
    assert not list(settings.labels_dir.glob("*/manifest.json")) and not list(settings.workspace.rglob("*.partial"))
    return message


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE measurement CASCADE",
        "ALTER TABLE condition_occurrence DROP COLUMN condition_start_datetime",
        "DELETE FROM observation_period",
        "DELETE FROM concept_ancestor",
    ],
)
def test_l83_a_cdm_that_cannot_make_labels_is_named_with_its_remedy(hospital: Settings, change: str) -> None:
    execute(hospital, change)
    assert "platform " in refused(hospital, ExitCode.INPUT, "cdm:")


@pytest.mark.parametrize(
    ("old", "new", "begins"),
    [
        ("select i.study_id", "select i.*, i.study_id", "task all_cause_mortality: Q9 9:10"),
        ("risk: next", "rsk: next", "task all_cause_mortality: unknown key `rsk`, did you mean `risk`?"),
        ("version: 1", "version: 2", "task all_cause_mortality: changed since it was locked"),
        ("d.death_date as event_date", "d.death_datetime as event_date", "task all_cause_mortality: Q10 `event_date`"),
    ],
)
def test_l83_a_refused_task_stops_the_run_before_anything_is_written(
    hospital: Settings, tmp_path: Path, old: str, new: str, begins: str
) -> None:
    copy_tasks("all_cause_mortality", tmp_path)
    path = tmp_path / "all_cause_mortality.sql"
    text = path.read_text()
    contract = "Q10" in begins
    if contract:
        path.write_text(text.replace(old, new))
    with open_database(hospital, command="test") as database, database.connect() as connection:
        engine.lock_tasks([path], DatabaseConcepts(connection))
    if not contract:
        path.write_text(text.replace(old, new))
    refused(hospital, ExitCode.TASK, begins, tasks=tmp_path)


def test_l83_a_full_disk_leaves_the_store_whole_and_the_outcome_to_the_next_run(
    hospital: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_tasks("all_cause_mortality", tmp_path)
    path = tmp_path / "all_cause_mortality.sql"
    with open_database(hospital, command="test") as database, database.connect() as connection:
        engine.lock_tasks([path], DatabaseConcepts(connection))

    def full(table: Any, where: Path, **_: Any) -> None:
        Path(where).write_bytes(b"PAR1")
        raise OSError(errno.ENOSPC, "No space left on device")

    request = Request(allow_fewer=True, tasks=tmp_path)
    command.label(hospital, Request(allow_fewer=True))
    with monkeypatch.context() as broken:
        broken.setattr(outcomes.pq, "write_table", full)
        with pytest.raises(DiskFullError, match=r"^disk:") as raised:
            command.label(hospital, request)
    assert raised.value.exit_code == ExitCode.DISK_FULL
    assert open_labels(hospital).outcomes == [] and not list(hospital.workspace.rglob("*.partial"))
    assert command.label(hospital, request).numbers["outcomes"] == 1
