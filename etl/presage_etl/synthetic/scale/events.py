"""Events by the million: the planted record of a shard's persons amid events whose concepts follow Zipf's law.

Each person draws 64 random bits an event from a stream of their own; a compiled pass turns the bits of the whole shard
into keys (time, concept, flags) that sort as the timeline store wants them. Nothing is done in Python for an event.

The unplanned events lie within the record and know nothing of latents: they fill the store and teach nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from presage_etl.synthetic.clock import DAY_S
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.scale.lives import DATE_ONLY
from presage_etl.synthetic.scale.ontology import TABLE_OF_RANK
from presage_etl.synthetic.streams import Stage, stream

EVENTS_A_VISIT = 40  # events of one visit share their day
SPREAD = 1.0  # sd of the logarithm of a person's number of events
FEWEST_EVENTS, MOST_TIMES_MEAN = 20, 10.0
BASE_S = -(1 << 32)  # times count from 1833 on, so that a key is never negative
CONCEPT_BITS, FLAG_BITS = 21, 5
GUIDE_BITS = 16


@dataclass(frozen=True)
class Frequencies:
    """Zipf's law as thresholds of 32 random bits, with a guide to where a search begins."""

    threshold: NDArray[np.uint32]
    guide: NDArray[np.int32]


@dataclass(frozen=True)
class Events:
    """Events of a shard in the store's order: by (person, time, concept, flags), each once."""

    person_id: NDArray[np.int64]
    offset: NDArray[np.int64]
    concept: NDArray[np.int32]
    time: NDArray[np.int64]
    flags: NDArray[np.uint8]


def frequencies(number: int, exponent: float) -> Frequencies:
    """Return the law for so many concepts, by rank."""
    weight = np.cumsum(np.arange(1, number + 1, dtype=np.float64) ** -exponent)
    threshold = np.minimum(np.round(weight / weight[-1] * 2.0**32), 2**32 - 1).astype(np.uint32)
    threshold[-1] = 2**32 - 1
    starts = (np.arange(1 << GUIDE_BITS, dtype=np.uint64) << (32 - GUIDE_BITS)).astype(np.uint32)
    return Frequencies(threshold, np.searchsorted(threshold, starts, side="right").astype(np.int32))


def number_of_events(parameters: Parameters, rng: np.random.Generator) -> int:
    """Draw how many events a person has beside the planted ones: log-normal, the tail cut at ten times the mean."""
    mean = parameters.timeline.events_per_person
    if mean == 0:
        return 0
    drawn = min(np.exp(SPREAD * rng.standard_normal() - SPREAD**2 / 2), MOST_TIMES_MEAN)
    return max(round(mean * float(drawn)), FEWEST_EVENTS)


def shard_events(
    parameters: Parameters, persons: NDArray[np.int64], span: pa.Table, planted: pa.Table, filler: NDArray[np.int64]
) -> Events:
    """Return all events of the persons of one shard.

    Parameters
    ----------
    persons
        Ids (index + 1), ascending.
    span
        person_id, start_s, end_s: where unplanned events may lie; a person without a row has none.
    planted
        Events of the simulated record (`lives.SCHEMAS`).
    filler
        Concept ids by rank.
    """
    planted_id, planted_at = _column(planted, "person_id"), _column(planted, "concept")
    known = np.unique(np.concatenate([filler, planted_at]))
    starts, ends = _spans(span, persons)
    words, days, sizes = _draw(parameters, persons, starts, ends)
    law = frequencies(len(filler), parameters.timeline.zipf) if len(filler) else frequencies(1, 1.0)
    by_person = np.argsort(planted_id, kind="stable")
    of_person = np.searchsorted(planted_id[by_person], persons)
    of_person = np.append(of_person, len(planted_id))
    planted_keys = _keys(planted, known)[by_person]
    offset = np.concatenate([[0], np.cumsum(sizes + np.diff(of_person))]).astype(np.int64)
    keys = np.empty(offset[-1], dtype=np.int64)
    _fill_keys(
        keys,
        offset,
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        words,
        days,
        ends,
        law.threshold,
        law.guide,
        np.searchsorted(known, filler).astype(np.int64),
        np.array(TABLE_OF_RANK, dtype=np.int64),
        round(parameters.timeline.date_only * 256),
        planted_keys,
        of_person,
    )
    del words
    for low, high in zip(offset[:-1].tolist(), offset[1:].tolist(), strict=True):
        keys[low:high].sort()
    return _unpack(persons, offset, keys, known)


def _draw(
    parameters: Parameters, persons: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Random bits of every event, the day of every visit, and the number of events of each person."""
    sizes = np.zeros(len(persons), dtype=np.int64)
    words, days = [], []
    for place, (person, start, end) in enumerate(zip(persons.tolist(), starts.tolist(), ends.tolist(), strict=True)):
        rng = stream(parameters.seed, person - 1, Stage.TIMELINE)
        number = number_of_events(parameters, rng) if end > start else 0
        if number == 0:
            continue
        sizes[place] = number
        words.append(rng.integers(0, 2**64, size=number, dtype=np.uint64))
        visits = rng.integers(start // DAY_S, end // DAY_S + 1, size=-(-number // EVENTS_A_VISIT))
        days.append(np.repeat(visits, EVENTS_A_VISIT)[:number])
    none = np.empty(0, dtype=np.int64)
    return np.concatenate([none.astype(np.uint64), *words]), np.concatenate([none, *days]), sizes


@njit(cache=True)
def _fill_keys(
    keys: Any,
    offset: Any,
    source: Any,
    words: Any,
    days: Any,
    ends: Any,
    threshold: Any,
    guide: Any,
    dense: Any,
    table_of_rank: Any,
    date_only: int,
    planted: Any,
    of_person: Any,
) -> None:
    """Write the keys of each person: those of random bits, then the planted ones.

    Bits 32–63 choose the concept, 8–24 the second of the day, 0–7 whether the event has a time at all.
    """
    for person in range(len(offset) - 1):
        at = offset[person]
        for event in range(source[person], source[person + 1]):
            word = words[event]
            chosen = np.uint32(word >> np.uint64(32))
            rank = guide[chosen >> np.uint32(32 - GUIDE_BITS)]
            while rank < len(threshold) - 1 and threshold[rank] <= chosen:
                rank += 1
            flags = table_of_rank[rank % len(table_of_rank)]
            time = days[event] * DAY_S
            if np.int64(word & np.uint64(255)) < date_only:
                flags |= DATE_ONLY
            else:
                second = np.int64((word >> np.uint64(8)) & np.uint64(0x1FFFF)) * DAY_S >> 17
                time = min(time + second, ends[person])
            keys[at] = ((time - BASE_S) << (CONCEPT_BITS + FLAG_BITS)) | (dense[rank] << FLAG_BITS) | flags
            at += 1
        for event in range(of_person[person], of_person[person + 1]):
            keys[at] = planted[event]
            at += 1


def _unpack(
    persons: NDArray[np.int64], offset: NDArray[np.int64], keys: NDArray[np.int64], known: NDArray[np.int64]
) -> Events:
    """Take sorted keys apart; exact duplicates collapse, persons without events go."""
    new = np.ones(len(keys), dtype=np.bool_)
    new[1:] = keys[1:] != keys[:-1]
    new[offset[:-1][offset[:-1] < len(keys)]] = True  # the first of each person
    kept = np.concatenate([[0], np.cumsum(new)])[offset]
    keys = keys[new]
    there = np.diff(kept) > 0
    concept = (keys >> FLAG_BITS) & ((1 << CONCEPT_BITS) - 1)
    return Events(
        person_id=persons[there],
        offset=np.append(kept[:-1][there], kept[-1]).astype(np.int64),
        concept=known[concept].astype(np.int32),
        time=(keys >> (CONCEPT_BITS + FLAG_BITS)) + BASE_S,
        flags=(keys & ((1 << FLAG_BITS) - 1)).astype(np.uint8),
    )


def _keys(planted: pa.Table, known: NDArray[np.int64]) -> NDArray[np.int64]:
    time, flags = _column(planted, "time"), _column(planted, "flags")
    dense = np.searchsorted(known, _column(planted, "concept"))
    return np.asarray(((time - BASE_S) << (CONCEPT_BITS + FLAG_BITS)) | (dense << FLAG_BITS) | flags)


def _spans(span: pa.Table, persons: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    owner = _column(span, "person_id")
    order = np.argsort(owner)
    at = np.searchsorted(owner[order], persons)
    at = np.minimum(at, max(len(owner) - 1, 0))
    found = owner[order][at] == persons if len(owner) else np.zeros(len(persons), dtype=np.bool_)
    rows = order[at] if len(owner) else np.zeros(len(persons), dtype=np.int64)
    return tuple(  # type: ignore[return-value]
        np.where(found, _column(span, name)[rows] if len(owner) else 0, 0) for name in ("start_s", "end_s")
    )


def _column(table: pa.Table, name: str) -> NDArray[np.int64]:
    return np.asarray(table.column(name).combine_chunks()).astype(np.int64)
