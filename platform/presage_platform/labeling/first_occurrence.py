"""The kernel: one pass over a person's events gives every task's first occurrence after the scan.

*Reduce before expand*: (a) a pass over the events keeps, per concept, the first outcome time and whether the history
holds it; (b) only those few concepts are expanded to tasks, taking the minimum. Exact, because min is associative, and
linear in the events: stamp arrays instead of hash tables, nothing allocated per study, two passes (count, fill) so that
no capacity is guessed.

The functions below are plain Python over arrays; numba compiles them unless `PRESAGE_NO_JIT=1`, and both give the same
bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from presage_platform.labeling.event import SECONDS_PER_DAY
from presage_platform.labeling.ontology import ConceptTasks
from presage_platform.labeling.semantics import LAST_SECOND, NEVER, IndexFacts, RiskWindows, SameDay, day_start
from presage_platform.labeling.store_writer import ShardLabels, task_dtype

Function = Callable[..., Any]
DATE_ONLY = 8
"""Flag bit 3: the event is a date without a time, and stands at the start of its day."""
SEEN, IN_VISIT = 1, 2


def compiled(function: Function) -> Function:
    """Compile with numba, or leave as it is under `PRESAGE_NO_JIT=1`."""
    if os.environ.get("PRESAGE_NO_JIT") == "1":
        return function
    from numba import njit

    jitted: Function = njit(cache=True, nogil=True)(function)
    return jitted


@dataclass(frozen=True, slots=True, eq=False)
class ShardEvents:
    """The events of a person shard. P = persons, E = events.

    Attributes
    ----------
    person_id : int64, shape = (P,)
        Ascending.
    offset : int64, shape = (P + 1,)
        Person p has its events at `offset[p]:offset[p + 1]`, sorted by time.
    concept : int32, shape = (E,)
        Dense concept numbers of the snapshot.
    time : int64, shape = (E,)
        Absolute seconds.
    flags : uint8, shape = (E,)
    """

    person_id: NDArray[np.int64]
    offset: NDArray[np.int64]
    concept: NDArray[np.int32]
    time: NDArray[np.int64]
    flags: NDArray[np.uint8]

    def ranges(self, person_id: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first and one past the last event of each person; empty for a person without events."""
        if len(self.person_id) == 0:
            return np.zeros(len(person_id), dtype=np.int64), np.zeros(len(person_id), dtype=np.int64)
        at = np.minimum(np.searchsorted(self.person_id, person_id), len(self.person_id) - 1)
        known = self.person_id[at] == person_id
        return np.where(known, self.offset[at], 0), np.where(known, self.offset[at + 1], 0)


def label_shard(
    events: ShardEvents, facts: IndexFacts, windows: RiskWindows, ontology: ConceptTasks, *, same_day: SameDay
) -> ShardLabels:
    """Return the labels of the studies of one shard, in the order of `facts`."""
    num_studies, num_tasks = len(facts), ontology.num_tasks
    prevalent = np.zeros((num_studies, -(-num_tasks // 8)), dtype=np.uint8)
    counts = np.zeros((2, num_studies), dtype=np.int64)
    arguments = _arguments(events, facts, windows, ontology, same_day)
    _count(*arguments, prevalent, counts)
    indptr, visit_indptr = (np.concatenate([[0], np.cumsum(row)]).astype(np.int64) for row in counts)
    task = np.empty(indptr[-1], dtype=task_dtype(num_tasks))
    time = np.empty(indptr[-1], dtype=np.int32)
    visit_task = np.empty(visit_indptr[-1], dtype=task_dtype(num_tasks))
    _fill(*arguments, facts.t0_s, indptr, task, time, visit_indptr, visit_task)
    return ShardLabels(indptr, task, time, prevalent, visit_indptr, visit_task)


def count_tasks(
    events: ShardEvents, facts: IndexFacts, windows: RiskWindows, ontology: ConceptTasks, *, same_day: SameDay
) -> NDArray[np.int64]:
    """Return studies a task without storing anything, shape = (3, K): next events, prevalent, incident events."""
    totals = np.zeros((3, ontology.num_tasks), dtype=np.int64)
    _total(*_arguments(events, facts, windows, ontology, same_day), totals)
    return totals


def _arguments(
    events: ShardEvents, facts: IndexFacts, windows: RiskWindows, ontology: ConceptTasks, same_day: SameDay
) -> tuple[Any, ...]:
    low, high = events.ranges(facts.person_id)
    bounds = np.stack(
        [
            low,
            high,
            windows.risk_start_s,
            windows.follow_up_end_s,
            windows.lookback_from_s,
            facts.visit_start_s,
            facts.visit_end_s,
            # The day whose date-only events move to its end; a day that no event has where they stay.
            day_start(facts.t0_s) if same_day == "include" else np.full(len(facts), NEVER),
        ]
    )
    arrays = (events.concept, events.time, events.flags)
    return (*(np.asarray(array) for array in arrays), bounds, ontology.indptr, ontology.task, ontology.num_tasks)


@compiled
def _scan(
    concept: Any, time: Any, flags: Any, bounds: Any, study: int, stamp: Any, first: Any, seen: Any, touched: Any
) -> int:
    """Reduce one study's events to its concepts; return how many were touched."""
    low, high, r, f, lookback_from = (
        bounds[0, study],
        bounds[1, study],
        bounds[2, study],
        bounds[3, study],
        bounds[4, study],
    )
    visit_start, visit_end, moved_day = bounds[5, study], bounds[6, study], bounds[7, study]
    visit_day = visit_start - visit_start % SECONDS_PER_DAY
    stop = max(f, visit_end, r)
    num_touched = 0
    for event in range(low, high):
        at = time[event]
        if at > stop:
            break
        c = concept[event]
        if stamp[c] != study + 1:
            stamp[c] = study + 1
            first[c] = NEVER
            seen[c] = 0
            touched[num_touched] = c
            num_touched += 1
        date_only = flags[event] & DATE_ONLY
        if at <= visit_end and at >= (visit_day if date_only else visit_start):
            seen[c] |= IN_VISIT
        if date_only and at == moved_day:
            at += LAST_SECOND
        if at > r:
            if at <= f and at < first[c]:
                first[c] = at
        elif at >= lookback_from:
            seen[c] |= SEEN
    return num_touched


@compiled
def _count(
    concept: Any,
    time: Any,
    flags: Any,
    bounds: Any,
    indptr: Any,
    task: Any,
    num_tasks: int,
    prevalent: Any,
    counts: Any,
) -> None:
    """First pass: history bits, and how many tasks each study has."""
    num_concepts = len(indptr) - 1
    stamp, first = np.zeros(num_concepts, dtype=np.int64), np.empty(num_concepts, dtype=np.int64)
    seen, touched = np.empty(num_concepts, dtype=np.uint8), np.empty(num_concepts, dtype=np.int64)
    event_stamp, visit_stamp = np.zeros(num_tasks, dtype=np.int64), np.zeros(num_tasks, dtype=np.int64)
    for study in range(bounds.shape[1]):
        num_touched = _scan(concept, time, flags, bounds, study, stamp, first, seen, touched)
        num_events = num_visit = 0
        for number in range(num_touched):
            c = touched[number]
            happens, state = first[c] != NEVER, seen[c]
            for position in range(indptr[c], indptr[c + 1]):
                k = task[position]
                if happens and event_stamp[k] != study + 1:
                    event_stamp[k] = study + 1
                    num_events += 1
                if state & SEEN:
                    prevalent[study, k >> 3] |= 1 << (k & 7)
                if state & IN_VISIT and visit_stamp[k] != study + 1:
                    visit_stamp[k] = study + 1
                    num_visit += 1
        counts[0, study] = num_events
        counts[1, study] = num_visit


@compiled
def _fill(
    concept: Any,
    time: Any,
    flags: Any,
    bounds: Any,
    indptr: Any,
    task: Any,
    num_tasks: int,
    t0: Any,
    out_indptr: Any,
    out_task: Any,
    out_time: Any,
    visit_indptr: Any,
    visit_task: Any,
) -> None:
    """Second pass: tasks ascending, each with its earliest time."""
    num_concepts = len(indptr) - 1
    stamp, first = np.zeros(num_concepts, dtype=np.int64), np.empty(num_concepts, dtype=np.int64)
    seen, touched = np.empty(num_concepts, dtype=np.uint8), np.empty(num_concepts, dtype=np.int64)
    earliest = np.full(num_tasks, NEVER, dtype=np.int64)
    visit_stamp = np.zeros(num_tasks, dtype=np.int64)
    for study in range(bounds.shape[1]):
        num_touched = _scan(concept, time, flags, bounds, study, stamp, first, seen, touched)
        for number in range(num_touched):
            c = touched[number]
            at, in_visit = first[c], seen[c] & IN_VISIT
            for position in range(indptr[c], indptr[c + 1]):
                k = task[position]
                if at < earliest[k]:
                    earliest[k] = at
                if in_visit:
                    visit_stamp[k] = study + 1
        _write_row(study, t0[study], earliest, visit_stamp, out_indptr, out_task, out_time, visit_indptr, visit_task)


@compiled
def _write_row(
    study: int,
    t0: int,
    earliest: Any,
    visit_stamp: Any,
    out_indptr: Any,
    out_task: Any,
    out_time: Any,
    visit_indptr: Any,
    visit_task: Any,
) -> None:
    """Write one study's tasks in ascending order and clear what it marked."""
    position, visit_position = out_indptr[study], visit_indptr[study]
    for k in range(len(earliest)):
        if earliest[k] != NEVER:
            out_task[position] = k
            out_time[position] = earliest[k] - t0
            position += 1
            earliest[k] = NEVER
        if visit_stamp[k] == study + 1:
            visit_task[visit_position] = k
            visit_position += 1


@compiled
def _total(
    concept: Any, time: Any, flags: Any, bounds: Any, indptr: Any, task: Any, num_tasks: int, totals: Any
) -> None:
    """Count studies a task: with a next event, prevalent, with an incident event."""
    num_concepts = len(indptr) - 1
    stamp, first = np.zeros(num_concepts, dtype=np.int64), np.empty(num_concepts, dtype=np.int64)
    seen, touched = np.empty(num_concepts, dtype=np.uint8), np.empty(num_concepts, dtype=np.int64)
    event_stamp, seen_stamp = np.zeros(num_tasks, dtype=np.int64), np.zeros(num_tasks, dtype=np.int64)
    for study in range(bounds.shape[1]):
        num_touched = _scan(concept, time, flags, bounds, study, stamp, first, seen, touched)
        for number in range(num_touched):
            c = touched[number]
            for position in range(indptr[c], indptr[c + 1]):
                k = task[position]
                if first[c] != NEVER and event_stamp[k] != study + 1:
                    event_stamp[k] = study + 1
                    totals[0, k] += 1
                    totals[2, k] += seen_stamp[k] != study + 1
                if seen[c] & SEEN and seen_stamp[k] != study + 1:
                    seen_stamp[k] = study + 1
                    totals[1, k] += 1
                    totals[2, k] -= event_stamp[k] == study + 1
