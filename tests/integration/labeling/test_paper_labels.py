"""The paper's mode on a real PostgreSQL: task set and labels against a plain reading of the same rows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from presage_platform.labeling import command
from presage_platform.labeling.command import Request
from presage_platform.labeling.store import LabelStore, open_labels
from presage_platform.labeling.timeline import Snapshot
from presage_platform.postgres.connection import open_database
from presage_platform.settings import Settings
from tests.lib.label_hospital import ABOVE, Hospital, fill

SMALL: dict[str, Any] = {"k": 8, "bins": 3, "mode": "paper"}
PARENTS: dict[int, set[int]] = {}
for _ancestor, _descendant, _levels in ABOVE:
    if _levels == 1:
        PARENTS.setdefault(_descendant, set()).add(_ancestor)
VISIT = (9201, datetime(2018, 3, 1))


def with_labeling(settings: Settings, **changes: Any) -> Settings:
    """Return the settings with some keys of `[labeling]` changed."""
    return settings.model_copy(update={"labeling": settings.labeling.model_copy(update={**SMALL, **changes})})


@pytest.fixture
def hospital(settings: Settings) -> Iterator[Hospital]:
    with open_database(settings, command="test") as database, database.connect() as connection:
        yield fill(connection)


def run(settings: Settings) -> LabelStore:
    report = command.label(settings, Request(allow_fewer=True))
    return open_labels(settings, report.label_hash)


def records(hospital: Hospital) -> dict[int, list[tuple[int, datetime]]]:
    """Return concept and raw time of everything a person has: events, the visit, the death."""
    persons = {person for _, person, _ in hospital.scans}
    found = {person: [VISIT] for person in persons}
    for person, concept, when, _ in hospital.events:
        found[person].append((concept, when))
    for person in persons:
        if person % 9 == 0:
            found[person].append((4306655, datetime(2021, 3, 4)))
    return found


def closed(concepts: set[int]) -> set[int]:
    found, open_ = set(concepts), list(concepts)
    while open_:
        above = PARENTS.get(open_.pop(), set()) - found
        found |= above
        open_ += above
    return found


def expected_tasks(hospital: Hospital, train: set[int], with_events: set[int]) -> list[int]:
    """Return the tasks by the rule's formula, in plain Python."""
    sets = {p: closed({concept for concept, _ in events}) for p, events in records(hospital).items() if p in train}
    p = {c: sum(c in held for held in sets.values()) / len(sets) for c in set().union(*sets.values())}
    ranked = []
    for concept, share in p.items():
        base = min([1.0, *(p[parent] for parent in PARENTS.get(concept, ()))])
        q = min(1.0, share / base)
        if 0 < q < 1 and concept in with_events:
            ranked.append((round(base * (q * math.log(q) + (1 - q) * math.log(1 - q)), 12), concept))
    return [concept for _, concept in sorted(ranked)]


def test_l36_tasks_and_labels_equal_a_plain_reading(settings: Settings, hospital: Hospital) -> None:
    labels = run(with_labeling(settings))
    studies = {row["study_id"]: row for row in labels.studies.to_pylist()}
    train = {row["person_id"] for row in studies.values() if row["split"] == 0}
    happened: set[int] = set()
    plain: dict[int, dict[int, timedelta]] = {}
    for study, person, t0 in hospital.scans:
        rows = records(hospital)[person]
        plain[study] = {}
        for concept, when in rows:
            if when > t0:
                for task in closed({concept}):
                    plain[study][task] = min(plain[study].get(task, when - t0), when - t0)
        happened |= plain[study].keys() if person in train else set()
    names = [int(name.split(":")[1]) for name in labels.task_names]
    assert names == expected_tasks(hospital, train, happened)[:8]
    for study, person, t0 in hospital.scans:
        row, last = studies[study], max(when for _, when in records(hospital)[person])
        mine = {task: time for task, time in plain[study].items() if task in names}
        assert row["end_s"] == max((last - t0).total_seconds(), 0)
        assert (row["death_s"], row["end_cause"]) == (-1, 0)
        mask = (last <= t0) * 1 + (last.date() == t0.date()) * 16 + (not mine) * 32
        assert row["mask"] == mask
    for number, name in enumerate(labels.task_names):
        view = labels.task_view(name, risk="next")
        for study, time_s, cause in zip(view.study_id.tolist(), view.time_s.tolist(), view.cause.tolist(), strict=True):
            assert (cause == 1) == (names[number] in plain[study])
            if cause == 1:
                assert time_s == plain[study][names[number]].total_seconds()
    steps = [step["rule"] for step in json.loads((labels.path / "attrition.json").read_text())["steps"]]
    assert "record beyond the day of the scan" in steps and "an event of some task" in steps


@pytest.mark.parametrize("mode", ["default", "paper", "paper-floor"])
@pytest.mark.parametrize("anchor", ["ct", "paper"])
def test_l35_valid_and_test_rows_do_not_touch_the_task_set(
    settings: Settings, hospital: Hospital, mode: str, anchor: str
) -> None:
    """Delete, add and move rows of all other persons: the task set stays byte for byte."""
    chosen = with_labeling(settings, mode=mode, anchor=anchor, min_events=1, bins=2)
    first = run(chosen)
    held_out = sorted({row["person_id"] for row in first.studies.to_pylist() if row["split"] != 0})
    assert held_out
    with open_database(settings, command="test") as database, database.connect() as connection:
        connection.execute("DELETE FROM condition_occurrence WHERE person_id = ANY(%s)", [held_out])
        connection.execute(
            "UPDATE drug_exposure SET drug_exposure_start_date = '2019-01-01', drug_exposure_start_datetime = NULL"
            " WHERE person_id = ANY(%s)",
            [held_out],
        )
        for number, person in enumerate(held_out):  # a concept that no train person has
            connection.execute(
                "INSERT INTO condition_occurrence (condition_occurrence_id, person_id, condition_concept_id,"
                " condition_start_date, condition_type_concept_id) VALUES (%s, %s, 8527, '2020-06-01', 32817)",
                [50_000 + number, person],
            )
        connection.commit()
    again = run(chosen)
    assert again.manifest["inputs"]["snapshot_id"] != first.manifest["inputs"]["snapshot_id"]
    assert (again.path / "tasks.parquet").read_bytes() == (first.path / "tasks.parquet").read_bytes()
    assert (again.path / "bins.json").read_bytes() == (first.path / "bins.json").read_bytes()


@pytest.mark.parametrize("mode", ["paper", "paper-floor"])
def test_l42_shards_and_workers_change_no_task(settings: Settings, hospital: Hospital, mode: str) -> None:
    one = run(with_labeling(settings, mode=mode, anchor="paper"))
    many = settings.model_copy(update={"parallel": settings.parallel.model_copy(update={"workers": 2})})
    four = run(with_labeling(many, mode=mode, anchor="paper", n_shards=4, connections=1))
    assert four.tasks.equals(one.tasks) and four.num_shards == 4
    assert four.bins.edges_s.tolist() == one.bins.edges_s.tolist()


def test_l36_the_floor_counts_no_event_that_carries_a_value(settings: Settings, hospital: Hospital) -> None:
    with open_database(settings, command="test") as database, database.connect() as connection:
        connection.execute("UPDATE measurement SET value_as_number = 88")
        connection.execute("DELETE FROM measurement WHERE person_id % 2 = 0")  # else everybody has one
        connection.commit()
    paper, floor = run(with_labeling(settings)), run(with_labeling(settings, mode="paper-floor"))
    assert "concept:1006" in paper.task_names and "concept:1006" not in floor.task_names
    manifest = Snapshot.open(settings.timeline_dir / floor.manifest["inputs"]["snapshot_id"]).manifest
    assert manifest["settings"]["value_flag"] is True


def test_l53_all_anchors_equal_a_plain_reading(settings: Settings, hospital: Hospital) -> None:
    """Every day boundary of every train person's record, as pseudo-studies through the paper's semantics."""
    labels = run(with_labeling(settings, anchor="paper", anchors="all"))
    assert labels.bins.anchor == "paper"
    names = [int(name.split(":")[1]) for name in labels.task_names]
    train = {row["person_id"] for row in labels.studies.to_pylist() if row["split"] == 0}
    times, exposure, events = [], np.zeros(len(names)), np.zeros(len(names))
    for person in train:
        rows = records(hospital)[person]
        last = max(when for _, when in rows)
        for day in sorted({when.date() for _, when in rows})[:-1]:
            t0 = datetime(day.year, day.month, day.day, 23, 59, 59)
            for k, task in enumerate(names):
                after = [w for c, w in rows if w > t0 and task in closed({c})]
                until = (min(after, default=last) - t0).total_seconds()
                exposure[k] += until
                if after:
                    times.append(until)
                    events[k] += 1
    assert labels.bins.num_events.tolist() == events.tolist()
    assert labels.bins.exposure_s.tolist() == exposure.tolist()
    ordered = sorted(times)
    ranks = [math.ceil(step * len(ordered) / 3) - 1 for step in (1, 2)]
    assert labels.bins.edges_s.tolist() == [0, *(ordered[rank] for rank in ranks), math.inf]


def test_l53_a_sample_of_anchors_is_seeded(settings: Settings, hospital: Hospital) -> None:
    sampled = with_labeling(settings, anchor="paper", anchors=150)
    one = run(sampled)
    other = run(with_labeling(settings, anchor="paper", anchors=150, n_shards=2))
    every = run(with_labeling(settings, anchor="paper", anchors="all"))
    assert one.bins.edges_s.tolist() == other.bins.edges_s.tolist()
    assert one.bins.exposure_s.tolist() == other.bins.exposure_s.tolist() != every.bins.exposure_s.tolist()
