"""The kernel on a hospital small enough to read: every array it returns, written out by hand."""

from __future__ import annotations

import dataclasses
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from presage_platform.labeling import first_occurrence
from presage_platform.labeling.first_occurrence import ShardEvents, compiled, count_tasks, label_shard
from presage_platform.labeling.ontology import ConceptTasks
from presage_platform.labeling.semantics import risk_windows
from tests.lib.timelines import Happening, Person, Record, Scan, at, policy

T0 = at("2020-03-01 10:00")
WARD = ("2020-02-28 08:00", "2020-03-05 12:00")

HOSPITAL = Record(
    persons=[
        Person(
            events=[
                Happening("2019-05-05 12:00", 0),
                Happening("2020-03-02 09:00", 1),
                Happening("2020-03-02 09:00", 2),
                Happening("2020-06-01 00:00", 0),
                Happening("2021-01-01 00:00", 1),
            ],
            visits=[WARD],
        ),
        Person(),
        Person(
            events=[Happening("2020-04-01 06:00", 3), Happening("2020-04-02 06:00", 2)],
            visits=[("2020-03-31", "2020-04-01")],
        ),
    ],
    scans=[
        Scan("2020-03-01 10:00", 0),
        Scan("2020-03-01 10:00", 1),
        Scan("2020-03-10 10:00", 0),
        Scan("2020-03-01 10:00", 2),
        Scan("2020-04-01 05:00", 2),
    ],
    # Concepts 0 and 1 share task 9, 1 and 2 share task 1; task 8 is the first of a second byte of history bits.
    tasks={0: (0, 9), 1: (1, 9), 2: (1, 7), 3: (8,)},
    num_tasks=10,
)


def label(record: Record = HOSPITAL, **changes: Any) -> Any:
    return record.label(policy(**changes))


def test_l49_every_array_of_a_shard_is_exact() -> None:
    """Next times by task, history bits and codes of the visit, for five studies of three persons."""
    shard = label().shard
    june, january = at("2020-06-01") - T0, at("2021-01-01") - T0
    day = at("2020-03-02 09:00") - T0
    later = T0 - at("2020-03-10 10:00")
    assert shard.indptr.tolist() == [0, 4, 4, 7, 10, 13]
    assert shard.task.tolist() == [0, 1, 7, 9, 0, 1, 9, 1, 7, 8, 1, 7, 8]
    april = [at("2020-04-02 06:00"), at("2020-04-02 06:00"), at("2020-04-01 06:00")]
    assert shard.time.tolist() == (
        [june, day, day, day]
        + [june + later, january + later, june + later]
        + [time - T0 for time in april]
        + [time - at("2020-04-01 05:00") for time in april]
    )
    assert shard.prevalent.tolist() == [[1, 2], [0, 0], [0b10000011, 2], [0, 0], [0, 0]]
    assert shard.visit_indptr.tolist() == [0, 3, 3, 3, 3, 4]
    assert shard.visit_task.tolist() == [1, 7, 9, 8]


def test_l49_arrays_have_the_types_of_the_store() -> None:
    shard = label().shard
    types = [getattr(shard, name).dtype.name for name in ("indptr", "task", "time", "prevalent", "visit_indptr")]
    assert types == ["int64", "uint16", "int32", "uint8", "int64"]
    assert shard.visit_task.dtype == np.uint16
    wide = label(dataclasses.replace(HOSPITAL, num_tasks=65_537)).shard
    assert wide.task.dtype == wide.visit_task.dtype == np.uint32 and wide.prevalent.shape == (5, 8_193)
    assert wide.task.tolist() == shard.task.tolist()


@pytest.mark.parametrize(("num_tasks", "width"), [(8, 1), (9, 2), (16, 2), (17, 3)])
def test_l49_history_bits_fill_whole_bytes(num_tasks: int, width: int) -> None:
    record = Record([Person([Happening("2019-01-01 08:00")])], [Scan("2020-03-01 10:00")], {0: (num_tasks - 1,)})
    labels = dataclasses.replace(record, num_tasks=num_tasks).label(policy())
    assert labels.shard.prevalent.shape == (1, width)
    assert labels.prevalent() == {num_tasks - 1}


def test_l37_counts_of_selection_are_exact() -> None:
    """Studies a task with a next event, prevalent, and with an event though not prevalent."""
    assert counted(HOSPITAL).tolist() == [
        [2, 4, 0, 0, 0, 0, 0, 3, 2, 2],
        [2, 1, 0, 0, 0, 0, 0, 1, 0, 2],
        [0, 3, 0, 0, 0, 0, 0, 3, 2, 0],
    ]


@pytest.mark.parametrize("history", [0, 1, 2])
@pytest.mark.parametrize("future", [0, 1, 2])
def test_l37_a_prevalent_task_has_no_incident_event_whichever_concept_comes_first(history: int, future: int) -> None:
    """Three concepts of one task: history and event through the same or different ones, before and after each other."""
    persons = [Person([Happening("2019-01-01 08:00", history), Happening("2021-01-01 08:00", future)])] * 2
    record = Record(persons, [Scan("2020-03-01 10:00", 0), Scan("2020-03-01 10:00", 1)], {c: (0,) for c in range(3)}, 1)
    assert counted(record).tolist() == [[2], [2], [0]]


def test_l37_two_concepts_of_a_task_count_a_study_once() -> None:
    both = [Happening("2021-01-01 08:00", 0), Happening("2021-01-01 09:00", 1)]
    past = [Happening("2019-01-01 08:00", 0), Happening("2019-01-01 09:00", 1)]
    scans = [Scan("2020-03-01 10:00", 0), Scan("2020-03-01 10:00", 0), Scan("2020-03-01 10:00", 1)]
    record = Record([Person(both), Person(past)], scans, {0: (0,), 1: (0,)}, 1)
    assert counted(record).tolist() == [[2], [1], [2]]
    assert record.label(policy()).shard.indptr.tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("place", range(6))
def test_l37_a_study_counts_alike_at_every_place(place: int) -> None:
    """Studies without events stand before it and after it."""
    both = [Happening(when, concept) for when in ("2019-01-01 08:00", "2021-01-01 08:00") for concept in (0, 1)]
    persons = [Person(both if number == place else ()) for number in range(6)]
    scans = [Scan("2020-03-01 10:00", number) for number in range(6)]
    tasks = {0: (0, 1), 1: (0,), 2: (2,)}
    assert counted(Record(persons, scans, tasks, 3)).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    future = Record([Person(p.events[2:]) for p in persons], scans, tasks, 3)
    assert counted(future).tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 0]]


def test_l92_two_concepts_of_a_task_are_one_code_of_the_visit() -> None:
    events = [Happening("2020-03-01 11:00", 0), Happening("2020-03-01 12:00", 1)]
    scans = [Scan("2020-03-01 10:00"), Scan("2020-03-01 13:00")]
    shard = Record([Person(events, visits=[WARD])], scans, {0: (0,), 1: (0,)}, 1).label(policy()).shard
    assert (shard.visit_indptr.tolist(), shard.visit_task.tolist()) == ([0, 1, 2], [0, 0])


def test_l47_a_person_without_events_has_an_empty_range() -> None:
    """Persons below, between, above and among those of the shard."""
    events = shard_events([20, 40], [0, 2, 5])
    low, high = events.ranges(np.array([10, 20, 30, 40, 50]))
    assert (low.tolist(), high.tolist()) == ([0, 0, 0, 2, 0], [0, 2, 0, 5, 0])


def test_l47_an_empty_shard_has_empty_ranges_for_everyone() -> None:
    low, high = shard_events([], [0]).ranges(np.array([10, 20]))
    assert low.tolist() == high.tolist() == [0, 0]
    assert low.dtype == high.dtype == np.int64
    empty = Record([Person()], [Scan("2020-03-01 10:00")]).label(policy())
    assert empty.shard.indptr.tolist() == empty.shard.visit_indptr.tolist() == [0, 0]


def test_l47_events_of_a_shard_cannot_be_changed_and_are_themselves_only() -> None:
    events = shard_events([20], [0, 1])
    with pytest.raises(dataclasses.FrozenInstanceError):
        events.time = events.time  # type: ignore[misc]
    assert not hasattr(events, "__dict__")
    assert events != shard_events([20], [0, 1])


def test_l18_the_edges_of_a_study_on_one_concept_each() -> None:
    """History at r, event one second later, event at F, nothing one second after F."""
    events = [Happening(when, concept) for concept, when in enumerate(EDGES)]
    labels = Record([Person(events, periods=[("2015-01-01", "2020-12-31")])], [Scan("2020-03-01 10:00")]).label(
        policy()
    )
    assert labels.prevalent() == {0}
    assert labels.times() == {1: 1, 2: at("2020-12-31 23:59:59") - T0}


EDGES = ("2020-03-01 10:00", "2020-03-01 10:00:01", "2020-12-31 23:59:59", "2021-01-01")


@pytest.mark.parametrize("scan", ["1969-12-31 23:00", "1970-01-01 00:00", "1971-03-01 10:00"])
def test_l47_times_count_from_the_scan_around_1970_too(scan: str) -> None:
    """Seconds of the wall clock are negative before 1970 and small after it."""
    person = Person(
        [Happening("1969-12-31", 0), Happening("1975-01-01 08:00", 1)], periods=[("1960-01-01", "1980-12-31")]
    )
    labels = Record([person], [Scan(scan)]).label(policy())
    assert labels.times() == {1: at("1975-01-01 08:00") - at(scan)} and labels.prevalent() == {0}


def test_l92_codes_of_the_visit_reach_beyond_follow_up() -> None:
    """Follow-up ends inside the visit: its later codes are still codes of the visit, and no outcomes."""
    events = [Happening("2020-03-01", 0), Happening("2020-03-04 12:00", 1), Happening("2020-03-05 12:00", 2)]
    person = Person(events, visits=[WARD], periods=[("2015-01-01", "2020-03-03")])
    labels = Record([person], [Scan("2020-03-01 10:00")]).label(policy())
    assert labels.visit() == {0, 1, 2} and labels.times() == {} and labels.prevalent() == {0}


@pytest.mark.parametrize(
    ("when", "inside"),
    [
        ("2020-02-28", True),
        ("2020-02-27", False),
        ("2020-02-28 07:59:59", False),
        ("2020-02-28 08:00", True),
        ("2020-03-05 12:00", True),
        ("2020-03-05 12:00:01", False),
        ("2020-03-05", True),
        ("2020-03-06", False),
    ],
)
def test_l92_the_first_day_of_the_visit_holds_bare_dates(when: str, inside: bool) -> None:
    labels = Record([Person([Happening(when)], visits=[WARD])], [Scan("2020-03-01 10:00")]).label(policy())
    assert (labels.visit() == {0}) == inside


def test_l20_only_bare_dates_of_the_index_day_move_under_include() -> None:
    """A bare date of another day, and a midnight with a time, stay where they are; the flag is one bit of several."""
    events = [
        Happening("2020-03-01", 0, table=7),
        Happening("2020-03-01 00:00", 1, table=16 + 7),
        Happening("2020-02-29", 2),
        Happening("2020-03-02", 3),
    ]
    labels = Record([Person(events)], [Scan("2020-03-01 10:00")]).label(policy(same_day="include"))
    assert labels.prevalent() == {1, 2}
    assert labels.times() == {0: 14 * 3600 - 1, 3: 14 * 3600}


@pytest.mark.parametrize("same_day", ["exclude", "strict_day"])
def test_l20_bare_dates_of_the_index_day_stay_at_its_start_otherwise(same_day: str) -> None:
    """A lookback of no length ends at r: only an event at r itself is in it."""
    record = Record([Person([Happening("2020-03-01")])], [Scan("2020-03-01 10:00")])
    labels = record.label(policy(same_day=same_day, lookback_s=0))
    assert labels.prevalent() == set() and labels.times() == {}


def test_l48_the_kernel_is_compiled_unless_it_is_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, bool]] = []

    def njit(**options: bool) -> Any:
        asked.append(options)
        return lambda function: ("compiled", function)

    size: Any = len
    kernel: Any = compiled
    monkeypatch.setitem(sys.modules, "numba", SimpleNamespace(njit=njit))
    for value in ("0", "", "2"):
        monkeypatch.setenv("PRESAGE_NO_JIT", value)
        assert kernel(size) == ("compiled", size)
    monkeypatch.delenv("PRESAGE_NO_JIT")
    assert kernel(size) == ("compiled", size)
    assert asked == [{"cache": True, "nogil": True}] * 4
    monkeypatch.setenv("PRESAGE_NO_JIT", "1")
    assert kernel(size) is size


def test_l3_the_date_flag_is_bit_three() -> None:
    assert first_occurrence.DATE_ONLY == 1 << 3


def counted(record: Record) -> Any:
    """Count tasks, and hold the counts to the labels of the same studies."""
    facts = record.facts()
    windows = risk_windows(facts, policy())
    arguments = (record.shard(), facts, windows, record.ontology())
    totals = count_tasks(*arguments, same_day="exclude")
    shard = label_shard(*arguments, same_day="exclude")
    bits = np.unpackbits(shard.prevalent, axis=1, bitorder="little")[:, : record.num_tasks].astype(bool)
    event = np.zeros_like(bits)
    for study in range(len(facts)):
        event[study, shard.task[shard.indptr[study] : shard.indptr[study + 1]]] = True
    assert np.array_equal(totals, [event.sum(axis=0), bits.sum(axis=0), (event & ~bits).sum(axis=0)])
    assert totals.dtype == np.int64
    return totals


def shard_events(persons: list[int], offset: list[int]) -> ShardEvents:
    number = offset[-1]
    return ShardEvents(
        person_id=np.array(persons, dtype=np.int64),
        offset=np.array(offset, dtype=np.int64),
        concept=np.zeros(number, dtype=np.int32),
        time=np.arange(number, dtype=np.int64),
        flags=np.zeros(number, dtype=np.uint8),
    )


def test_l43_a_concept_without_tasks_marks_nothing() -> None:
    record = Record([Person([Happening("2021-01-01 08:00", 3)])], [Scan("2020-03-01 10:00")], {0: (0,)}, 1)
    assert isinstance(record.ontology(), ConceptTasks)
    assert counted(record).tolist() == [[0], [0], [0]]
