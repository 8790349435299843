"""`platform tasks preview`: counts for everybody, rows of patients only where nobody else reads them."""

from __future__ import annotations

import json
import stat
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from presage_platform.errors import UsageError
from presage_platform.labeling import command
from presage_platform.labeling.command import Request
from presage_platform.labeling.tasks import cli, engine
from presage_platform.labeling.tasks.locks import DatabaseConcepts
from presage_platform.labeling.tasks.preview import preview, write_privately
from presage_platform.postgres.connection import open_database
from presage_platform.settings import Settings
from tests.lib.label_hospital import Hospital, fill

SETS = 'concept_sets:\n  outcome: {include: ["SNOMED:L1"]}\nrequires: [condition_occurrence]\n'
HEADER = "/*---\ntask: {name}\nversion: 1\ntitle: A probe\n{more}---*/\n"
BODY = (
    "select i.study_id, c.condition_start_date as event_date, c.condition_start_datetime as event_datetime,\n"
    "c.condition_concept_id as evidence_concept_id, c.condition_occurrence_id as evidence_id\n"
    "from task_index i join condition_occurrence c on c.person_id = i.person_id\n"
    "join cs_outcome o on o.concept_id = c.condition_concept_id\n"
)


@pytest.fixture
def labelled(settings: Settings, tmp_path: Path) -> tuple[Settings, Hospital, Path]:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "in_sql.sql").write_text(HEADER.format(name="in_sql", more=SETS) + BODY)
    (folder / "in_kernel.sql").write_text(HEADER.format(name="in_kernel", more=f"kind: concept\n{SETS}"))
    with open_database(settings, command="test") as database, database.connect() as connection:
        hospital = fill(connection)
        engine.lock_tasks(sorted(folder.glob("*.sql")), DatabaseConcepts(connection))
    labeling = settings.labeling.model_copy(update={"k": 6, "min_events": 1, "bins": 4, "guard_scope": "none"})
    settings = settings.model_copy(update={"labeling": labeling})
    command.label(settings, Request(tasks=folder, allow_fewer=True, skip_tests=True))
    return settings, hospital, folder


def look(settings: Settings, path: Path, **more: Any) -> dict[str, Any]:
    return preview(settings, path, **({"number": 100, "show_patients": True, "seed": 20} | more))


def test_l77_evidence_rows_are_those_of_the_record(labelled: tuple[Settings, Hospital, Path]) -> None:
    settings, hospital, folder = labelled
    document = look(settings, folder / "in_sql.sql")
    wanted = {
        (study, number, when)
        for study, person, _ in hospital.scans
        for number, (who, concept, when, _) in enumerate(hospital.events, start=1)
        if who == person and concept in (1001, 1002)
    }
    found = {(r["study_id"], r["row_id"], datetime.fromisoformat(r["date"])) for r in document["rows"] if r["row_id"]}
    assert found == wanted, "before and after the scan alike"
    t0 = {study: when for study, _, when in hospital.scans}
    for row in document["rows"]:
        if row["row_id"] is None:
            assert row["state"] in ("censored", "competing", "masked") and row["days"] is None
            continue
        assert row["days"] == (datetime.fromisoformat(row["date"]) - t0[row["study_id"]]).days
        assert row["table"] == "condition_occurrence" and "effusion" in row["concept"].lower()


def test_l77_the_row_that_decided_is_marked(labelled: tuple[Settings, Hospital, Path]) -> None:
    settings, _, folder = labelled
    rows = look(settings, folder / "in_sql.sql")["rows"]
    by_study: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        by_study.setdefault(row["study_id"], []).append(row)
    for events in by_study.values():
        decided = [row for row in events if row["decided"]]
        state = events[0]["state"]
        assert len(decided) == (state in ("event", "prevalent")), state
        if state == "event":
            assert decided[0]["days"] >= 0 and all(r["days"] <= 9 or r["days"] >= decided[0]["days"] for r in events)
        if state == "prevalent":
            assert decided[0]["days"] <= 9


def test_l77_a_concept_task_shows_the_same_events(labelled: tuple[Settings, Hospital, Path]) -> None:
    settings, _, folder = labelled
    ours, theirs = (look(settings, folder / f"{name}.sql") for name in ("in_kernel", "in_sql"))
    assert ours["states"] == theirs["states"]
    keys = ("study_id", "state", "date", "concept", "table")

    def shown(document: dict[str, Any]) -> set[tuple[Any, ...]]:
        return {tuple(row[key] for key in keys) for row in document["rows"]}

    assert shown(ours) == shown(theirs)


def test_l77_the_sample_is_seeded_and_bounded(labelled: tuple[Settings, Hospital, Path]) -> None:
    settings, _, folder = labelled
    path = folder / "in_sql.sql"
    one, again, other = (
        look(settings, path, number=2),
        look(settings, path, number=2),
        look(settings, path, number=2, seed=1),
    )
    assert one == again != other
    studies = {(row["state"], row["study_id"]) for row in one["rows"]}
    for state, count in one["states"].items():
        assert sum(name == state for name, _ in studies) == min(2, count)
    assert look(settings, path, show_patients=False)["rows"] == []


def test_l77_patients_are_shown_to_a_terminal_or_to_a_private_file(
    labelled: tuple[Settings, Hospital, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    settings, _, folder = labelled
    monkeypatch.setattr(cli, "_settings", lambda workspace: settings)
    path, workspace = folder / "in_sql.sql", settings.workspace
    with pytest.raises(UsageError, match="to a terminal only"):
        cli.tasks_preview(path, show_patients=True, workspace=workspace)
    out = workspace / "preview.json"
    out.write_text("")
    out.chmod(0o644)
    cli.tasks_preview(path, number=3, show_patients=True, out=out, workspace=workspace, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["rows"] == [] and printed["states"], "what is printed holds no patient"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert json.loads(out.read_text())["rows"]
    with pytest.raises(UsageError, match="outside the workspace"):
        write_privately(settings, tmp_path / "elsewhere.json", {})
    assert not (tmp_path / "elsewhere.json").exists()
