"""From the rows that a task's query returns to candidate events: dated, of a known study, beyond its threshold.

What is left out is counted by reason; nothing here looks at t0.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from presage_platform.errors import TaskError
from presage_platform.labeling.event import SECONDS_PER_DAY, Event
from presage_platform.labeling.outcomes import Candidates
from presage_platform.labeling.semantics import NEVER, day_end
from presage_platform.labeling.tasks.definition import Task
from presage_platform.labeling.tasks.front_matter import Confirm
from presage_platform.labeling.tasks.locks import Lock

MAX_UNKNOWN_UNITS = 0.05
"""Share of values in an undeclared or missing unit above which a threshold task is refused (labeling L64)."""


@dataclass(frozen=True, eq=False)
class Fetched:
    """What a query returned: column names, and rows as tuples."""

    columns: list[str]
    rows: list[tuple[Any, ...]]

    def column(self, name: str) -> list[Any]:
        """Return one column; nothing but None where the query does not return it."""
        if name not in self.columns:
            return [None] * len(self.rows)
        number = self.columns.index(name)
        return [row[number] for row in self.rows]


@dataclass(frozen=True, eq=False)
class Found:
    """Candidates, the fetched row that each came from, and how many rows were left out by reason."""

    candidates: Candidates
    source: NDArray[np.int64]
    dropped: dict[str, int]


class Places:
    """Row numbers of studies."""

    def __init__(self, study_id: NDArray[np.int64]) -> None:
        self.order = np.argsort(study_id, kind="stable")
        self.sorted = study_id[self.order]

    def __len__(self) -> int:
        return len(self.sorted)

    def find(self, study_id: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which studies are known, and the row of each (0 where unknown)."""
        place = np.minimum(np.searchsorted(self.sorted, study_id), max(len(self.sorted) - 1, 0))
        known = self.sorted[place] == study_id if len(self.sorted) else np.zeros(len(study_id), dtype=np.bool_)
        return known, np.where(known, self.order[place] if len(self.sorted) else 0, 0)


def find_candidates(task: Task, lock: Lock, fetched: Fetched, place: Places) -> Found:
    """Return the candidate events among the rows of a body.

    Raises
    ------
    TaskError
        When `cause` holds another value, or too many values of a threshold task are in no declared unit.
    """
    days, stamps = fetched.column("event_date"), fetched.column("event_datetime")
    studies, causes = fetched.column("study_id"), fetched.column("cause")
    dated = [row for row, day in enumerate(days) if day is not None and studies[row] is not None]
    dropped = Counter(without_date=len(days) - len(dated))
    if task.front.threshold is not None:
        dated, lost = _beyond_threshold(task, lock, fetched, dated)
        dropped += lost
    time_s, is_date = instants([days[row] for row in dated], [stamps[row] for row in dated])
    known, number = place.find(np.array([studies[row] for row in dated], dtype=np.int64))
    cause = np.array([causes[row] or 1 for row in dated], dtype=np.int64)
    if not np.isin(cause, [Event.EVENT, Event.COMPETING]).all():
        raise TaskError(f"task {task.name}: Q10 `cause` holds another value than 1 (event) and 2 (competing)")
    dropped += Counter(unknown_study=int((~known).sum()))
    source = np.array(dated, dtype=np.int64)[known]
    found = Candidates(number[known], time_s[known], is_date[known], cause[known].astype(np.uint8))
    confirm = task.front.threshold.confirm if task.front.threshold is not None else None
    if confirm is not None:
        kept = confirmed(found.row, found.time_s, confirm)
        found = Candidates(found.row[kept], found.time_s[kept], found.is_date[kept], found.cause[kept])
        source = source[kept]
    return Found(found, source, {reason: count for reason, count in sorted(dropped.items()) if count})


def find_moments(fetched: Fetched, prefix: str, place: Places) -> NDArray[np.int64]:
    """Return the earliest moment that a block gives each study (a date means its end), `NEVER` where it gives none.

    `prefix` is `risk_start` or `censor`.
    """
    days, stamps, studies = (fetched.column(n) for n in (f"{prefix}_date", f"{prefix}_datetime", "study_id"))
    given = [row for row, day in enumerate(days) if day is not None and studies[row] is not None]
    time_s, is_date = instants([days[row] for row in given], [stamps[row] for row in given])
    time_s = np.where(is_date, day_end(time_s), time_s)
    known, number = place.find(np.array([studies[row] for row in given], dtype=np.int64))
    moments = np.full(len(place), NEVER, dtype=np.int64)
    np.minimum.at(moments, number[known], time_s[known])
    return moments


def instants(days: list[Any], stamps: list[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return seconds, and where they are bare dates: no time, or midnight where most of the times are midnight."""
    is_date = np.array([stamp is None for stamp in stamps], dtype=np.bool_)
    chosen = [day if stamp is None else stamp for day, stamp in zip(days, stamps, strict=True)]
    time_s = np.array(chosen, dtype="datetime64[s]").astype(np.int64) if chosen else np.zeros(0, dtype=np.int64)
    midnight = ~is_date & (time_s % SECONDS_PER_DAY == 0)
    if midnight.sum() * 2 > (~is_date).sum():
        is_date |= midnight
    return time_s, is_date


def confirmed(row: NDArray[np.int64], time_s: NDArray[np.int64], confirm: Confirm) -> NDArray[np.int64]:
    """Return which candidates are the last of `times` at distinct moments within `within` days of each other.

    One moment counts once, however often it is recorded. The moment of the last value is the event, so that no label
    knows of a value before it was taken.
    """
    order = np.lexsort((time_s, row))
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = (np.diff(row[order]) != 0) | (np.diff(time_s[order]) != 0)
    kept = order[first]
    last, opening = kept[confirm.times - 1 :], kept[: len(kept) - confirm.times + 1]
    near = time_s[last] - time_s[opening] <= confirm.within_days * SECONDS_PER_DAY
    found: NDArray[np.int64] = last[(row[last] == row[opening]) & near]
    return found


def _beyond_threshold(task: Task, lock: Lock, fetched: Fetched, rows: list[int]) -> tuple[list[int], Counter[str]]:
    """Return the rows whose value is beyond the threshold; a value in no declared unit is never compared."""
    threshold = task.front.threshold
    assert threshold is not None
    factor = {concept: threshold.units[unit] for concept, unit in lock.units.items()}
    values, units = fetched.column("value"), fetched.column("unit_concept_id")
    beyond, dropped, valued = [], Counter[str](), 0
    for row in rows:
        if values[row] is None:
            dropped["without_value"] += 1
            continue
        valued += 1
        if units[row] not in factor:
            dropped[f"unit_{units[row]}" if units[row] else "unit_missing"] += 1
            continue
        value = float(values[row]) * factor[units[row]]
        if value < threshold.below if threshold.below is not None else value > float(threshold.above or 0.0):
            beyond.append(row)
    lost = {reason: count for reason, count in dropped.items() if reason.startswith("unit_")}
    if sum(lost.values()) > MAX_UNKNOWN_UNITS * valued:
        named = ", ".join(f"{count} of {reason.replace('_', ' ')}" for reason, count in sorted(lost.items()))
        raise TaskError(
            f"task {task.name}: {sum(lost.values())} of {valued} values are in no declared unit ({named}), expected at "
            f"most {MAX_UNKNOWN_UNITS:.0%}: declare a factor for the unit under `threshold`, or leave such rows out"
        )
    return beyond, dropped
