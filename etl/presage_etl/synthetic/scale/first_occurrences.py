"""First occurrences of a few scans, found by walking through their persons' events one by one.

Slow, and plain on purpose: the labels of a benchmark are compared with it, and it shares nothing with their kernel.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from presage_etl.synthetic.scale.events import Events

SCHEMA = pa.schema(
    [("study_id", pa.int64()), ("concept_id", pa.int64()), ("time_s", pa.int64()), ("prevalent", pa.bool_())]
)
"""One row a scan and concept with an event of it, or of what lies below it, before or after the scan."""


@dataclass(frozen=True)
class SampledScan:
    """A scan, and the last second at which an event of its person counts."""

    study_id: int
    person_id: int
    t0: int
    end: int


def walk_scans(events: Events, scans: list[SampledScan], vocabulary: Path) -> pa.Table:
    """Return the first time after each scan, and whether it was known before, of every concept and its ancestors."""
    rows: list[tuple[int, int, int | None, bool]] = []
    for scan in scans:
        after, before = _walk(*_events_of(events, scan.person_id), scan.t0, scan.end)
        first = _rolled_up(after, vocabulary)
        known = {ancestor for concept in before for ancestor in _ancestors(vocabulary).get(concept, [concept])}
        for concept in sorted(first.keys() | known):
            rows.append((scan.study_id, concept, first.get(concept), concept in known))
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def _walk(times: list[int], concepts: list[int], t0: int, end: int) -> tuple[dict[int, int], set[int]]:
    """First time after the scan of each concept, and the concepts of its history."""
    after: dict[int, int] = {}
    before: set[int] = set()
    for time, concept in zip(times, concepts, strict=True):
        if time <= t0:
            before.add(concept)
        elif time <= end and (concept not in after or time - t0 < after[concept]):
            after[concept] = time - t0
    return after, before


def _rolled_up(after: dict[int, int], vocabulary: Path) -> dict[int, int]:
    first: dict[int, int] = {}
    for concept, time in after.items():
        for ancestor in _ancestors(vocabulary).get(concept, [concept]):
            if ancestor not in first or time < first[ancestor]:
                first[ancestor] = time
    return first


def _events_of(events: Events, person_id: int) -> tuple[list[int], list[int]]:
    place = np.flatnonzero(events.person_id == person_id)
    if len(place) == 0:
        return [], []
    low, high = events.offset[place[0]], events.offset[place[0] + 1]
    times: NDArray[np.int64] = events.time[low:high]
    return times.tolist(), events.concept[low:high].tolist()


@cache
def _ancestors(vocabulary: Path) -> dict[int, list[int]]:
    """What lies at or above each concept, from the file that a reader of the cohort gets."""
    table = pq.read_table(vocabulary / "concept_ancestor.parquet")
    names = ("descendant_concept_id", "ancestor_concept_id")
    above: dict[int, list[int]] = defaultdict(list)
    for below, ancestor in zip(*(table.column(name).to_pylist() for name in names), strict=True):
        above[below].append(ancestor)
    return dict(above)
