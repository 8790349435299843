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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from presage_platform.errors import DiskFullError, InputError, IntegrityError
from presage_platform.labeling.concept_counts import ConceptCounter, ConceptPart, count_concepts
from presage_platform.labeling.event import SECONDS_PER_DAY
from presage_platform.labeling.facts import Histories, Intervals
from presage_platform.labeling.first_occurrence import DATE_ONLY, ShardEvents
from presage_platform.labeling.hashing import NAME_DIGITS, hash_arrays, hash_json, hash_table
from presage_platform.labeling.semantics import LAST_SECOND, POSTHUMOUS_DAYS
from presage_platform.labeling.store_writer import NO_SPACE, write_json

LAYOUT_VERSION = 1
EVENTS_A_SHARD = 4_000_000
ROWS_A_GROUP = 1 << 20
SIDE_TABLES = ("person", "observation_period", "visit", "death")
ARRAYS = ("person_id", "offset", "concept", "time", "flags")

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
    """Sort events of `EVENT_DTYPE` by (person, time, concept, flags); exact duplicates collapse."""
    person, time = events["person_id"], events["time"]
    minor = (events["concept"].astype(np.int64) << 8) | events["flags"]
    order = np.lexsort((minor, time, person))
    person, time, minor = person[order], time[order], minor[order]
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (np.diff(person) != 0) | (np.diff(time) != 0) | (np.diff(minor) != 0)
    person, time, minor = person[new], time[new], minor[new]
    persons, first = np.unique(person, return_index=True)
    return SortedShard(
        person_id=persons,
        offset=np.concatenate([first, [len(person)]]).astype(np.int64),
        concept=(minor >> 8).astype(np.int32),
        time=time.copy(),
        flags=(minor & 0xFF).astype(np.uint8),
    )


def write_shard(path: Path, shard: SortedShard) -> None:
    """Write one shard as Parquet: small, and the same for every reader."""
    table = pa.table(
        {
            "person_id": np.repeat(shard.person_id, np.diff(shard.offset)),
            "concept": shard.concept,
            "time": shard.time,
            "flags": shard.flags,
        }
    )
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=1,
        row_group_size=ROWS_A_GROUP,
        use_dictionary=["concept", "flags"],
        column_encoding={"person_id": "DELTA_BINARY_PACKED", "time": "DELTA_BINARY_PACKED"},
    )


@dataclass(frozen=True, slots=True, eq=False)
class StagedShard:
    """A shard that is on disk already, and what a snapshot has to know of it: small, so that workers can send it."""

    path: Path
    sha256: str
    num_persons: int
    num_events: int
    concepts: ConceptPart
    num_posthumous: int


def stage_shard(path: Path, shard: SortedShard, deaths: pa.Table) -> StagedShard:
    """Write a shard and describe it: the part of a snapshot that any worker may do.

    Parameters
    ----------
    path
        Within the folder of the snapshots, so that it can be moved into one.
    deaths
        person_id, death_s of (at least) the shard's persons, ascending.
    """
    write_shard(path, shard)
    return StagedShard(
        path=path,
        sha256=shard.sha256,
        num_persons=len(shard.person_id),
        num_events=len(shard.time),
        concepts=count_concepts(shard),
        num_posthumous=count_posthumous(shard, _array(deaths, "person_id"), _array(deaths, "death_s")),
    )


def write_snapshot(
    timeline_dir: Path,
    shards: Iterable[SortedShard | StagedShard],
    side_tables: Mapping[str, pa.Table],
    *,
    settings: Mapping[str, Any],
    vocabulary_version: str,
    counts: Callable[[], Mapping[str, int]],
) -> Snapshot:
    """Write a snapshot, or find the equal one that is there; a reader never sees half of one.

    Parameters
    ----------
    shards
        In shard order; taken one at a time. One that a worker staged within `timeline_dir` is moved, not read again.
    side_tables
        The tables named in `SIDE_TABLES`.
    settings
        Extraction settings; part of the id.
    counts
        Says, once the shards were taken, what was dropped and why; written beside, not part of the id.
    """
    timeline_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = timeline_dir / f"extraction-{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    try:
        counter, sha256, entries, posthumous = ConceptCounter(), [], [], 0
        deaths = side_tables["death"]
        for number, shard in enumerate(shards):
            path = partial / f"shard-{number:05d}.parquet"
            staged = stage_shard(path, shard, deaths) if isinstance(shard, SortedShard) else shard
            if staged.path != path:
                staged.path.rename(path)
            counter.merge(staged.concepts)
            sha256.append(staged.sha256)
            entries.append({"num_persons": staged.num_persons, "num_events": staged.num_events})
            posthumous += staged.num_posthumous
        tables = {**side_tables, "concept_counts": counter.table()}
        for name, table in tables.items():
            pq.write_table(table, partial / f"{name}.parquet", compression="zstd")
        identity = {
            "shards": sha256,
            "tables": {name: hash_table(tables[name]) for name in sorted(side_tables)},
            "settings": dict(settings),
            "vocabulary_version": vocabulary_version,
            "layout": LAYOUT_VERSION,
        }
        snapshot_id = hash_json(identity)[:NAME_DIGITS]
        document = {
            "snapshot_id": snapshot_id,
            **identity,
            "shard_sizes": entries,
            "num_events": sum(entry["num_events"] for entry in entries),
            "counts": {**counts(), "events_long_after_death": posthumous},
        }
        write_json(partial / "manifest.json", document)
        final = timeline_dir / snapshot_id
        if not final.exists():
            partial.rename(final)
    except OSError as error:
        if error.errno == NO_SPACE:
            raise DiskFullError("disk: no space left while events were read; free some and run again") from None
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Snapshot.open(final)


def count_posthumous(shard: SortedShard, dead_person_id: NDArray[np.int64], death_s: NDArray[np.int64]) -> int:
    """Return how many events lie so long after a death that they are a fault of the data (they never count)."""
    known = np.isin(dead_person_id, shard.person_id)
    total = 0
    for person, death in zip(dead_person_id[known].tolist(), death_s[known].tolist(), strict=True):
        at = int(np.searchsorted(shard.person_id, person))
        times = shard.time[shard.offset[at] : shard.offset[at + 1]]
        total += len(times) - int(np.searchsorted(times, death + POSTHUMOUS_DAYS * SECONDS_PER_DAY, side="right"))
    return total


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
        last = [last_events(self.shard(number)) for number in range(self.n_shards)]
        person = np.concatenate([part[0] for part in last] or [np.empty(0, dtype=np.int64)])
        last_s = np.concatenate([part[1] for part in last] or [np.empty(0, dtype=np.int64)])
        by_person = np.argsort(person, kind="stable")
        return Histories(
            periods=Intervals(*(_array(period, name) for name in ("person_id", "start_s", "end_s"))),
            visits=Intervals(*(_array(visit, name) for name in ("person_id", "start_s", "end_s"))),
            visit_id=_array(visit, "visit_occurrence_id"),
            death_person_id=_array(death, "person_id"),
            death_s=_array(death, "death_s"),
            last_event_person_id=person[by_person],
            last_event_s=last_s[by_person],
        )

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
        persons, first = np.unique(_array(table, "person_id"), return_index=True)
        return SortedShard(
            person_id=persons,
            offset=np.concatenate([first, [table.num_rows]]).astype(np.int64),
            concept=np.asarray(table.column("concept")).astype(np.int32, copy=False),
            time=_array(table, "time"),
            flags=np.asarray(table.column("flags")).astype(np.uint8, copy=False),
        )

    def _cache_arrays(self, number: int, folder: Path) -> None:
        shard = self._read_shard(number)
        partial = folder.with_suffix(f".{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        dense = np.searchsorted(self.concepts, shard.concept).astype(np.int32)
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


def last_events(events: ShardEvents) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return persons and the time of their last event; a date-only event lasts to the end of its day."""
    if len(events.person_id) == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    until = events.time + np.where(events.flags & DATE_ONLY, LAST_SECOND, 0)
    return np.asarray(events.person_id), np.maximum.reduceat(until, events.offset[:-1])


def _array(table: pa.Table, name: str) -> NDArray[np.int64]:
    return np.asarray(table.column(name).combine_chunks()).astype(np.int64, copy=False)
