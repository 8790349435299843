"""How often each concept occurs: rows, persons, years and source tables, counted shard by shard.

A shard is counted in one pass, by whoever has it in memory; what is sent on is as small as its number of concepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from presage_platform.labeling.first_occurrence import compiled

if TYPE_CHECKING:
    from presage_platform.labeling.timeline import SortedShard

ConceptPart = dict[str, NDArray[Any]]
"""Counts of one shard: the columns of `_COUNT_COLUMNS`, one row a concept, ascending."""

MULTIPLIER = 2_654_435_769  # Knuth's: 2^32 over the golden ratio


def count_concepts(shard: SortedShard) -> ConceptPart:
    """Count one shard."""
    concepts = np.unique(shard.concept).astype(np.int64)
    bits = max(int(2 * len(concepts)).bit_length(), 1)
    place = np.full(1 << bits, -1, dtype=np.int64)
    _place_concepts(concepts, place, bits)
    tallies = np.zeros((3, len(concepts)), dtype=np.int64)
    span = np.empty((2, len(concepts)), dtype=np.int64)
    span[0], span[1] = np.iinfo(np.int64).max, np.iinfo(np.int64).min
    _count(shard.concept, shard.time, shard.flags, shard.offset, concepts, place, bits, tallies, span)
    first, last = (year.astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64) + 1970 for year in span)
    rows, persons, tables = tallies
    return {
        "concept": concepts,
        "rows": rows,
        "persons": persons,
        "first_year": first,
        "last_year": last,
        "tables": tables,
    }


class ConceptCounter:
    """Adds up the counts of shards."""

    def __init__(self) -> None:
        self._parts: list[ConceptPart] = []

    def merge(self, part: ConceptPart) -> None:
        """Take the counts of one shard (`count_concepts`)."""
        self._parts.append(part)

    def table(self) -> pa.Table:
        """Return concept, rows, persons, first and last year, and the tables (bits) that fed each concept."""
        joined = {
            name: np.concatenate([np.empty(0, dtype=np.int64), *(part[name] for part in self._parts)])
            for name in _COUNT_COLUMNS
        }
        concepts, number = np.unique(joined["concept"].astype(np.int64), return_inverse=True)
        result: dict[str, NDArray[Any]] = {"concept": concepts}
        for name, (ufunc, start) in _COUNT_COLUMNS.items():
            if name != "concept":
                result[name] = np.full(len(concepts), start, dtype=np.int64)
                ufunc.at(result[name], number, joined[name].astype(np.int64))
        return pa.table({name: pa.array(values, pa.int64()) for name, values in result.items()})


def by_shard(parts: Sequence[ConceptPart]) -> pa.Table:
    """Return the counts of all shards one after the other, with the shard's number."""
    number = np.repeat(np.arange(len(parts)), [len(part["concept"]) for part in parts])
    columns = {name: np.concatenate([part[name] for part in parts]).astype(np.int64) for name in _COUNT_COLUMNS}
    return pa.table({"shard": number.astype(np.int64), **columns})


def of_shard(counts: pa.Table, number: int) -> ConceptPart:
    """Return the counts of one shard from those of all (`by_shard`)."""
    mine = counts.filter(pc.equal(counts.column("shard"), number))
    return {name: np.asarray(mine.column(name)) for name in _COUNT_COLUMNS}


_COUNT_COLUMNS: dict[str, tuple[np.ufunc, int]] = {
    "concept": (np.add, 0),
    "rows": (np.add, 0),
    "persons": (np.add, 0),
    "first_year": (np.minimum, 9999),
    "last_year": (np.maximum, 0),
    "tables": (np.bitwise_or, 0),
}


@compiled
def _place_concepts(concepts: Any, place: Any, bits: Any) -> None:
    """Fill an open-addressing table with the number of each concept."""
    mask = (1 << bits) - 1
    for number in range(len(concepts)):
        at = (concepts[number] * MULTIPLIER >> 16) & mask
        while place[at] >= 0:
            at = (at + 1) & mask
        place[at] = number


@compiled
def _count(
    concept: Any, time: Any, flags: Any, offset: Any, concepts: Any, place: Any, bits: Any, tallies: Any, span: Any
) -> None:
    """Count rows, persons and tables of each concept, and the times of its first and last event."""
    mask = (1 << bits) - 1
    counted_for = np.full(len(concepts), -1)
    for person in range(len(offset) - 1):
        for event in range(offset[person], offset[person + 1]):
            wanted = np.int64(concept[event])
            at = (wanted * MULTIPLIER >> 16) & mask
            while concepts[place[at]] != wanted:
                at = (at + 1) & mask
            number = place[at]
            tallies[0, number] += 1
            if counted_for[number] != person:
                counted_for[number] = person
                tallies[1, number] += 1
            tallies[2, number] |= 1 << (flags[event] & 7)
            span[0, number] = min(span[0, number], time[event])
            span[1, number] = max(span[1, number], time[event])
