"""The timeline snapshot: a database's events sorted by person and time, immutable and named by their hash.

    timeline/<snapshot_id>/  manifest.json  shard-00000.parquet …  person.parquet  observation_period.parquet
                             visit.parquet  death.parquet  concept_counts.parquet  arrays/ (disposable)

The Parquet shards are the contract, readable by DuckDB and Spark; `arrays/` holds the same with dense concept numbers,
memory-mapped, made on first use.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from presage_platform.errors import InputError, IntegrityError
from presage_platform.labeling.facts import Histories, Intervals
from presage_platform.labeling.first_occurrence import DATE_ONLY, ShardEvents
from presage_platform.labeling.hashing import hash_arrays
from presage_platform.labeling.semantics import LAST_SECOND

LAYOUT_VERSION = 2
REFRESH = "refresh.json"
EVENTS_A_SHARD = 4_000_000
SIDE_TABLES = ("person", "observation_period", "visit", "death")
BIN_KEYS = ("bin_id", "concept_id")
ARRAYS = ("person_id", "offset", "concept", "time", "flags")

CONCEPT_SHIFT = 1 << 31
WIDE = 1 << 27
"""Widest range of values that is numbered by a table: 134 million, untouched pages cost nothing."""

EVENT_DTYPE = np.dtype([("person_id", "<i8"), ("time", "<i8"), ("concept", "<i4"), ("flags", "u1")])
"""One event as it travels from a table to its shard, 21 bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class SortedShard:
    """Events of a person shard in order, with OMOP concept ids."""

    person_id: NDArray[np.int64]
    offset: NDArray[np.int64]
    concept: NDArray[np.int32]
    time: NDArray[np.int64]
    flags: NDArray[np.uint8]

    @property
    def sha256(self) -> str:
        """Hash of the arrays, not of a file format."""
        return hash_arrays(self.person_id, self.offset, self.concept, self.time, self.flags)


def shard_of_person(person_id: int, n_shards: int) -> int:
    """Return the shard of a person: the same in every snapshot of so many shards."""
    return int(hashlib.sha256(str(person_id).encode()).hexdigest()[:8], 16) % n_shards


def choose_n_shards(num_events: int) -> int:
    """Return the power of two nearest to events / 4 M, at least 1."""
    wanted = num_events / EVENTS_A_SHARD
    power = 1
    while power * 2 <= wanted or (power * 2 - wanted) < (wanted - power):
        power *= 2
    return power


def sort_shard(events: NDArray[Any]) -> SortedShard:
    """Sort events of `EVENT_DTYPE` by (person, time, concept, flags); exact duplicates collapse.

    Person, time, concept and flags are numbered within the shard and make one number of 63 bits, whose order is theirs:
    a plain sort of integers is several times faster than one by columns. A shard with more combinations than that is
    sorted by columns.
    """
    persons, person = number_values(events["person_id"])
    concepts, concept = number_values(events["concept"])
    kinds, kind = number_values(events["flags"])
    low = int(events["time"].min()) if len(events) else 0
    span = int(events["time"].max()) - low + 1 if len(events) else 1
    if len(persons) * span * len(concepts) * len(kinds) >= 1 << 63:
        return _sort_by_columns(events["person_id"], events["time"], _minor(events))
    key = person * span
    key += events["time"] - low
    key *= max(len(concepts), 1)
    key += concept
    key *= max(len(kinds), 1)
    key += kind
    key.sort()
    kept = np.ones(len(key), dtype=np.bool_)
    kept[1:] = key[1:] != key[:-1]
    key = key[kept]
    rest, kind = np.divmod(key, max(len(kinds), 1))
    rest, concept = np.divmod(rest, max(len(concepts), 1))
    offset = np.searchsorted(rest, np.arange(len(persons) + 1) * span).astype(np.int64)
    first = np.repeat(np.arange(len(persons)) * span - low, np.diff(offset))
    return SortedShard(persons, offset, concepts[concept], rest - first, kinds[kind])


def rank_of(known: NDArray[np.int64], values: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the position of each value among known ones, which are ascending and hold them all."""
    low = int(known[0]) if len(known) else 0
    width = int(known[-1]) - low + 1 if len(known) else 0
    if width > WIDE:
        return np.searchsorted(known, values).astype(np.int32)
    table = np.empty(width, dtype=np.int32)  # filled where a value is known, and read nowhere else
    table[known - low] = np.arange(len(known))
    ranks: NDArray[np.int32] = table[values.astype(np.int64) - low]
    return ranks


def number_values(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the distinct values, ascending, and the number of each among them; by a table where they lie close."""
    low = int(values.min()) if len(values) else 0
    width = int(values.max()) - low + 1 if len(values) else 0
    if width > WIDE:
        distinct, number = np.unique(values, return_inverse=True)
        return distinct, number.astype(np.int64)
    moved = values.astype(np.int64) - low
    present = np.zeros(width, dtype=np.bool_)
    present[moved] = True
    at = np.flatnonzero(present)
    rank = np.empty(width, dtype=np.int32)  # filled where a value is, and read nowhere else
    rank[at] = np.arange(len(at))
    return (at + low).astype(values.dtype), rank[moved].astype(np.int64)


def _minor(events: NDArray[Any]) -> NDArray[np.int64]:
    """Return concept and flags as one number that is not negative (value bins have negative ids)."""
    minor: NDArray[np.int64] = ((events["concept"].astype(np.int64) + CONCEPT_SHIFT) << 8) | events["flags"]
    return minor


def _sort_by_columns(person: NDArray[Any], time: NDArray[Any], minor: NDArray[np.int64]) -> SortedShard:
    order = np.lexsort((minor, time, person))
    person, time, minor = person[order], time[order], minor[order]
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (np.diff(person) != 0) | (np.diff(time) != 0) | (np.diff(minor) != 0)
    person, time, minor = person[new], time[new], minor[new]
    persons, first = np.unique(person, return_index=True)
    return SortedShard(
        person_id=persons,
        offset=np.concatenate([first, [len(person)]]).astype(np.int64),
        concept=((minor >> 8) - CONCEPT_SHIFT).astype(np.int32),
        time=time.copy(),
        flags=(minor & 0xFF).astype(np.uint8),
    )


class Snapshot:
    """Reader of one snapshot."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.snapshot_id: str = manifest["snapshot_id"]
        self.n_shards = len(manifest["shards"])

    @classmethod
    def open(cls, path: Path) -> Snapshot:
        """Open a snapshot.

        Raises
        ------
        InputError
            If there is none.
        """
        try:
            return cls(path, json.loads((path / "manifest.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            raise InputError(f"no snapshot `{path.name}` in timeline/: make one with `platform label`") from None

    @property
    def data_cut_s(self) -> int:
        """Last second that the record is known to cover."""
        return int(self.manifest["settings"]["data_cut_s"])

    def table(self, name: str) -> pa.Table:
        """Return one side table (`SIDE_TABLES`, `concept_counts`)."""
        return pq.read_table(self.path / f"{name}.parquet")

    @cached_property
    def concepts(self) -> NDArray[np.int64]:
        """Concepts present, ascending: position = dense concept number."""
        return _array(self.table("concept_counts"), "concept")

    def person_and_visit(self, person_id: NDArray[np.int64], visit_id: NDArray[np.int64]) -> tuple[pa.Table, pa.Table]:
        """Return the rows of some persons and visits, in that order; nulls where there is none."""
        return rows_by_key(self.table("person"), "person_id", person_id), rows_by_key(
            self.table("visit"), "visit_occurrence_id", visit_id
        )

    def shards_of(self, person_id: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the shard of each person."""
        persons, number = np.unique(person_id, return_inverse=True)
        shard = np.array([shard_of_person(person, self.n_shards) for person in persons.tolist()], dtype=np.int64)
        return shard[number] if len(persons) else np.empty(0, dtype=np.int64)

    def shard(self, number: int) -> ShardEvents:
        """Return the events of a shard as memory-mapped arrays with dense concept numbers."""
        folder = self.path / "arrays" / f"shard-{number:05d}"
        if not folder.is_dir():
            self._cache_arrays(number, folder)
        return ShardEvents(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS))

    def histories(self) -> Histories:
        """Return periods, visits, deaths and last events of all persons as arrays."""
        period, visit, death = (self.table(name) for name in SIDE_TABLES[1:])
        person, last_s = self.last_events()
        return Histories(
            periods=Intervals(*(_array(period, name) for name in ("person_id", "start_s", "end_s"))),
            visits=Intervals(*(_array(visit, name) for name in ("person_id", "start_s", "end_s"))),
            visit_id=_array(visit, "visit_occurrence_id"),
            death_person_id=_array(death, "person_id"),
            death_s=_array(death, "death_s"),
            last_event_person_id=person,
            last_event_s=last_s,
        )

    def last_events(self, *, raw: bool = False) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return all persons with events, ascending, and the time of their last event."""
        parts = [last_events(self.shard(number), raw=raw) for number in range(self.n_shards)]
        person, last_s = (np.concatenate([np.empty(0, dtype=np.int64), *column]) for column in zip(*parts, strict=True))
        by_person = np.argsort(person, kind="stable")
        return person[by_person], last_s[by_person]

    def bin_concepts(self) -> dict[int, tuple[int, ...]]:
        """Return the concept of each value bin of the extraction; empty without bins."""
        if not (self.path / "bins.parquet").is_file():
            return {}
        bins = self.table("bins")
        return {
            number: (concept,) for number, concept in zip(*(_array(bins, n).tolist() for n in BIN_KEYS), strict=True)
        }

    def verify(self) -> None:
        """Read every shard again and compare with the manifest.

        Raises
        ------
        IntegrityError
            Naming the first shard that differs.
        """
        for number, expected in enumerate(self.manifest["shards"]):
            if self._read_shard(number).sha256 != expected:
                raise IntegrityError(
                    f"integrity: shard {number} of snapshot {self.snapshot_id} differs from its manifest"
                )

    def _read_shard(self, number: int) -> SortedShard:
        table = pq.read_table(self.path / f"shard-{number:05d}.parquet")
        person = _array(table, "person_id")  # sorted: a person begins where the id changes
        first = np.flatnonzero(np.concatenate([[True], person[1:] != person[:-1]])[: len(person)])
        return SortedShard(
            person_id=person[first],
            offset=np.concatenate([first, [len(person)]]).astype(np.int64),
            concept=np.asarray(table.column("concept")).astype(np.int32, copy=False),
            time=_array(table, "time"),
            flags=np.asarray(table.column("flags")).astype(np.uint8, copy=False),
        )

    def _cache_arrays(self, number: int, folder: Path) -> None:
        shard = self._read_shard(number)
        partial = folder.with_suffix(f".{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        dense = rank_of(self.concepts, shard.concept)
        arrays: tuple[NDArray[Any], ...] = (shard.person_id, shard.offset, dense, shard.time, shard.flags)
        for name, values in zip(ARRAYS, arrays, strict=True):
            np.save(partial / f"{name}.npy", values)
        try:
            partial.rename(folder)
        except OSError:  # another process was quicker; both wrote the same
            shutil.rmtree(partial, ignore_errors=True)


def rows_by_key(table: pa.Table, name: str, wanted: NDArray[np.int64]) -> pa.Table:
    """Return the row of each wanted key, nulls where there is none."""
    keys = _array(table, name)
    order = np.argsort(keys, kind="stable")
    at = np.minimum(np.searchsorted(keys[order], wanted), max(len(keys) - 1, 0))
    known = keys[order][at] == wanted if len(keys) else np.zeros(len(wanted), dtype=np.bool_)
    rows = order[at] if len(keys) else np.zeros(len(wanted), dtype=np.int64)
    return table.take(pa.array(rows, mask=~known))


def last_events(events: ShardEvents, *, raw: bool = False) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return persons and the time of their last event; a date-only event lasts to the end of its day, unless `raw`."""
    if len(events.person_id) == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    until = events.time if raw else events.time + np.where(events.flags & DATE_ONLY, LAST_SECOND, 0)
    return np.asarray(events.person_id), np.maximum.reduceat(until, events.offset[:-1])


def _array(table: pa.Table, name: str) -> NDArray[np.int64]:
    return np.asarray(table.column(name).combine_chunks()).astype(np.int64, copy=False)
