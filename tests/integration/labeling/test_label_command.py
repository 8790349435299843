"""`platform label` on a real PostgreSQL: first occurrences equal a plain reading, everything is found again by hash."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from presage_platform.errors import InputError, IntegrityError, QualityError, TaskError, UsageError
from presage_platform.labeling import command
from presage_platform.labeling.command import Request
from presage_platform.labeling.store import LabelStore, open_labels
from presage_platform.labeling.tasks.engine import lock_tasks
from presage_platform.labeling.tasks.library import copy_tasks
from presage_platform.labeling.tasks.locks import FolderConcepts
from presage_platform.labeling.timeline import Snapshot
from presage_platform.postgres.connection import open_database
from presage_platform.settings import Settings
from tests.lib.label_hospital import ABOVE, CONCEPTS, Hospital, fill

SMALL = {"k": 6, "min_events": 1, "bins": 4}


def with_labeling(settings: Settings, **changes: Any) -> Settings:
    """Return the settings with some keys of `[labeling]` changed."""
    labeling = settings.labeling.model_copy(update={**SMALL, **changes})
    return settings.model_copy(update={"labeling": labeling})


@dataclass
class Run:
    settings: Settings
    hospital: Hospital
    report: Any

    @property
    def store(self) -> LabelStore:
        return open_labels(self.settings, self.report.label_hash)


@pytest.fixture
def run(settings: Settings) -> Iterator[Run]:
    with open_database(settings, command="test") as database, database.connect() as connection:
        hospital = fill(connection)
    chosen = with_labeling(settings)
    yield Run(chosen, hospital, command.label(chosen, Request(allow_fewer=True)))


def test_l47_first_occurrences_equal_a_plain_reading(run: Run) -> None:
    below = {c[0]: {c[0]} for c in CONCEPTS}
    for ancestor, descendant, _ in ABOVE:
        below[ancestor].add(descendant)
    labels = run.store
    assert labels.num_studies == len(run.hospital.scans) and labels.num_tasks >= 4
    t0_of = {study: (person, t0) for study, person, t0 in run.hospital.scans}
    dead = {
        row["person_id"]: datetime(2021, 3, 4, 23, 59, 59) for row in labels.studies.to_pylist() if row["end_cause"]
    }
    for name in labels.task_names:
        concepts = below[int(name.split(":")[1])]
        view = labels.task_view(name, risk="next")
        for row, study in enumerate(view.study_id.tolist()):
            person, t0 = t0_of[study]
            until = dead.get(person, run.hospital.data_cut + timedelta(days=1, seconds=-1))
            times = [e[2] for e in run.hospital.events if e[0] == person and e[1] in concepts]
            after = [time for time in times if t0 < time <= until]
            expected = min(after, default=until) - t0
            assert view.time_s[row] == expected.total_seconds()
            assert (view.cause[row] == 1) == bool(after)
            assert view.prevalent[row] == any(time <= t0 for time in times)


def test_l50_a_second_run_finds_everything_again(run: Run) -> None:
    before = sorted(
        (p, p.stat().st_mtime_ns) for p in run.settings.workspace.rglob("*") if p.suffix in (".npy", ".json")
    )
    again = command.label(run.settings, Request(allow_fewer=True))
    assert again.reused and again.label_hash == run.report.label_hash and again.snapshot_id == run.report.snapshot_id
    after = sorted(
        (p, p.stat().st_mtime_ns) for p in run.settings.workspace.rglob("*") if p.suffix in (".npy", ".json")
    )
    assert after == before


def test_l09_extraction_equals_a_row_by_row_read(run: Run) -> None:
    snapshot = Snapshot.open(run.settings.timeline_dir / run.report.snapshot_id)
    table = pq.read_table(snapshot.path / "shard-00000.parquet").to_pylist()
    epoch = datetime(1970, 1, 1)
    ours = {
        (e["person_id"], e["concept"], e["time"], bool(e["flags"] & 8)) for e in table if e["flags"] & 7 not in (6, 7)
    }
    theirs = {(p, c, int((when - epoch).total_seconds()), bare) for p, c, when, bare in run.hospital.events}
    assert ours == theirs
    order = [(e["person_id"], e["time"], e["concept"], e["flags"]) for e in table]
    assert order == sorted(set(order)), "sorted by (person, time, concept, flags), no duplicates"
    assert {e["concept"] for e in table if e["flags"] & 7 == 7} == {4306655}


def test_l10_shard_and_worker_count_change_no_label(run: Run) -> None:
    other = with_labeling(run.settings, n_shards=4)
    report = command.label(other, Request(allow_fewer=True))
    assert report.snapshot_id != run.report.snapshot_id
    one, four = run.store, open_labels(other, report.label_hash)
    assert four.num_shards == 4 and four.task_names == one.task_names
    for name in one.task_names:
        ours, theirs = one.task_view(name), four.task_view(name)
        order = np.argsort(theirs.study_id)
        assert theirs.time_s[order].tolist() == ours.time_s[np.argsort(ours.study_id)].tolist()


def test_l05_a_person_has_one_part_and_the_manifest_stands(run: Run) -> None:
    manifest = json.loads((run.settings.labels_dir / "splits" / f"{run.report.split_id}.json").read_text())
    parts = {(row["person_id"], row["split"]) for row in run.store.studies.to_pylist()}
    assert len(parts) == len({person for person, _ in parts}) == sum(manifest["persons"].values())
    other = with_labeling(run.settings, split_seed=21)
    with pytest.raises(UsageError, match="--new-split"):
        command.label(other, Request(allow_fewer=True))
    assert command.label(other, Request(allow_fewer=True, new_split=True)).split_id != run.report.split_id


def test_l35_valid_and_test_rows_do_not_touch_the_task_set(run: Run) -> None:
    held_out = [r["person_id"] for r in run.store.studies.to_pylist() if r["split"] != 0]
    with open_database(run.settings, command="test") as database, database.connect() as connection:
        connection.execute("DELETE FROM condition_occurrence WHERE person_id = ANY(%s)", [held_out])
        connection.commit()
    report = command.label(run.settings, Request(allow_fewer=True))
    assert report.snapshot_id != run.report.snapshot_id
    assert open_labels(run.settings, report.label_hash).tasks.equals(run.store.tasks)


def test_l74_attrition_adds_up(run: Run) -> None:
    steps = json.loads((run.store.path / "attrition.json").read_text())["steps"]
    for before, after in itertools.pairwise(steps):
        assert [after[f"{n}_before"] for n in ("studies", "persons", "events")] == [
            before[f"{n}_after"] for n in ("studies", "persons", "events")
        ]
    unmasked = sum(row["mask"] == 0 for row in run.store.studies.to_pylist())
    assert (steps[0]["studies_after"], steps[-1]["studies_after"]) == (len(run.hospital.scans), unmasked)
    states = run.store.manifest["states"]
    for part in states.values():
        for k in range(run.store.num_tasks):
            assert (
                part["masked"] + sum(part[w][k] for w in ("prevalent", "event", "competing", "censored"))
                == part["studies"]
            )


def test_l94_covariates(run: Run) -> None:
    row = run.store.covariates.to_pylist()[0]
    study = run.store.studies.to_pylist()[0]
    t0 = next(t for s, _, t in run.hospital.scans if s == study["study_id"])
    assert row["age_years"] == t0.year - (1940 + study["person_id"] % 40)
    assert (row["sex"], row["race"], row["ethnicity"], row["manufacturer"]) == ("M", "White", None, "ACME")
    assert row["year"] == t0.year


def test_l39_excluded_concepts_are_no_tasks_and_say_why(run: Run) -> None:
    removed = {entry["concept_id"]: entry["by"] for entry in run.store.manifest["removed"]}
    assert "Visit" not in run.store.tasks.column("domain").to_pylist()
    assert removed[9201].startswith("exclusions.csv line") and "death" in removed[4306655]


def test_l40_a_guarded_outcome_leaves_the_task_set(run: Run, tmp_path: Path) -> None:
    lock = {"concept_sets": {"outcome": {"concept_ids": [1001]}}}
    (tmp_path / "pleural_effusion.lock.json").write_text(json.dumps(lock))
    report = command.label(run.settings, Request(allow_fewer=True, guard=tmp_path))
    names = set(open_labels(run.settings, report.label_hash).task_names)
    assert not names & {"concept:1000", "concept:1001", "concept:1002"} and "concept:1003" in names


def test_l73_files_alone_make_the_same_labels(run: Run, tmp_path: Path) -> None:
    studies = run.store.studies
    index = pa.table({n: studies.column(n) for n in ("study_id", "person_id", "t0")})
    pq.write_table(index, tmp_path / "index.parquet")
    _write_vocabulary(tmp_path)
    request = Request(
        index=tmp_path / "index.parquet", snapshot=run.report.snapshot_id, vocabulary=tmp_path, allow_fewer=True
    )
    report = command.label(run.settings, request)
    again = open_labels(run.settings, report.label_hash)
    assert again.task_names == run.store.task_names
    assert np.array_equal(again.array(0, "time"), run.store.array(0, "time"))
    copy_tasks("all_cause_mortality", tmp_path / "tasks")
    lock_tasks([tmp_path / "tasks" / "all_cause_mortality.sql"], FolderConcepts(tmp_path, "v5.0 test"))
    with pytest.raises(TaskError, match="needs the database"):
        command.label(run.settings, Request(**{**_fields(request), "tasks": tmp_path / "tasks"}))


def test_l73_a_dry_run_writes_nothing(run: Run) -> None:
    files = sorted(run.settings.workspace.rglob("*"))
    plan = command.plan(run.settings, Request())
    assert plan.numbers["studies"] == len(run.hospital.scans) and plan.numbers["rows_to_read"] > 0
    assert sorted(run.settings.workspace.rglob("*")) == files


def test_l50_verify_finds_a_flipped_byte(run: Run) -> None:
    assert command.verify(run.settings).numbers["stores"] == 1
    path = run.store.path / "shard-00000" / "time.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"shard-00000/time\.npy"):
        command.verify(run.settings)


def test_l83_bad_input_gives_one_line_and_writes_no_label(run: Run, tmp_path: Path) -> None:
    cases: list[tuple[type[Exception], str, Settings, Request]] = [
        (IntegrityError, "--allow-fewer", with_labeling(run.settings, k=100), Request()),
        (IntegrityError, "min_events", with_labeling(run.settings, min_events=5000), Request(allow_fewer=True)),
        (IntegrityError, "--bins", with_labeling(run.settings, bins=5000), Request(allow_fewer=True)),
        (UsageError, "no index file", run.settings, Request(index=tmp_path / "none.parquet")),
        (UsageError, "--snapshot", run.settings, Request(snapshot="0" * 16)),
    ]
    stores = sorted(run.settings.labels_dir.glob("*/manifest.json"))
    for kind, words, settings, request in cases:
        with pytest.raises(kind, match=words) as caught:
            command.label(settings, request)
        assert "\n" not in str(caught.value)
    assert sorted(run.settings.labels_dir.glob("*/manifest.json")) == stores
    assert not list(run.settings.workspace.rglob("*.partial"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"study_id": [1, 1]}, "index row 2: its study is listed twice"),
        ({"person_id": [1, None]}, "index row 2: person_id is missing"),
        ({"t0": [1_500_000_000, 4_000_000_000]}, "index row 2: t0 lies in the future"),
        ({"person_id": [1, 999_999]}, "index row 2: its person is not in the CDM"),
    ],
)
def test_l83_a_bad_index_row_is_named_by_number(run: Run, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    columns = {"study_id": [1, 2], "person_id": [1, 2], "t0": [1_520_000_000, 1_530_000_000], **change}
    path = tmp_path / "index.parquet"
    pq.write_table(pa.table({n: pa.array(v, pa.int64()) for n, v in columns.items()}), path)
    with pytest.raises(InputError, match=words):
        command.label(run.settings, Request(index=path, allow_fewer=True))


def test_two_studies_are_enough_when_the_sizes_fit(settings: Settings) -> None:
    with open_database(settings, command="test") as database, database.connect() as connection:
        fill(connection, persons=2, seed=11)
    tiny = with_labeling(settings, k=5, split_fractions=(1.0, 0.0, 0.0), bins=(30.0, 180.0, 365.0))
    report = command.label(tiny, Request(allow_fewer=True))
    labels = open_labels(tiny)
    assert labels.num_studies == 2 and report.numbers["train studies"] == 2
    assert labels.bins.edges_s.tolist() == [0, 30 * 86_400, 180 * 86_400, 365 * 86_400, float("inf")]
    assert (labels.bins.rate_per_s > 0).all()


def test_l83_an_empty_database_says_what_to_do(settings: Settings) -> None:
    with pytest.raises(InputError, match=r"platform etl fhir|data_cut"):
        command.label(with_labeling(settings), Request())


def _fields(request: Request) -> dict[str, Any]:
    return {name: getattr(request, name) for name in request.__slots__}


def _write_vocabulary(folder: Path) -> None:
    names = ("concept_id", "concept_name", "domain_id", "vocabulary_id", "concept_class_id", "standard_concept")
    concepts = {name: [c[i] for c in CONCEPTS] for i, name in enumerate((*names, "concept_code"))}
    pq.write_table(pa.table(concepts), folder / "concept.parquet")
    rows = [(c[0], c[0], 0) for c in CONCEPTS if c[5] == "S"] + list(ABOVE)
    columns = ("ancestor_concept_id", "descendant_concept_id", "min_levels_of_separation")
    pq.write_table(
        pa.table({n: [r[i] for r in rows] for i, n in enumerate(columns)}), folder / "concept_ancestor.parquet"
    )
    relation = {"concept_id_1": [2001], "concept_id_2": [1003], "relationship_id": ["Maps to"]}
    pq.write_table(pa.table(relation), folder / "concept_relationship.parquet")


def test_l09_every_connection_reads_one_state_while_another_writes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from presage_platform.labeling import extraction

    read, written = extraction._batches, []

    def writing_first(cursor: Any, query: str) -> Any:
        if not written:
            with open_database(run.settings, command="test") as database, database.connect() as connection:
                connection.execute("DELETE FROM condition_occurrence")
                connection.commit()
            written.append(True)
        return read(cursor, query)

    monkeypatch.setattr(extraction, "_batches", writing_first)
    in_full = with_labeling(run.settings, refresh="off", connections=3)
    assert command.label(in_full, Request(allow_fewer=True)).snapshot_id == run.report.snapshot_id
    assert written
    monkeypatch.undo()
    with pytest.raises(IntegrityError):
        command.label(with_labeling(run.settings, k=1000), Request())
    assert command.label(run.settings, Request(allow_fewer=True)).snapshot_id != run.report.snapshot_id


def test_l09_infinite_and_early_and_late_dates_are_dropped_and_counted(run: Run) -> None:
    with open_database(run.settings, command="test") as database, database.connect() as connection:
        for number, day in enumerate(("infinity", "-infinity", "1850-01-01", "2022-01-01"), start=1):
            connection.execute(
                "INSERT INTO condition_occurrence (condition_occurrence_id, person_id, condition_concept_id,"
                " condition_start_date, condition_type_concept_id) VALUES (%s, 1, 1001, %s, 32817)",
                [90_000 + number, day],
            )
        connection.commit()
    report = command.label(run.settings, Request(allow_fewer=True))
    assert report.snapshot_id == run.report.snapshot_id, "what is dropped leaves no trace in the events"
    # The counts stand in the manifest of the extraction that wrote the snapshot; read them from a new one.
    other = command.label(with_labeling(run.settings, n_shards=2), Request(allow_fewer=True))
    counts = Snapshot.open(run.settings.timeline_dir / other.snapshot_id).manifest["counts"]
    assert counts["dropped, condition_occurrence: before 1900 or infinite"] == 3
    assert counts["dropped, condition_occurrence: after the data cut"] == 1


def test_l40_a_report_is_warned_when_the_task_set_tells_the_outcome(run: Run, tmp_path: Path) -> None:
    """Without the guard the task set holds the outcome's concepts; with it, nothing overlaps and nothing is said."""
    from tests.integration.labeling.test_concept_tasks import SETS, lock_in_database, write

    path = write(tmp_path / "tasks", "effusion", f"kind: concept\n{SETS}")
    lock_in_database([path], run.settings)
    cautions = {}
    for scope in ("none", "full"):
        settings = with_labeling(run.settings, guard_scope=scope)
        request = Request(tasks=path.parent, guard=path.parent, allow_fewer=True, skip_tests=True)
        store = open_labels(settings, command.label(settings, request).label_hash)
        cautions[scope] = [text for text in store.outcome_cautions("effusion") if "task set" in text]
    # 1001 is the outcome, 1002 lies below it, 1000 above.
    overlap = {"concept:1000", "concept:1001", "concept:1002"} & set(run.store.task_names)
    assert overlap and cautions["none"][0].startswith(f"task effusion: {len(overlap)} tasks of the task set")
    assert cautions["full"] == []


def test_l75_a_leak_planted_in_the_index_visit_trips_the_audit(settings: Settings) -> None:
    """Heart failure is coded half an hour after every second scan, as billing for the stay would do it."""
    settings = settings.model_copy(update={"labeling": settings.labeling.model_copy(update={"k": 64, "min_events": 1})})
    with open_database(settings, command="test") as database:
        with database.connect() as connection:
            hospital = fill(connection)
            for number, (_, person, t0) in enumerate(hospital.scans):
                if number % 2 == 0:
                    when = t0 + timedelta(minutes=30)
                    connection.execute(
                        "INSERT INTO condition_occurrence (condition_occurrence_id, person_id, condition_concept_id,"
                        " condition_start_date, condition_start_datetime, condition_type_concept_id)"
                        " VALUES (%s, %s, 1004, %s, %s, 32817)",
                        [900_000 + number, person, when.date(), when],
                    )
            connection.commit()
        report = command.label(settings, Request(allow_fewer=True))
        audit = json.loads((settings.labels_dir / report.label_hash / "audit.json").read_text())["tasks"]
        (row,) = [row for row in audit if row["task"] == "concept:1004"]
        assert row["share_within_a_day"] > 0.2 and "lie within a day of the scan" in row["alarms"][0]
        with pytest.raises(QualityError, match="the audit raises"):
            command.label(settings, Request(allow_fewer=True, strict=True))
