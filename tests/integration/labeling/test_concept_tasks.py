"""Concept tasks go through the kernel, with or without a database, and give what the same task in SQL gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from presage_platform.errors import TaskError
from presage_platform.labeling import command
from presage_platform.labeling.command import Request
from presage_platform.labeling.store import open_labels
from presage_platform.labeling.tasks import kernel
from presage_platform.labeling.tasks.engine import lock_tasks
from presage_platform.labeling.tasks.locks import DatabaseConcepts, FolderConcepts
from presage_platform.postgres.connection import open_database
from presage_platform.settings import Settings
from tests.lib.label_hospital import ABOVE, CONCEPTS, fill

HEADER = "/*---\ntask: {name}\nversion: 1\ntitle: A probe\n{more}---*/\n"
SETS = 'concept_sets:\n  outcome: {include: ["SNOMED:L1"]}\nrequires: [condition_occurrence]\n'
BODY = (
    "select i.study_id, c.condition_start_date as event_date, c.condition_start_datetime as event_datetime\n"
    "from task_index i join condition_occurrence c on c.person_id = i.person_id\n"
    "join cs_outcome o on o.concept_id = c.condition_concept_id\n"
)
SEMANTICS = ["", "min_lag: 0 days\nvisit_guard: none\nlookback: 300 days\n", "same_day: include\nhorizon: 200 days\n"]


def write(folder: Path, name: str, more: str, body: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.sql"
    path.write_text(HEADER.format(name=name, more=more) + body)
    return path


def write_vocabulary(folder: Path, *, version: str | None = "v5.0 test") -> None:
    names = ("concept_id", "concept_name", "domain_id", "vocabulary_id", "concept_class_id", "standard_concept")
    concepts = {name: [c[i] for c in CONCEPTS] for i, name in enumerate((*names, "concept_code"))}
    pq.write_table(pa.table(concepts), folder / "concept.parquet")
    rows = [(c[0], c[0], 0) for c in CONCEPTS if c[5] == "S"] + list(ABOVE)
    columns = ("ancestor_concept_id", "descendant_concept_id", "min_levels_of_separation")
    pairs = {name: [row[i] for row in rows] for i, name in enumerate(columns)}
    pq.write_table(pa.table(pairs), folder / "concept_ancestor.parquet")
    relation = {"concept_id_1": [2001], "concept_id_2": [1003], "relationship_id": ["Maps to"]}
    pq.write_table(pa.table(relation), folder / "concept_relationship.parquet")
    if version is not None:
        table = {"vocabulary_id": ["None"], "vocabulary_version": [version]}
        pq.write_table(pa.table(table), folder / "vocabulary.parquet")


@pytest.fixture
def hospital(settings: Settings) -> Settings:
    with open_database(settings, command="test") as database, database.connect() as connection:
        fill(connection)
    labeling = settings.labeling.model_copy(update={"k": 6, "min_events": 1, "bins": 4, "guard_scope": "none"})
    return settings.model_copy(update={"labeling": labeling})


def lock_in_database(files: list[Path], settings: Settings) -> None:
    with open_database(settings, command="test") as database, database.connect() as connection:
        lock_tasks(files, DatabaseConcepts(connection), database)


def rows_of(settings: Settings, label_hash: str, name: str) -> list[dict[str, Any]]:
    path = open_labels(settings, label_hash).path / "outcomes" / f"{name}.parquet"
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def test_l62_a_concept_task_equals_the_same_task_in_sql(hospital: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    files = []
    for number, more in enumerate(SEMANTICS):
        files.append(write(folder, f"in_kernel_{number}", f"kind: concept\n{SETS}{more}"))
        files.append(write(folder, f"in_sql_{number}", SETS + more, BODY))
    lock_in_database(files, hospital)
    report = command.label(hospital, Request(tasks=folder, allow_fewer=True, skip_tests=True))
    seen = set()
    for number in range(len(SEMANTICS)):
        ours = rows_of(hospital, report.label_hash, f"in_kernel_{number}")
        assert ours == rows_of(hospital, report.label_hash, f"in_sql_{number}")
        seen |= {row["state"] for row in ours}
    assert {"event", "prevalent", "censored"} <= seen


def test_l27_death_as_a_concept_keeps_the_conventions_of_death(hospital: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    more = "risk: next\ncompeting: []\nrequires: [death]\n"
    sets = 'concept_sets: {died: {include: ["SNOMED:419620001"]}}\n'
    body = "select i.study_id, d.death_date as event_date from task_index i join death d on d.person_id = i.person_id\n"
    files = [
        write(folder, "in_kernel", f"kind: concept\n{sets}{more}"),
        write(folder, "in_sql", more, body),
    ]
    lock_in_database(files, hospital)
    report = command.label(hospital, Request(tasks=folder, allow_fewer=True, skip_tests=True))
    ours = rows_of(hospital, report.label_hash, "in_kernel")
    assert ours == rows_of(hospital, report.label_hash, "in_sql")
    assert {"event", "censored"} == {row["state"] for row in ours}


def test_l62_all_concept_tasks_of_one_semantics_are_one_pass(
    hospital: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tasks"
    codes = ["SNOMED:L", "SNOMED:L1", "SNOMED:L11", "SNOMED:L2", "SNOMED:H", "RxNorm:D1", "LOINC:M1"]
    files = [
        write(folder, f"concept_{number}", f'kind: concept\nconcept_sets: {{a: {{include: ["{code}"]}}}}\n')
        for number, code in enumerate(codes)
    ]
    lock_in_database(files, hospital)
    passes = []
    label_shard = kernel.label_shard

    def counting(*arguments: Any, **more: Any) -> Any:
        passes.append(1)
        return label_shard(*arguments, **more)

    monkeypatch.setattr(kernel, "label_shard", counting)
    report = command.label(hospital, Request(tasks=folder, allow_fewer=True))
    assert report.numbers["outcomes"] == len(codes) and len(passes) == 1
    prevalent = [
        np.array([r["prevalent"] for r in rows_of(hospital, report.label_hash, f"concept_{n}")]) for n in (0, 1, 2)
    ]
    assert (prevalent[0] >= prevalent[1]).all() and (prevalent[1] >= prevalent[2]).all()


def test_l62_concept_tasks_run_without_a_database(
    hospital: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tasks"
    path = write(folder, "effusion_task", f"kind: concept\n{SETS}")
    lock_in_database([path], hospital)
    first = command.label(hospital, Request(tasks=folder, allow_fewer=True))
    wanted = rows_of(hospital, first.label_hash, "effusion_task")
    in_database = path.with_name("effusion_task.lock.json").read_bytes()

    studies = open_labels(hospital, first.label_hash).studies
    pq.write_table(
        pa.table({n: studies.column(n) for n in ("study_id", "person_id", "t0")}), tmp_path / "index.parquet"
    )
    write_vocabulary(tmp_path)
    path.with_name("effusion_task.lock.json").unlink()
    lock_tasks([path], FolderConcepts(tmp_path))
    assert path.with_name("effusion_task.lock.json").read_bytes() == in_database, "one lock, wherever it is made"

    monkeypatch.setattr(command, "open_database", None)  # whatever opened a database now would fail
    request = Request(
        index=tmp_path / "index.parquet",
        snapshot=first.snapshot_id,
        vocabulary=tmp_path,
        tasks=folder,
        allow_fewer=True,
    )
    again = command.label(hospital, request)
    assert rows_of(hospital, again.label_hash, "effusion_task") == wanted
    assert command.label(hospital, request).numbers["outcomes"] == 1, "found again"

    write_vocabulary(tmp_path, version="v5.0 other")
    with pytest.raises(TaskError, match=r"locked with vocabulary v5\.0 test, found v5\.0 other"):
        command.label(hospital, request)


def test_l61_a_code_that_is_not_standard_goes_through_maps_to_in_a_folder_too(tmp_path: Path) -> None:
    write_vocabulary(tmp_path, version=None)
    concepts = FolderConcepts(tmp_path)
    assert concepts.version() == "unversioned"
    assert concepts.standard("ICD9CM", "486") == [(1003, "Pneumonia")]
    assert concepts.standard("SNOMED", "L1") == [(1001, "Pleural effusion")]
    assert concepts.standard("SNOMED", "nowhere") == []
    assert concepts.with_descendants({1001}) == {1001, 1002}
