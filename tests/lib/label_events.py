"""A seeded generator of events at scale (labeling L84), for oracles and benchmarks.

Persons with log-normal event counts, concepts Zipf(1.1), datetimes clustered in visits over ten years, 30 % bare dates,
1.2 studies a person, a random DAG of depth 8 above the concepts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from presage_platform.labeling.facts import Histories, Intervals, index_facts
from presage_platform.labeling.first_occurrence import ShardEvents
from presage_platform.labeling.ontology import ConceptTasks
from presage_platform.labeling.semantics import IndexFacts
from presage_platform.labeling.timeline import EVENT_DTYPE

START_S = 1_388_534_400  # 2014-01-01
YEARS = 10
DAY = 86_400
VISIT_EVENTS = 40
ZIPF = 1.1


@dataclass(frozen=True)
class Generated:
    """Events of one shard, sorted, and the studies on them."""

    events: ShardEvents
    facts: IndexFacts
    ontology: ConceptTasks

    def rows(self) -> NDArray[Any]:
        """Return the events as they travel (dense concept numbers as ids)."""
        rows = np.empty(len(self.events.time), dtype=EVENT_DTYPE)
        rows["person_id"] = np.repeat(self.events.person_id, np.diff(self.events.offset))
        rows["time"], rows["concept"], rows["flags"] = self.events.time, self.events.concept, self.events.flags
        return rows


def generate(
    num_events: int,
    *,
    num_concepts: int = 30_000,
    num_tasks: int = 8_192,
    tasks_per_concept: float = 6.0,
    mean_events: int = 11_600,
    first_person: int = 1,
    seed: int = 20,
    ontology: ConceptTasks | None = None,
) -> Generated:
    """Return about `num_events` events of whole persons, and their studies."""
    rng = np.random.default_rng((seed, first_person))
    num_persons = max(round(num_events / mean_events), 1)
    sizes = np.maximum(rng.lognormal(np.log(mean_events) - 0.5, 1.0, num_persons), 20).astype(np.int64)
    sizes = np.maximum((sizes * (num_events / sizes.sum())).astype(np.int64), 1)
    total = int(sizes.sum())
    person = np.repeat(np.arange(num_persons), sizes)
    visit_of = np.arange(total) // VISIT_EVENTS + person
    visit_day = rng.integers(0, YEARS * 365, int(visit_of.max()) + 1)
    time = START_S + visit_day[visit_of] * DAY
    bare = rng.random(total) < 0.3
    time = np.where(bare, time, time + rng.integers(1, DAY, total))
    weight = np.cumsum(np.arange(1, num_concepts + 1) ** -ZIPF)
    concept = rng.permutation(num_concepts)[np.searchsorted(weight, rng.random(total) * weight[-1])]
    flags = rng.integers(0, 6, total).astype(np.uint8) | np.where(bare, 8, 0).astype(np.uint8)
    order = np.lexsort((concept, time, person))
    persons = first_person + np.arange(num_persons, dtype=np.int64)
    events = ShardEvents(
        person_id=persons,
        offset=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        concept=concept[order].astype(np.int32),
        time=time[order].astype(np.int64),
        flags=flags[order],
    )
    facts = _studies(rng, persons, events)
    return Generated(events, facts, ontology or dag(num_concepts, num_tasks, tasks_per_concept, seed))


def dag(num_concepts: int, num_tasks: int, tasks_per_concept: float, seed: int, depth: int = 8) -> ConceptTasks:
    """Return a random hierarchy: each concept climbs up to `depth` levels of tasks, ancestors getting rarer."""
    rng = np.random.default_rng((seed, 99))
    above = _above(rng, num_tasks, depth)
    per_leaf = np.mean([len(tasks) for tasks in above])
    lists = []
    for number in rng.poisson(max(tasks_per_concept / per_leaf, 0.01), num_concepts):
        chosen = rng.integers(0, num_tasks, number)
        lists.append(np.array(sorted(set().union(*(above[int(task)] for task in chosen))), dtype=np.int32))
    return ConceptTasks(
        indptr=np.concatenate([[0], np.cumsum([len(tasks) for tasks in lists])]).astype(np.int32),
        task=np.concatenate(lists).astype(np.int32),
        num_tasks=num_tasks,
    )


def above_tasks(num_tasks: int, seed: int, depth: int = 8) -> list[set[int]]:
    """Return the tasks at or above each task of `dag`."""
    return _above(np.random.default_rng((seed, 99)), num_tasks, depth)


def _above(rng: np.random.Generator, num_tasks: int, depth: int) -> list[set[int]]:
    level = np.sort(rng.integers(0, depth, num_tasks))  # 0 = most general
    starts = np.searchsorted(level, np.arange(depth + 1))
    parents: list[NDArray[np.int64]] = []
    for task in range(num_tasks):
        below = int(starts[level[task]])
        just_above = min(int(starts[max(level[task] - 1, 0)]), max(below - 1, 0))
        # One parent a level up, so that chains are as long as there are levels; for one task in five another anywhere.
        chosen = [int(rng.integers(just_above, below))] if below else []
        if below and rng.random() < 0.2:
            chosen.append(int(rng.integers(0, below)))
        parents.append(np.array(chosen, dtype=np.int64))
    above: list[set[int]] = []
    for task in range(num_tasks):
        above.append({task}.union(*(above[int(parent)] for parent in parents[task])))
    return above


def _studies(rng: np.random.Generator, persons: NDArray[np.int64], events: ShardEvents) -> IndexFacts:
    count = 1 + (rng.random(len(persons)) < 0.2)
    person_id = np.repeat(persons, count)
    t0 = START_S + rng.integers(2 * 365, 7 * 365, len(person_id)) * DAY + rng.integers(0, DAY, len(person_id))
    order = np.lexsort((t0, person_id))
    person_id, t0 = person_id[order], t0[order]
    dead = persons[rng.random(len(persons)) < 0.1]
    visit_person = np.repeat(persons, 20)
    visit_start = START_S + rng.integers(0, YEARS * 365, len(visit_person)) * DAY
    visits = Intervals.sort(visit_person, visit_start, visit_start + rng.integers(1, 6, len(visit_person)) * DAY - 1)
    whole = np.full(len(persons), START_S)
    histories = Histories(
        periods=Intervals.sort(persons, whole, whole + YEARS * 365 * DAY - 1),
        visits=visits,
        visit_id=np.arange(1, len(visit_person) + 1, dtype=np.int64),
        death_person_id=dead,
        death_s=START_S + rng.integers(7 * 365, YEARS * 365, len(dead)) * DAY + DAY - 1,
        last_event_person_id=events.person_id,
        last_event_s=events.time[events.offset[1:] - 1],
    )
    study_id = persons[0] * 4 + np.arange(len(person_id), dtype=np.int64)
    return index_facts(study_id, person_id, t0, np.zeros(len(t0), dtype=np.bool_), histories)[0]
