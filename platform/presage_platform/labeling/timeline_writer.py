"""Writing a timeline snapshot: shard by shard into `….partial`, made durable, renamed, named by its content."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from presage_platform.errors import DiskFullError
from presage_platform.labeling.concept_counts import ConceptCounter, ConceptPart, by_shard, count_concepts
from presage_platform.labeling.event import SECONDS_PER_DAY
from presage_platform.labeling.hashing import NAME_DIGITS, hash_json, hash_table
from presage_platform.labeling.semantics import POSTHUMOUS_DAYS
from presage_platform.labeling.store_writer import NO_SPACE, sync_file, sync_folder, write_json
from presage_platform.labeling.timeline import LAYOUT_VERSION, REFRESH, Snapshot, SortedShard

ROWS_A_GROUP = 1 << 20
SIZES = ("num_persons", "num_events", "num_posthumous")


@dataclass(frozen=True, slots=True, eq=False)
class StagedShard:
    """A shard that is on disk already, and what a snapshot has to know of it: small, so that workers can send it.

    `kept` marks a shard of an earlier snapshot that did not change: it is linked, where others are moved.
    """

    path: Path
    sha256: str
    num_persons: int
    num_events: int
    concepts: ConceptPart
    num_posthumous: int
    kept: bool = False


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
    dead, death_s = (np.asarray(deaths.column(name)).astype(np.int64) for name in ("person_id", "death_s"))
    return StagedShard(
        path=path,
        sha256=shard.sha256,
        num_persons=len(shard.person_id),
        num_events=len(shard.time),
        concepts=count_concepts(shard),
        num_posthumous=count_posthumous(shard, dead, death_s),
    )


def write_snapshot(
    timeline_dir: Path,
    shards: Iterable[SortedShard | StagedShard],
    side_tables: Mapping[str, pa.Table],
    *,
    settings: Mapping[str, Any],
    vocabulary_version: str,
    counts: Callable[[], Mapping[str, int]],
    refresh: Mapping[str, Any] | None = None,
) -> Snapshot:
    """Write a snapshot, or find the equal one that is there; a reader never sees half of one.

    Parameters
    ----------
    shards
        In shard order; taken one at a time. One that a worker staged within `timeline_dir` is moved, not read again;
        one that is kept is linked.
    side_tables
        The tables named in `SIDE_TABLES`, and `bins` where value bins are used.
    settings
        Extraction settings; part of the id.
    counts
        Says, once the shards were taken, what was dropped and why; written beside, not part of the id.
    refresh
        What the next extraction compares with; written beside, not part of the id.
    """
    timeline_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = timeline_dir / f"extraction-{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    try:
        deaths = side_tables["death"]
        written = [_take(partial, number, shard, deaths) for number, shard in enumerate(shards)]
        counter = ConceptCounter()
        for shard in written:
            counter.merge(shard.concepts)
        parts = by_shard([shard.concepts for shard in written])
        tables = {**side_tables, "concept_counts": counter.table(), "shard_concepts": parts}
        for name, table in tables.items():
            pq.write_table(table, partial / f"{name}.parquet", compression="zstd")
        identity = {
            "shards": [shard.sha256 for shard in written],
            "tables": {name: hash_table(tables[name]) for name in sorted(side_tables)},
            "settings": dict(settings),
            "vocabulary_version": vocabulary_version,
            "layout": LAYOUT_VERSION,
        }
        snapshot_id = hash_json(identity)[:NAME_DIGITS]
        document = {
            "snapshot_id": snapshot_id,
            **identity,
            "shard_sizes": [{name: getattr(shard, name) for name in SIZES} for shard in written],
            "num_events": sum(shard.num_events for shard in written),
            "counts": {**counts(), "events_long_after_death": sum(shard.num_posthumous for shard in written)},
        }
        write_json(partial / "manifest.json", document)
        if refresh is not None:
            write_json(partial / REFRESH, refresh)
        for path in sorted(partial.iterdir()):
            sync_file(path)
        sync_folder(partial)
        final = timeline_dir / snapshot_id
        if not final.exists():
            partial.rename(final)
            sync_folder(timeline_dir)
    except OSError as error:
        if error.errno == NO_SPACE:
            raise DiskFullError("disk: no space left while events were read; free some and run again") from None
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Snapshot.open(final)


def _take(folder: Path, number: int, shard: SortedShard | StagedShard, deaths: pa.Table) -> StagedShard:
    """Write, move or link one shard into the snapshot's folder and return what is known of it."""
    path = folder / f"shard-{number:05d}.parquet"
    if isinstance(shard, SortedShard):
        return stage_shard(path, shard, deaths)
    if shard.kept:
        os.link(shard.path, path)
    else:
        shard.path.rename(path)
    return shard


def count_posthumous(shard: SortedShard, dead_person_id: NDArray[np.int64], death_s: NDArray[np.int64]) -> int:
    """Return how many events lie so long after a death that they are a fault of the data (they never count)."""
    known = np.isin(dead_person_id, shard.person_id)
    total = 0
    for person, death in zip(dead_person_id[known].tolist(), death_s[known].tolist(), strict=True):
        at = int(np.searchsorted(shard.person_id, person))
        times = shard.time[shard.offset[at] : shard.offset[at + 1]]
        total += len(times) - int(np.searchsorted(times, death + POSTHUMOUS_DAYS * SECONDS_PER_DAY, side="right"))
    return total
