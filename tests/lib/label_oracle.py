"""The semantics once more, written as a reader would say them: one study at a time, sets and dicts, no arrays.

Shares nothing with the product: times come from the texts of a `Record`, days from datetime.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests.lib.timelines import Person, Record

SECOND = timedelta(seconds=1)


@dataclass
class Row:
    """What the oracle says of one study; seconds from t0."""

    entry_s: int
    end_s: int
    end_cause: int
    death_s: int
    death_end_s: int
    mask: int
    times: dict[int, int] = field(default_factory=dict)
    prevalent: set[int] = field(default_factory=set)
    visit: set[int] = field(default_factory=set)


def label(record: Record, policy: Any, *, bridge_days: int = 0) -> list[Row]:
    """Label every scan of a record."""
    return [_study(record, record.persons[scan.person], scan.t0, policy, bridge_days) for scan in record.scans]


def _study(record: Record, person: Person, text: str, policy: Any, bridge_days: int) -> Row:
    t0 = _start(text)
    day = datetime(t0.year, t0.month, t0.day)
    around = (t0, _end(text))  # a bare date is its whole day
    period = next((p for p in _joined(person.periods, bridge_days + 1) if _meets(p, around)), None)
    stay = next((v for v in _joined_seconds(person.visits, 86_400) if _meets(v, around)), None)
    r = _risk_start(t0, text, stay, policy)
    death = _end(person.death) if person.death else None
    cut = datetime(1970, 1, 1) + timedelta(seconds=policy.data_cut_s)
    c = min(_policy_end(person, period, policy, t0, cut), cut)
    pad = timedelta(days=policy.death_pad_days)
    dead = death is not None and death <= c + pad
    f = min(c, death) if death is not None else c
    death_end = min(c + pad, cut)
    if policy.censor == "hybrid":
        death_end = (
            min(cut, datetime(1970, 1, 1) + timedelta(seconds=policy.death_cut_s)) if policy.death_cut_s else cut
        )
    prior = -1 if period is None else max((day - _midnight(period[0])).days, 0)
    mask = (f <= r) * 1 + (death is not None and death < t0) * 2 + (period is None) * 4
    mask += (prior < policy.min_prior_obs_days) * 8
    row = Row(
        entry_s=_seconds(r, t0),
        end_s=max(_seconds(f, t0), 0),
        end_cause=2 if dead else 0,
        death_s=-1 if death is None else max(_seconds(death, t0), 0),
        death_end_s=max(_seconds(death_end, t0), 0),
        mask=mask,
    )
    window = _visit_window(person, around, day)
    for event in person.events:
        _count(row, record, event, t0, day, r, f, window, policy)
    return row


def _count(
    row: Row, record: Record, event: Any, t0: datetime, day: datetime, r: Any, f: Any, window: Any, policy: Any
) -> None:
    when = _start(event.when)
    bare = len(event.when) == 10
    tasks = record.tasks.get(event.concept, ())
    if _meets((when, when), window) or (bare and _midnight(window[0]) <= when <= window[1]):
        row.visit |= set(tasks)
    if bare and policy.same_day == "include" and when == day:
        when = day + timedelta(days=1) - SECOND
    if when <= r:
        if policy.lookback_s is None or when >= r - timedelta(seconds=policy.lookback_s):
            row.prevalent |= set(tasks)
    elif when <= f:
        for task in tasks:
            row.times[task] = min(row.times.get(task, 1 << 40), _seconds(when, t0))


def _risk_start(t0: datetime, text: str, stay: Any, policy: Any) -> datetime:
    starts = [t0, t0 + timedelta(seconds=policy.min_lag_s)]
    if len(text) == 10 or policy.same_day == "strict_day":
        starts.append(_midnight(t0) + timedelta(days=1) - SECOND)
    guarded = policy.visit_guard == "all" or (policy.visit_guard == "condition" and policy.fed_by_conditions)
    if guarded and stay is not None:
        starts.append(stay[1])
    return max(starts)


def _policy_end(person: Person, period: Any, policy: Any, t0: datetime, cut: datetime) -> datetime:
    never = datetime(1, 1, 1)
    if policy.censor == "observation_period_end":
        return period[1] if period else t0
    if policy.censor == "last_event":
        return max((_end(event.when) for event in person.events), default=never)
    if policy.censor in ("last_visit_end", "hybrid"):
        return max((max(_end(b), _start(a)) for a, b in person.visits), default=never)
    return cut


def _visit_window(person: Person, around: Any, day: datetime) -> tuple[datetime, datetime]:
    spans = sorted((_start(a), max(_end(b), _start(a))) for a, b in person.visits)
    holding = [span for span in spans if _meets(span, around)]
    if not holding:
        return day, day + timedelta(days=1) - SECOND
    return min(holding, key=lambda span: (span[1] - span[0], spans.index(span)))


def _joined(periods: Any, gap_days: int) -> list[tuple[datetime, datetime]]:
    joined: list[tuple[datetime, datetime]] = []
    for a, b in sorted((_start(a), _end(b)) for a, b in periods):
        if joined and (_midnight(a) - _midnight(joined[-1][1])).days <= gap_days:
            joined[-1] = (joined[-1][0], max(joined[-1][1], b))
        else:
            joined.append((a, b))
    return joined


def _joined_seconds(visits: Any, gap_s: int) -> list[tuple[datetime, datetime]]:
    joined: list[tuple[datetime, datetime]] = []
    for a, b in sorted((_start(a), max(_end(b), _start(a))) for a, b in visits):
        if joined and (a - joined[-1][1]).total_seconds() <= gap_s:
            joined[-1] = (joined[-1][0], max(joined[-1][1], b))
        else:
            joined.append((a, b))
    return joined


def _meets(span: Any, around: Any) -> bool:
    return bool(span[0] <= around[1] and span[1] >= around[0])


def _start(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _end(text: str) -> datetime:
    return _start(text) + (timedelta(days=1) - SECOND if len(text) == 10 else timedelta(0))


def _midnight(when: datetime) -> datetime:
    return datetime(when.year, when.month, when.day)


def _seconds(when: datetime, t0: datetime) -> int:
    return int((when - t0).total_seconds())
