"""What every label must be, by a plain reading of the simulated record: one study and one task at a time.

The rules are those of the labeling documentation (risk start, history, follow-up end, death, guard of the visit),
written a second time on purpose: nothing here is shared with the code that it checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from presage_etl.synthetic.clock import DAY_S, wall
from presage_etl.synthetic.lives.events import NEVER, History, label_time
from presage_etl.synthetic.lives.hazards import Model
from presage_etl.synthetic.lives.persons import Scan
from presage_etl.synthetic.parameters import Parameters

CENSORED, EVENT, COMPETING, PREVALENT, MASKED = "censored", "event", "competing", "prevalent", "masked"
LAST_SECOND = DAY_S - 1
MIN_LAG_S = DAY_S  # outcome tasks that read conditions: the day after the scan
MIN_PRIOR_DAYS = 365
DEATH_PAD_S = 60 * DAY_S


@dataclass(frozen=True)
class Label:
    """State of one study and task in the task's own view, and the time of its next event in seconds."""

    task: str
    view: str  # incident or next
    state: str
    prevalent: bool
    time_s: int | None
    end_s: int
    state_next: str  # the state in the next view, in which history puts nobody out


@dataclass(frozen=True)
class Window:
    """A study's observation: seconds on the wall clock."""

    t0: int
    first_day: int
    end: int  # the record's end, as its last day's last second
    death: int | None
    guard_end: int


class Dated(Protocol):
    """A record as far as labels need it: the days, since 1970, on which something is dated."""

    days: list[int]


def observe(history: History, chart: Dated, scan: Scan, cut: date) -> Window:
    """Return what the record says around one study."""
    death = None
    if history.death != NEVER:
        death = history.death // DAY_S * DAY_S + LAST_SECOND if history.death_day_only else history.death
    last_day = min(max(chart.days), wall(cut) // DAY_S)
    return Window(
        t0=scan.t0,
        first_day=min(chart.days),
        end=last_day * DAY_S + LAST_SECOND,
        death=death,
        guard_end=_guard_end(history, scan.t0),
    )


def headline_labels(parameters: Parameters, model: Model, history: History, window: Window) -> list[Label]:
    """Labels of the outcome tasks in tasks/."""
    times = record_times(history)
    labels = []
    for headline in parameters.headline:
        if headline.condition == "death":
            labels.append(_death(headline.task, window, wall(parameters.calendar.cut) + LAST_SECOND))
        else:
            members = model.members(headline.condition)
            labels.append(_incident(headline.task, window, np.sort(np.concatenate([times[m] for m in members]))))
    return labels


def concept_labels(model: Model, history: History, window: Window) -> list[Label]:
    """Labels of every leaf as a task of a task set: next event, from the scan on, no guard."""
    counts_for = model.counts_for()
    end, by_death = follow_up(window)
    first_after: dict[int, int] = {}
    prevalent = set()
    for diagnosis in history.diagnoses:
        if diagnosis.leaf == NEVER or not diagnosis.readable:
            continue
        time = label_time(diagnosis)
        for leaf in counts_for[diagnosis.leaf]:
            if time <= window.t0:
                prevalent.add(leaf)
            elif time <= end:
                first_after[leaf] = min(first_after.get(leaf, time), time)
    otherwise = MASKED if end <= window.t0 else COMPETING if by_death else CENSORED
    length = max(end - window.t0, 0)
    return [
        Label(
            task=f"concept:{about.concept_id}",
            view="next",
            state=EVENT if leaf in first_after else otherwise,
            prevalent=leaf in prevalent,
            time_s=first_after[leaf] - window.t0 if leaf in first_after else None,
            end_s=length,
            state_next=EVENT if leaf in first_after else otherwise,
        )
        for leaf, about in enumerate(model.leaves)
    ]


def record_times(history: History) -> dict[int, NDArray[np.int64]]:
    """Recorded times of each leaf, as a reader of the record sees them."""
    times: dict[int, list[int]] = {leaf: [] for leaf in range(len(history.onset))}
    for diagnosis in history.diagnoses:
        if diagnosis.leaf != NEVER and diagnosis.readable:
            times[diagnosis.leaf].append(label_time(diagnosis))
    return {leaf: np.array(values, dtype=np.int64) for leaf, values in times.items()}


def _guard_end(history: History, t0: int) -> int:
    """End of the visits around t0, joined where they are at most a day apart."""
    end = max((visit.end for visit in history.visits if visit.start <= t0 <= visit.end), default=t0)
    joined = True
    while joined:
        later = [v.end for v in history.visits if v.end > end and t0 <= v.start <= end + DAY_S]
        joined = bool(later)
        end = max(later, default=end)
    return end


def follow_up(window: Window) -> tuple[int, bool]:
    """End of follow-up, and whether death ended it."""
    if window.death is not None and window.death <= window.end + DEATH_PAD_S:
        return min(window.death, window.end), True
    return window.end, False


def _incident(task: str, window: Window, events: NDArray[np.int64]) -> Label:
    start = max(window.t0 + MIN_LAG_S, window.guard_end)
    end, by_death = follow_up(window)
    prevalent = bool(np.any(events <= start))
    after = events[(events > start) & (events <= end)]
    time = int(after[0]) - window.t0 if len(after) else None
    following = EVENT if len(after) else COMPETING if by_death else CENSORED
    if end <= start:
        state = following = MASKED
    elif window.t0 // DAY_S - window.first_day < MIN_PRIOR_DAYS:
        state = MASKED
    else:
        state = PREVALENT if prevalent else following
    return Label(task, "incident", state, prevalent, time, max(end - window.t0, 0), following)


def _death(task: str, window: Window, cut: int) -> Label:
    """Death as the event: everybody is followed a little beyond the record's end, dead or alive alike."""
    end = min(window.end + DEATH_PAD_S, cut)
    time = window.death - window.t0 if window.death is not None and window.t0 < window.death <= end else None
    state = MASKED if end <= window.t0 else EVENT if time is not None else CENSORED
    return Label(task, "next", state, False, time, max(end - window.t0, 0), state)
