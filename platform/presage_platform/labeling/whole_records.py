"""Whole records of some persons, whatever the scan: which concepts they hold, how many persons have each task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from presage_platform.labeling.first_occurrence import ShardEvents, compiled
from presage_platform.labeling.ontology import ConceptTasks

if TYPE_CHECKING:
    from presage_platform.labeling.timeline import Snapshot

CARRIES_VALUE = 32
"""Flag bit 5: the row had a value; only in snapshots that were extracted for `paper-floor`."""


def train_concepts(snapshot: Snapshot, persons: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the concepts that occur in the records of some persons, ascending."""
    found = np.zeros(len(snapshot.concepts), dtype=np.bool_)
    for number in range(snapshot.n_shards):
        events = snapshot.shard(number)
        for low, high in _runs(events, persons):
            found[events.concept[low:high]] = True
    return snapshot.concepts[found]


def persons_with(
    snapshot: Snapshot, persons: NDArray[np.int64], ontology: ConceptTasks, *, without_values: bool = False
) -> NDArray[np.int64]:
    """Return how many of some persons have a concept of each task anywhere in their record, shape = (num_tasks,)."""
    totals = np.zeros(ontology.num_tasks, dtype=np.int64)
    for number in range(snapshot.n_shards):
        events = select_events(snapshot.shard(number), without_values=without_values)
        low, high = events.ranges(persons)
        _count_persons(np.asarray(events.concept), low, high, ontology.indptr, ontology.task, totals)
    return totals


def select_events(events: ShardEvents, *, without_values: bool) -> ShardEvents:
    """Return the events, without those that carry a value if that is asked."""
    if not without_values:
        return events
    keep = (np.asarray(events.flags) & CARRIES_VALUE) == 0
    before = np.concatenate([[0], np.cumsum(keep)])
    return ShardEvents(
        np.asarray(events.person_id), before[events.offset], events.concept[keep], events.time[keep], events.flags[keep]
    )


def _runs(events: ShardEvents, persons: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the event ranges of some persons, neighbours joined."""
    low, high = events.ranges(persons)
    low, high = low[high > low], high[high > low]
    order = np.argsort(low)
    low, high = low[order], high[order]
    opens = np.concatenate([[True], low[1:] != high[:-1]])[: len(low)]
    first = np.flatnonzero(opens)
    last = np.concatenate([first[1:], [len(low)]])[: len(first)] - 1
    return list(zip(low[first].tolist(), high[last].tolist(), strict=True))


@compiled
def _count_persons(concept: Any, low: Any, high: Any, indptr: Any, task: Any, totals: Any) -> None:
    concept_stamp = np.zeros(len(indptr) - 1, dtype=np.int64)
    task_stamp = np.zeros(len(totals), dtype=np.int64)
    for person in range(len(low)):
        for event in range(low[person], high[person]):
            c = concept[event]
            if concept_stamp[c] == person + 1:
                continue
            concept_stamp[c] = person + 1
            for position in range(indptr[c], indptr[c + 1]):
                k = task[position]
                if task_stamp[k] != person + 1:
                    task_stamp[k] = person + 1
                    totals[k] += 1
