"""From a person's periods, visits and death to what holds at each study's t0: interval arithmetic over whole arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from presage_platform.labeling.event import SECONDS_PER_DAY
from presage_platform.labeling.semantics import BEFORE_ALL, NEVER, IndexFacts, day_end, day_start

SPAN = 1 << 36
"""Seconds set aside a person (2,177 years) where person and time make one sort key."""
SHIFT = 1 << 34
STUDIES_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Intervals:
    """Intervals of persons, closed at both ends, absolute seconds; sorted by (person, start, end)."""

    person_id: NDArray[np.int64]
    start_s: NDArray[np.int64]
    end_s: NDArray[np.int64]

    @classmethod
    def sort(cls, person_id: NDArray[Any], start_s: NDArray[Any], end_s: NDArray[Any]) -> Intervals:
        """Return the intervals in order; one that ends before it starts ends at its start.

        An end "for ever" (year 9999) is cut to the centuries that a sort key has room for.
        """
        start_s, end_s = cls.clip(start_s, end_s)
        order = np.lexsort((end_s, start_s, person_id))
        return cls(person_id[order], start_s[order], end_s[order])

    @staticmethod
    def clip(start_s: NDArray[Any], end_s: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return ends that are not before their starts, both within what a sort key can hold."""
        start_s = np.clip(start_s, 1 - SHIFT, SHIFT - 1)
        return start_s, np.clip(end_s, start_s, SHIFT - 1)

    def join(self, max_gap_s: int) -> Intervals:
        """Return disjoint intervals: one that starts at most `max_gap_s` after the latest end is joined."""
        if len(self.person_id) == 0:
            return self
        rank = np.cumsum(np.concatenate([[0], np.diff(self.person_id) != 0])) * SPAN
        latest = np.maximum.accumulate(rank + self.end_s + SHIFT)
        opens = np.concatenate([[True], rank[1:] + self.start_s[1:] + SHIFT > latest[:-1] + max_gap_s])
        opens[1:] |= np.diff(self.person_id) != 0
        first = np.flatnonzero(opens)
        last = np.concatenate([first[1:], [len(opens)]]) - 1
        return Intervals(self.person_id[first], self.start_s[first], latest[last] - rank[last] - SHIFT)

    def holding(
        self, person_id: NDArray[np.int64], from_s: NDArray[np.int64], to_s: NDArray[np.int64], grace_s: int = 0
    ) -> NDArray[np.int64]:
        """Return the number of the disjoint interval that meets each [from, to], else -1.

        With a grace, an interval that starts or ended so shortly away holds it too; one that meets it goes first, then
        the one that starts.
        """
        if len(self.person_id) == 0:
            return np.full(len(person_id), -1, dtype=np.int64)
        persons = np.unique(self.person_id)
        starts = np.searchsorted(persons, self.person_id) * SPAN + self.start_s + SHIFT
        rank = np.searchsorted(persons, person_id) * SPAN + SHIFT
        before = np.searchsorted(starts, rank + to_s, side="right") - 1
        found = np.full(len(person_id), -1, dtype=np.int64)
        for candidate, grace in ((before, grace_s), (before + 1, grace_s), (before, 0)):
            inside = np.clip(candidate, 0, len(starts) - 1)
            meets = (candidate == inside) & (self.person_id[inside] == person_id)
            meets &= (self.start_s[inside] - grace <= to_s) & (self.end_s[inside] + grace >= from_s)
            found = np.where(meets, inside, found)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Histories:
    """What is known of persons besides events; the side tables of a snapshot as arrays.

    `periods` run from the first second of the start date to the last second of the end date; `visits` likewise where a
    datetime is missing. `visit_id` follows `visits`. `death_person_id` is sorted and unique, `last_event_*` likewise.
    """

    periods: Intervals
    visits: Intervals
    visit_id: NDArray[np.int64]
    death_person_id: NDArray[np.int64]
    death_s: NDArray[np.int64]
    last_event_person_id: NDArray[np.int64]
    last_event_s: NDArray[np.int64]


def index_facts(
    study_id: NDArray[np.int64],
    person_id: NDArray[np.int64],
    t0_s: NDArray[np.int64],
    t0_is_date: NDArray[np.bool_],
    histories: Histories,
    *,
    bridge_days: int = 0,
    grace_days: int = 0,
) -> tuple[IndexFacts, NDArray[np.int64]]:
    """Return the facts of each study, and the id of the visit that holds its t0 (-1 = none).

    Periods with at most `bridge_days` uncovered days between them are one; a t0 at most `grace_days` outside still
    belongs to its period.
    """
    until_s = np.where(t0_is_date, day_end(t0_s), t0_s)
    # Two periods on following days are one second apart and have no uncovered day between them.
    periods = histories.periods.join(bridge_days * SECONDS_PER_DAY + 1)
    period = periods.holding(person_id, t0_s, until_s, grace_days * SECONDS_PER_DAY)
    visit = smallest_visit(histories.visits, histories.visit_id, person_id, t0_s, until_s)
    stay = histories.visits.join(SECONDS_PER_DAY)
    guard = stay.holding(person_id, t0_s, until_s)
    facts = IndexFacts(
        study_id=study_id,
        person_id=person_id,
        t0_s=t0_s,
        t0_is_date=t0_is_date,
        in_period=period >= 0,
        period_start_s=_pick(periods.start_s, period, t0_s),
        period_end_s=_pick(periods.end_s, period, t0_s),
        last_event_s=_look_up(histories.last_event_person_id, histories.last_event_s, person_id, BEFORE_ALL),
        last_visit_end_s=_last_visit_end(histories.visits, person_id),
        visit_start_s=_pick(histories.visits.start_s, visit, day_start(t0_s)),
        visit_end_s=_pick(histories.visits.end_s, visit, day_end(t0_s)),
        guard_end_s=_pick(stay.end_s, guard, t0_s),
        death_at_s=_look_up(histories.death_person_id, histories.death_s, person_id, NEVER),
    )
    return facts, _pick(histories.visit_id, visit, np.full(len(t0_s), -1, dtype=np.int64))


def smallest_visit(
    visits: Intervals,
    visit_id: NDArray[np.int64],
    person_id: NDArray[np.int64],
    from_s: NDArray[np.int64],
    to_s: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the number of the visit that meets each [from, to]: the shortest, then the lowest id; -1 = none."""
    found = np.full(len(person_id), -1, dtype=np.int64)
    low = np.searchsorted(visits.person_id, person_id, side="left")
    high = np.searchsorted(visits.person_id, person_id, side="right")
    for first in range(0, len(person_id), STUDIES_AT_ONCE):
        rows = np.arange(first, min(first + STUDIES_AT_ONCE, len(person_id)))
        counts = high[rows] - low[rows]
        study = np.repeat(rows, counts)
        visit = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low[rows], counts)
        meets = (visits.start_s[visit] <= to_s[study]) & (visits.end_s[visit] >= from_s[study])
        study, visit = study[meets], visit[meets]
        order = np.lexsort((visit_id[visit], visits.end_s[visit] - visits.start_s[visit], study))
        study, visit = study[order], visit[order]
        best = np.concatenate([[True], study[1:] != study[:-1]])[: len(study)]
        found[study[best]] = visit[best]
    return found


def _last_visit_end(visits: Intervals, person_id: NDArray[np.int64]) -> NDArray[np.int64]:
    joined = visits.join(SPAN // 4)  # one block a person: its end is the latest end
    return _look_up(joined.person_id, joined.end_s, person_id, BEFORE_ALL)


def _pick(values: NDArray[np.int64], number: NDArray[np.int64], otherwise: NDArray[np.int64]) -> NDArray[np.int64]:
    if len(values) == 0:
        return otherwise.copy()
    return np.where(number >= 0, values[np.maximum(number, 0)], otherwise)


def _look_up(
    keys: NDArray[np.int64], values: NDArray[np.int64], wanted: NDArray[np.int64], otherwise: int
) -> NDArray[np.int64]:
    if len(keys) == 0:
        return np.full(len(wanted), otherwise, dtype=np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], otherwise)
