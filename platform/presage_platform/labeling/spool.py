"""Between a table and its shards: events are spilled by shard to disk, as they come, from any number of connections.

Memory does not grow with the database: a batch at a time on the way in, a shard at a time on the way out. What was read
and dropped is counted per table and shard, so that a refresh can put the counts of unchanged shards beside new ones.
"""

from __future__ import annotations

import resource
import tempfile
import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from presage_platform.errors import SettingsError
from presage_platform.labeling.event_rows import EARLIEST_S, Batch, death_events, events_of, midnights, settle_midnights
from presage_platform.labeling.event_tables import EventTable
from presage_platform.labeling.timeline import EVENT_DTYPE, SortedShard, shard_of_person, sort_shard
from presage_platform.labeling.value_bins import ValueBins

COUNTERS = ("rows", "early", "late", "unknown_person", "timed", "midnight")
WIDE = 1 << 26
UNKNOWN = -1
SPARE_FILES = 256
"""Open files that everything else may need."""


class ShardLookup:
    """The shard of each known person, by a plain table where ids are close together."""

    def __init__(self, persons: NDArray[np.int64], n_shards: int) -> None:
        self.n_shards = n_shards
        shards = [shard_of_person(person, n_shards) for person in persons.tolist()]
        self.persons, self.shard = persons, np.array(shards, dtype=np.int32)
        self._low = int(persons[0]) if len(persons) else 0
        width = int(persons[-1]) - self._low + 1 if len(persons) else 0
        self._table: NDArray[np.int32] | None = None
        if width <= WIDE:
            self._table = np.full(width + 1, UNKNOWN, dtype=np.int32)  # the last place is for ids outside
            self._table[persons - self._low] = self.shard

    def of(self, person_id: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the shard of each person, `UNKNOWN` for one that is not in the table person."""
        if self._table is not None:
            at = person_id - self._low
            last = len(self._table) - 1
            return self._table[np.where((at < 0) | (at > last), last, at)]
        near = np.minimum(np.searchsorted(self.persons, person_id), len(self.persons) - 1)
        return np.where(self.persons[near] == person_id, self.shard[near], UNKNOWN).astype(np.int32)


class Spool:
    """Events on their way to shards; safe to add to from several threads. A context: its files close with it."""

    def __init__(self, folder: Path, lookup: ShardLookup, data_cut_s: int) -> None:
        self.n_shards, self._lookup, self._data_cut_s = lookup.n_shards, lookup, data_cut_s
        _allow_open_files(self.n_shards)
        self._open = ExitStack()
        # Files without a name: whatever happens to this process, their place on the disk is given back.
        self._files = [
            self._open.enter_context(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115 - the stack closes it
            for _ in range(self.n_shards)
        ]
        self._lock = threading.Lock()
        self.counts: dict[str, dict[str, NDArray[np.int64]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self._open.close()

    def add(self, source: EventTable, batch: Batch, source_concepts: str, bins: ValueBins | None) -> None:
        """Spill the events of some rows of a table, and count what is dropped."""
        shard = self._lookup.of(batch["person_id"])
        known = shard != UNKNOWN
        early, late = batch["time_s"] < EARLIEST_S, batch["time_s"] > self._data_cut_s
        dropped = early | late | ~known
        if dropped.any():
            home = _home(batch["person_id"], shard, self.n_shards)
            found = {"early": early, "late": late, "unknown_person": ~known & ~early & ~late}
            counts = {name: np.bincount(home[rows], minlength=self.n_shards) for name, rows in found.items()}
            batch = {name: values[~dropped] for name, values in batch.items()}
            shard = shard[~dropped]
            counts["rows"] = np.bincount(home, minlength=self.n_shards)
        else:
            counts = {"rows": np.bincount(shard, minlength=self.n_shards)}
        counts["timed"] = np.bincount(shard[batch["is_date"] == 0], minlength=self.n_shards)
        counts["midnight"] = np.bincount(shard[midnights(batch)], minlength=self.n_shards)
        events = events_of(batch, source.bit, source_concepts, bins)
        if len(events) != len(shard):
            shard = self._lookup.of(events["person_id"].copy())
        blocks = _by_shard(events, shard, self.n_shards)
        with self._lock:
            mine = self.counts.setdefault(
                source.name, {name: np.zeros(self.n_shards, dtype=np.int64) for name in COUNTERS}
            )
            for name, number in counts.items():
                mine[name] += number
            for file, block in zip(self._files, blocks, strict=True):
                if len(block):
                    file.write(block.tobytes())

    def add_deaths(self, rows: tuple[NDArray[Any], NDArray[Any], NDArray[Any]], shards: Iterable[int]) -> None:
        """Spill the death rows of some shards as events."""
        events = death_events(*rows)
        shard = self._lookup.of(np.asarray(rows[0], dtype=np.int64))
        for number in shards:
            self._files[number].write(events[shard == number].tobytes())

    def sorted_shard(self, number: int, date_tables: set[int]) -> SortedShard:
        """Return one shard's events in order, and give their place on the disk back."""
        file = self._files[number]
        file.seek(0)
        events = np.frombuffer(bytearray(file.read()), dtype=EVENT_DTYPE)
        file.seek(0)
        file.truncate()
        return sort_shard(settle_midnights(events, date_tables))


def date_tables(tables: Iterable[EventTable], counts: Mapping[str, Mapping[str, NDArray[np.int64]]]) -> set[int]:
    """Return the bits of the tables whose times are mostly midnight: there a midnight is a bare date."""
    found = set()
    for source in tables:
        mine = counts.get(source.name)
        if mine is not None and mine["timed"].sum() and mine["midnight"].sum() * 2 > mine["timed"].sum():
            found.add(source.bit)
    return found


def counts_by_name(counts: Mapping[str, Mapping[str, NDArray[np.int64]]]) -> dict[str, int]:
    """Return what was read and dropped under one name each, as the manifest has it."""
    read = {f"rows read from {table}": int(mine["rows"].sum()) for table, mine in sorted(counts.items())}
    words = {"early": "before 1900 or infinite", "late": "after the data cut"}
    dropped = {
        f"dropped, {table}: {text}": int(mine[name].sum())
        for table, mine in sorted(counts.items())
        for name, text in words.items()
    }
    dropped["dropped, person not in person"] = sum(int(mine["unknown_person"].sum()) for mine in counts.values())
    return read | {name: number for name, number in dropped.items() if number}


def _allow_open_files(number: int) -> None:
    """Let this process hold a file for every shard, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise SettingsError(
                f"settings: {number} shards need as many open files, the system allows {hard}: set a smaller "
                "[labeling] n_shards, or raise the limit (`ulimit -n`)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _home(person_id: NDArray[np.int64], shard: NDArray[np.int32], n_shards: int) -> NDArray[np.int32]:
    """Return the shard of every row, also of persons that the table person does not know."""
    unknown = np.flatnonzero(shard == UNKNOWN)
    if len(unknown) == 0:
        return shard
    home = shard.copy()
    persons, number = np.unique(person_id[unknown], return_inverse=True)
    home[unknown] = np.array([shard_of_person(person, n_shards) for person in persons.tolist()])[number]
    return home


def _by_shard(events: NDArray[Any], shard: NDArray[np.int32], n_shards: int) -> list[NDArray[Any]]:
    if n_shards == 1:
        return [events]
    small = shard.astype(np.uint16 if n_shards <= 1 << 16 else np.uint32)  # 16 bits: a radix sort
    order = np.argsort(small, kind="stable")
    cuts = np.searchsorted(small[order], np.arange(n_shards + 1))
    events = events[order]
    return [events[cuts[number] : cuts[number + 1]] for number in range(n_shards)]
