"""Outcome tasks of `platform label`: tested first, made once, and one that fails does not take the others with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from presage_platform.errors import ExitCode, LimitError, TaskError, TaskTestError
from presage_platform.labeling import command
from presage_platform.labeling.command import Request
from presage_platform.labeling.store import LabelStore, open_labels
from presage_platform.labeling.tasks import engine
from presage_platform.labeling.tasks.library import copy_tasks
from presage_platform.labeling.tasks.locks import EDEMA_WARNING, DatabaseConcepts
from presage_platform.postgres.connection import open_database
from presage_platform.settings import Settings
from tests.lib.label_hospital import fill

EFFUSION = """/*---
task: effusion
version: 1
title: An effusion
concept_sets:
  outcome: {include: ["SNOMED:L1"]}
requires: [condition_occurrence]
---*/
select i.study_id, c.condition_start_date as event_date
from   task_index i
join   condition_occurrence c on c.person_id = i.person_id
join   cs_outcome o on o.concept_id = c.condition_concept_id
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy_tasks("all_cause_mortality", tmp_path / "tasks")
    return tmp_path / "tasks"


@pytest.fixture
def hospital(settings: Settings) -> Settings:
    with open_database(settings, command="test") as database, database.connect() as connection:
        fill(connection)
    labeling = settings.labeling.model_copy(update={"k": 6, "min_events": 1, "bins": 4, "guard_scope": "none"})
    return settings.model_copy(update={"labeling": labeling})


def lock(folder: Path, settings: Settings) -> None:
    with open_database(settings, command="test") as database, database.connect() as connection:
        engine.lock_tasks(sorted(folder.glob("*.sql")), DatabaseConcepts(connection), database)


def label(settings: Settings, folder: Path, **more: Any) -> tuple[Any, LabelStore]:
    report = command.label(settings, Request(tasks=folder, allow_fewer=True, **more))
    return report, open_labels(settings, report.label_hash)


def test_l71_a_pass_is_remembered_until_text_fixture_or_code_change(
    hospital: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []
    run_fixture = engine.run_fixture
    monkeypatch.setattr(engine, "run_fixture", lambda *given: ran.append(1) or run_fixture(*given))
    lock(folder, hospital)
    for expected in (1, 1):
        label(hospital, folder)
        assert len(ran) == expected
    fixture = folder / "tests" / "all_cause_mortality.yaml"
    fixture.write_text(fixture.read_text() + "# another word\n")
    label(hospital, folder)
    assert len(ran) == 2
    monkeypatch.setattr("presage_platform.labeling.tasks.passes.engine_sha256", lambda: "other code")
    label(hospital, folder)
    assert len(ran) == 3


def test_l71_a_failing_fixture_stops_the_run_before_anything_is_written(hospital: Settings, folder: Path) -> None:
    lock(folder, hospital)
    fixture = folder / "tests" / "all_cause_mortality.yaml"
    fixture.write_text(fixture.read_text().replace("state: event", "state: competing", 1))
    with pytest.raises(TaskTestError) as raised:
        label(hospital, folder)
    assert raised.value.exit_code == ExitCode.TASK_TEST
    assert not hospital.labels_dir.exists()


def test_l71_skipped_tests_are_noted_until_they_are_run(hospital: Settings, folder: Path) -> None:
    lock(folder, hospital)
    _, store = label(hospital, folder, skip_tests=True)
    assert store.outcome_cautions("all_cause_mortality") == [
        "task all_cause_mortality: its own tests were not run (--skip-tests)"
    ]
    written = (store.path / "outcomes" / "all_cause_mortality.parquet").stat().st_mtime_ns
    _, store = label(hospital, folder)
    assert store.outcome_cautions("all_cause_mortality") == []
    assert (store.path / "outcomes" / "all_cause_mortality.parquet").stat().st_mtime_ns == written, "found again"
    _, store = label(hospital, folder, skip_tests=True)
    assert store.outcome_cautions("all_cause_mortality") == [], "these rows have passed"


def test_l83_a_task_that_fails_leaves_the_others_and_is_made_by_the_next_run(hospital: Settings, folder: Path) -> None:
    (folder / "effusion.sql").write_text(EFFUSION)
    broken = EFFUSION.replace(
        "c.condition_start_date as", "(c.condition_start_date - i.t0_date) / 0 + date '2020-01-01' as"
    )
    path = folder / "effusion.sql"
    path.write_text(broken)
    lock(folder, hospital)
    with pytest.raises(TaskError, match=r"task effusion: .*SQLSTATE 22012; 1 other outcomes stand") as raised:
        label(hospital, folder, skip_tests=True)
    assert raised.value.exit_code == ExitCode.TASK and "\n" not in str(raised.value)
    store = open_labels(hospital)
    assert store.outcomes == ["all_cause_mortality"]
    written = (store.path / "outcomes" / "all_cause_mortality.parquet").stat().st_mtime_ns

    path.write_text(EFFUSION.replace("version: 1", "version: 2"))
    lock(folder, hospital)
    report, store = label(hospital, folder, skip_tests=True)
    assert report.numbers["outcomes"] == 2 and store.outcomes == ["all_cause_mortality", "effusion"]
    assert (store.path / "outcomes" / "all_cause_mortality.parquet").stat().st_mtime_ns == written

    path.write_text(broken.replace("version: 1", "version: 3"))
    lock(folder, hospital)
    with pytest.raises(TaskError):
        label(hospital, folder, skip_tests=True)
    assert open_labels(hospital).outcomes == ["all_cause_mortality"], "old rows are not what the new text means"


def test_l83_a_limit_has_its_exit_code(hospital: Settings, folder: Path) -> None:
    lock(folder, hospital)
    tight = hospital.model_copy(update={"labeling": hospital.labeling.model_copy(update={"max_cost": 0.5})})
    with pytest.raises(LimitError, match=r"^limit: task all_cause_mortality: .*max_cost") as raised:
        label(tight, folder)
    assert raised.value.exit_code == ExitCode.LIMIT


def test_l63_a_warning_is_printed_on_every_run_and_kept_with_the_outcome(hospital: Settings, folder: Path) -> None:
    (folder / "effusion.sql").write_text(EFFUSION.replace("requires:", f'warn: "{EDEMA_WARNING}"\nrequires:'))
    lock(folder, hospital)
    for _ in range(2):
        report, store = label(hospital, folder, skip_tests=True)
        assert f"warning: effusion: {EDEMA_WARNING}" in report.text()
    assert f"task effusion: {EDEMA_WARNING}" in store.outcome_cautions("effusion")
