"""Readable persons for labeling tests: dates as text, one person's record as one small object.

A `Record` is a hospital of a few persons: it becomes event shards, histories and an index for the product's kernel, and
plain lists for the oracles, which share nothing with the product but this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from presage_platform.labeling.facts import Histories, Intervals, index_facts
from presage_platform.labeling.first_occurrence import ShardEvents, label_shard
from presage_platform.labeling.ontology import ConceptTasks
from presage_platform.labeling.semantics import IndexFacts, Policy, RiskWindows, risk_windows
from presage_platform.labeling.store import ShardLabels

DAY = 86_400
EPOCH = datetime(1970, 1, 1)


def at(text: str) -> int:
    """Return seconds of the wall clock: '2020-03-01' is its midnight, '2020-03-01 10:00' that minute."""
    return int((datetime.fromisoformat(text) - EPOCH).total_seconds())


def is_date(text: str) -> bool:
    """Return whether a text names a day without a time."""
    return len(text) == 10


def day_end(text: str) -> int:
    """Return the last second of a text's day."""
    return at(text[:10]) + DAY - 1


@dataclass(frozen=True)
class Happening:
    """One event: when (a bare date or a datetime), which concept, from which table (bit)."""

    when: str
    concept: int = 0
    table: int = 0

    @property
    def flags(self) -> int:
        """Flag bits of the timeline."""
        return self.table | (8 if is_date(self.when) else 0)


@dataclass(frozen=True)
class Person:
    """A person's record. Periods are (first day, last day); visits (start, end), bare dates cover whole days."""

    events: Sequence[Happening] = ()
    periods: Sequence[tuple[str, str]] = (("2015-01-01", "2025-12-31"),)
    visits: Sequence[tuple[str, str]] = ()
    death: str | None = None


@dataclass(frozen=True)
class Scan:
    """A study of person number `person`, at a bare date or a datetime."""

    t0: str
    person: int = 0


@dataclass(frozen=True)
class Record:
    """A small hospital. `tasks` maps concept → tasks; by default concept c is task c."""

    persons: Sequence[Person]
    scans: Sequence[Scan]
    tasks: Mapping[int, Sequence[int]] = field(default_factory=lambda: {c: (c,) for c in range(4)})
    num_tasks: int = 4
    num_concepts: int = 4

    def shard(self) -> ShardEvents:
        """Return the events as the product's arrays (person ids are positions + 1)."""
        rows = sorted(
            {(p + 1, at(e.when), e.concept, e.flags) for p, person in enumerate(self.persons) for e in person.events}
        )
        persons = sorted({row[0] for row in rows})
        offset = [sum(row[0] < person for row in rows) for person in persons] + [len(rows)]
        return ShardEvents(
            person_id=np.array(persons, dtype=np.int64),
            offset=np.array(offset, dtype=np.int64),
            concept=np.array([row[2] for row in rows], dtype=np.int32),
            time=np.array([row[1] for row in rows], dtype=np.int64),
            flags=np.array([row[3] for row in rows], dtype=np.uint8),
        )

    def histories(self) -> Histories:
        """Return periods, visits, deaths and last events as the product's arrays."""
        periods = [(p + 1, at(a), day_end(b)) for p, person in enumerate(self.persons) for a, b in person.periods]
        visits = sorted(
            (p + 1, at(a), max(at(a), day_end(b) if is_date(b) else at(b)))
            for p, person in enumerate(self.persons)
            for a, b in person.visits
        )
        deaths = [(p + 1, _death(person.death)) for p, person in enumerate(self.persons) if person.death]
        last = [
            (p + 1, max(day_end(e.when) if is_date(e.when) else at(e.when) for e in person.events))
            for p, person in enumerate(self.persons)
            if person.events
        ]
        return Histories(
            periods=Intervals.sort(*_columns(periods, 3)),
            visits=Intervals.sort(*_columns(visits, 3)),
            visit_id=np.arange(1, len(visits) + 1, dtype=np.int64),
            death_person_id=_columns(deaths, 2)[0],
            death_s=_columns(deaths, 2)[1],
            last_event_person_id=_columns(last, 2)[0],
            last_event_s=_columns(last, 2)[1],
        )

    def facts(self, *, bridge_days: int = 0, grace_days: int = 0) -> IndexFacts:
        """Return what holds at each scan."""
        return index_facts(
            np.arange(1, len(self.scans) + 1, dtype=np.int64),
            np.array([scan.person + 1 for scan in self.scans], dtype=np.int64),
            np.array([at(scan.t0) for scan in self.scans], dtype=np.int64),
            np.array([is_date(scan.t0) for scan in self.scans], dtype=np.bool_),
            self.histories(),
            bridge_days=bridge_days,
            grace_days=grace_days,
        )[0]

    def ontology(self) -> ConceptTasks:
        """Return the map from concepts to tasks."""
        lists = [sorted(set(self.tasks.get(concept, ()))) for concept in range(self.num_concepts)]
        return ConceptTasks(
            indptr=np.cumsum([0, *map(len, lists)]).astype(np.int32),
            task=np.array([task for tasks in lists for task in tasks], dtype=np.int32),
            num_tasks=self.num_tasks,
        )

    def label(self, policy: Policy, **facts: int) -> Labelled:
        """Run the kernel."""
        found = self.facts(**facts)
        windows = risk_windows(found, policy)
        shard = label_shard(self.shard(), found, windows, self.ontology(), same_day=policy.same_day)
        return Labelled(self, found, windows, shard)


@dataclass(frozen=True)
class Labelled:
    """Labels of a record, readable: times by task, history by task, for one scan."""

    record: Record
    facts: IndexFacts
    windows: RiskWindows
    shard: ShardLabels

    def times(self, row: int = 0) -> dict[int, int]:
        """Return task → seconds from t0."""
        return csr_row(self.shard.indptr, self.shard.task, self.shard.time, row)

    def prevalent(self, row: int = 0) -> set[int]:
        """Return the tasks in the history."""
        bits = np.unpackbits(self.shard.prevalent[row], bitorder="little")
        return set(np.flatnonzero(bits).tolist())

    def visit(self, row: int = 0) -> set[int]:
        """Return the tasks of the visit that holds t0."""
        return set(self.shard.visit_task[self.shard.visit_indptr[row] : self.shard.visit_indptr[row + 1]].tolist())


def csr_row(indptr: Any, task: Any, time: Any, row: int) -> dict[int, int]:
    """Return one row of a CSR as a dict."""
    part = slice(indptr[row], indptr[row + 1])
    return dict(zip(task[part].tolist(), time[part].tolist(), strict=True))


def policy(**changes: Any) -> Policy:
    """Return the default policy with a data cut at the end of 2029, changed."""
    return Policy(**{"data_cut_s": day_end("2029-12-31"), **changes})


def one(*events: Happening, scan: str = "2020-03-01 10:00", under: Policy | None = None, **person: Any) -> Labelled:
    """Label one scan of one person."""
    return Record([Person(events, **person)], [Scan(scan)]).label(under or policy())


def _death(text: str) -> int:
    return day_end(text) if is_date(text) else at(text)


def _columns(rows: Sequence[tuple[int, ...]], width: int) -> list[Any]:
    return [np.array([row[i] for row in sorted(rows)], dtype=np.int64) for i in range(width)]
