"""Anchors of the paper's time bins: every day boundary of every train person's record, as pseudo-studies.

The day boundaries go through the same semantics and the same kernel as scans do. A record of ten years has thousands:
by default a seeded sample of 200,000 is taken; `--anchors all` is exact. The draw depends on persons and days only, not
on shards or workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from presage_platform.errors import IntegrityError
from presage_platform.labeling.bins import NO_EVENT_TIMES, base_rates
from presage_platform.labeling.event import INCIDENT_ONLY, SECONDS_PER_DAY
from presage_platform.labeling.facts import Histories, index_facts
from presage_platform.labeling.first_occurrence import ShardEvents, label_shard
from presage_platform.labeling.ontology import ConceptTasks
from presage_platform.labeling.paper_labels import PAPER_MODES, paper_windows
from presage_platform.labeling.semantics import IndexFacts, RiskWindows, risk_windows

if TYPE_CHECKING:
    from presage_platform.labeling.preparation import Prepared
    from presage_platform.labeling.timeline import Snapshot
    from presage_platform.settings import LabelingSettings

ANCHORS_AT_ONCE = 2048
FINE_BITS = 12


@dataclass(frozen=True, slots=True, eq=False)
class AnchorPart:
    """Some pseudo-studies of one shard that are at risk (next view), and the shard's events."""

    events: ShardEvents
    facts: IndexFacts
    windows: RiskWindows


@dataclass(frozen=True, slots=True, eq=False)
class AnchorTimes:
    """What anchors say of bins and rates: order statistics of all event times; events and exposure of each task."""

    edges_s: NDArray[np.int64]
    num_events: NDArray[np.int64]
    exposure_s: NDArray[np.int64]
    num_anchors: int


def day_boundaries(days: NDArray[np.int64], birth_day: int | None) -> NDArray[np.int64]:
    """Return the anchors of one record: the last second of each recorded day but the last, from a day after birth.

    `days` are days since 1970, ascending, each once. After the last day nothing can happen.
    """
    kept = days[:-1]
    if birth_day is not None:
        kept = kept[kept >= birth_day + 1]
    return kept * SECONDS_PER_DAY + SECONDS_PER_DAY - 1


def anchor_parts(snapshot: Snapshot, prepared: Prepared, settings: LabelingSettings) -> Iterator[AnchorPart]:
    """Yield the anchors of all train persons, some at a time; those not at risk are left out."""
    persons = np.unique(prepared.rows.person_id[prepared.part == 0])
    birth = _birth_days(snapshot, persons)
    shard_of = snapshot.shards_of(persons)
    counts = np.zeros(len(persons), dtype=np.int64)
    for number in range(snapshot.n_shards):
        events = snapshot.shard(number)
        for position in np.flatnonzero(shard_of == number).tolist():
            counts[position] = len(_boundaries(events, int(persons[position]), birth[position]))
    chosen = _sample(int(counts.sum()), settings)
    first = np.concatenate([[0], np.cumsum(counts)])
    histories = snapshot.histories()
    raw = snapshot.last_events(raw=True) if settings.mode in PAPER_MODES else None
    for number in range(snapshot.n_shards):
        events = snapshot.shard(number)
        person_id, t0_s = [], []
        for position in np.flatnonzero(shard_of == number).tolist():
            drawn = chosen[np.searchsorted(chosen, first[position]) : np.searchsorted(chosen, first[position + 1])]
            times = _boundaries(events, int(persons[position]), birth[position])[drawn - first[position]]
            person_id.append(np.full(len(times), persons[position]))
            t0_s.append(times)
        if person_id:
            yield from _parts(
                events, np.concatenate(person_id), np.concatenate(t0_s), histories, raw, prepared, settings
            )


def measure(
    parts: Callable[[], Iterable[AnchorPart]], prepared: Prepared, ontology: ConceptTasks, num_bins: int | None
) -> AnchorTimes:
    """Label every anchor and return exact order statistics, events and exposure, in bounded memory.

    Times are counted in two passes, first by 4,096-second bucket, then by second within the buckets that hold an order
    statistic; so `parts` is called twice. Without `num_bins` only rates are measured.
    """
    num_tasks = ontology.num_tasks
    events, exposure = np.zeros(num_tasks, dtype=np.int64), np.zeros(num_tasks, dtype=np.int64)
    coarse, num_anchors = np.zeros(1 << (31 - FINE_BITS), dtype=np.int64), 0
    for part in parts():
        shard = label_shard(part.events, part.facts, part.windows, ontology, same_day=prepared.policy.same_day)
        row = np.repeat(np.arange(len(part.facts)), np.diff(shard.indptr))
        found = base_rates(shard.task, shard.time, part.windows.end_s, part.windows.entry_s, row, num_tasks)
        events += found[0]
        exposure += found[1]
        coarse += np.bincount(shard.time >> FINE_BITS, minlength=len(coarse))
        num_anchors += len(part.facts)
    total = int(coarse.sum())
    if total == 0:
        raise IntegrityError(NO_EVENT_TIMES)
    if num_bins is None or num_bins == 1:
        return AnchorTimes(np.empty(0, dtype=np.int64), events, exposure, num_anchors)
    ranks = np.array([-(-step * total // num_bins) - 1 for step in range(1, num_bins)], dtype=np.int64)
    cumulative = np.cumsum(coarse)
    bucket = np.searchsorted(cumulative, ranks, side="right")
    fine = np.zeros((len(ranks), 1 << FINE_BITS), dtype=np.int64)
    for part in parts():
        shard = label_shard(part.events, part.facts, part.windows, ontology, same_day=prepared.policy.same_day)
        for position, number in enumerate(bucket.tolist()):
            inside = shard.time[shard.time >> FINE_BITS == number] & ((1 << FINE_BITS) - 1)
            fine[position] += np.bincount(inside, minlength=1 << FINE_BITS)
    below = cumulative[bucket] - coarse[bucket]
    edges = [
        (number << FINE_BITS) + int(np.searchsorted(np.cumsum(fine[position]), rank - less, side="right"))
        for position, (number, rank, less) in enumerate(
            zip(bucket.tolist(), ranks.tolist(), below.tolist(), strict=True)
        )
    ]
    return AnchorTimes(np.array(edges, dtype=np.int64), events, exposure, num_anchors)


def _parts(
    events: ShardEvents,
    person_id: NDArray[np.int64],
    t0_s: NDArray[np.int64],
    histories: Histories,
    raw: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
    prepared: Prepared,
    settings: LabelingSettings,
) -> Iterator[AnchorPart]:
    for low in range(0, len(t0_s), ANCHORS_AT_ONCE):
        person, t0 = person_id[low : low + ANCHORS_AT_ONCE], t0_s[low : low + ANCHORS_AT_ONCE]
        facts, _ = index_facts(
            np.arange(len(t0), dtype=np.int64),
            person,
            t0,
            np.zeros(len(t0), dtype=np.bool_),
            histories,
            bridge_days=settings.bridge_days,
            grace_days=settings.grace_days,
        )
        if raw is None:
            windows = risk_windows(facts, prepared.policy)
        else:
            windows = paper_windows(facts, prepared.policy, raw[1][np.searchsorted(raw[0], person)])
        keep = (windows.mask & ~np.uint16(INCIDENT_ONLY)) == 0
        if keep.any():
            yield AnchorPart(events, facts.take(keep), windows.take(keep))


def _boundaries(events: ShardEvents, person: int, birth_day: int | None) -> NDArray[np.int64]:
    low, high = (int(bound[0]) for bound in events.ranges(np.array([person])))
    day = np.asarray(events.time[low:high]) // SECONDS_PER_DAY  # sorted by time
    return day_boundaries(day[np.concatenate([[True], day[1:] != day[:-1]])[: len(day)]], birth_day)


def _birth_days(snapshot: Snapshot, persons: NDArray[np.int64]) -> list[int | None]:
    from datetime import date

    born = snapshot.person_and_visit(persons, np.full(len(persons), -1))[0].column("birth_date").to_pylist()
    return [None if day is None else (day - date(1970, 1, 1)).days for day in born]


def _sample(total: int, settings: LabelingSettings) -> NDArray[np.int64]:
    if settings.anchors == "all" or total <= settings.anchors:
        return np.arange(total, dtype=np.int64)
    drawn = np.random.default_rng(settings.split_seed).choice(total, settings.anchors, replace=False, shuffle=False)
    return np.sort(drawn).astype(np.int64)
