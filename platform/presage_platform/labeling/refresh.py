"""Bringing a snapshot up to date: which shards changed since the last one, and what of it can be kept.

With a ledger, the persons whose rows a load touched since. Without one, a fingerprint of each table and shard: the
number of rows and a commutative sum of `hashtextextended(row)`, compared only within one major version of the server.
Only changed shards are read again; the others are hard-linked, with their counts. What cannot be compared is read in
full, so that the result always equals a full extraction, id included.

`refresh.json` beside a snapshot holds what the next one needs. It is no part of the snapshot's id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from presage_platform.labeling.concept_counts import of_shard
from presage_platform.labeling.event_tables import EVENT_TABLES, literal_sql, row_fingerprint
from presage_platform.labeling.hashing import hash_arrays
from presage_platform.labeling.side_tables import SideTables, numbers
from presage_platform.labeling.spool import COUNTERS, ShardLookup, date_tables
from presage_platform.labeling.statements import statement
from presage_platform.labeling.timeline import LAYOUT_VERSION, REFRESH
from presage_platform.labeling.timeline_writer import StagedShard

if TYPE_CHECKING:
    from presage_platform.postgres.connection import Database
    from presage_platform.settings import LabelingSettings

Counts = Mapping[str, Mapping[str, NDArray[np.int64]]]


@dataclass(slots=True, eq=False)
class Plan:
    """Which shards are read, and where the others come from.

    `facts` describe the database as it is now; they are remembered for the next time.
    """

    n_shards: int
    facts: dict[str, Any]
    changed: set[int]
    base: Path | None = None
    remembered_base: dict[str, Any] = field(default_factory=dict)

    def agrees(self, bare: set[int]) -> bool:
        """Return whether kept shards were written with the same reading of midnights."""
        return self.base is None or sorted(bare) == self.remembered_base["date_tables"]

    def read_everything(self) -> set[int]:
        """Keep nothing; return all shards."""
        self.changed, self.base = set(range(self.n_shards)), None
        return set(self.changed)

    def merged_counts(self, read: Counts) -> dict[str, dict[str, NDArray[np.int64]]]:
        """Return the counts of what was read now and of the shards that are kept."""
        old = self.remembered_base.get("counts", {}) if self.base is not None else {}
        kept = np.array([number not in self.changed for number in range(self.n_shards)])
        merged = {}
        for source in EVENT_TABLES:
            new = read.get(source.name)
            if new is None and source.name not in old:
                continue
            merged[source.name] = {
                name: _numbers(old.get(source.name), name, self.n_shards) * kept
                + (new[name] if new is not None else np.zeros(self.n_shards, dtype=np.int64))
                for name in COUNTERS
            }
        return {table: mine for table, mine in merged.items() if mine["rows"].any()}

    def kept(self, number: int) -> StagedShard:
        """Return the shard of the earlier snapshot."""
        if self.base is None:
            raise AssertionError("nothing is kept")
        manifest = self.remembered_base["manifest"]
        return StagedShard(
            path=self.base / f"shard-{number:05d}.parquet",
            sha256=manifest["shards"][number],
            concepts=of_shard(self.remembered_base["concepts"], number),
            kept=True,
            **manifest["shard_sizes"][number],
        )

    def remembered(self, counts: Counts) -> dict[str, Any]:
        """Return what the next extraction compares with."""
        return {
            **self.facts,
            "date_tables": sorted(date_tables(EVENT_TABLES, counts)),
            "counts": {
                table: {name: values.tolist() for name, values in mine.items()} for table, mine in counts.items()
            },
        }


def plan(
    connection: Any,
    database: Database,
    settings: LabelingSettings,
    timeline_dir: Path,
    sides: SideTables,
    lookup: ShardLookup,
    identity: Mapping[str, Any],
) -> Plan:
    """Compare the database with the newest snapshot of the same settings; in the caller's transaction."""
    n_shards = lookup.n_shards
    facts: dict[str, Any] = {
        "settings": dict(identity),
        "layout": LAYOUT_VERSION,
        "server_major": connection.info.server_version // 10_000,
        "persons": person_digests(sides, lookup),
    }
    if settings.refresh == "off":
        return Plan(n_shards, facts, set(range(n_shards)))
    base = newest(timeline_dir, facts)
    facts["ledger_run"] = closed_run(connection) if settings.refresh == "auto" else None
    since = None if base is None else base[1].get("ledger_run")
    touched = touched_shards(connection, since, facts["ledger_run"], lookup)
    if touched is None and (facts["ledger_run"] is None or (base is not None and "tables" in base[1])):
        facts["tables"] = fingerprints(connection, database, settings, n_shards)
    if base is None:
        return Plan(n_shards, facts, set(range(n_shards)))
    changed = _differing(base[1]["persons"], facts["persons"], n_shards)
    if touched is not None:
        changed |= touched
    else:
        changed |= _changed_tables(base[1].get("tables"), facts.get("tables", {}), n_shards)
    remembered = {
        **base[1],
        "manifest": json.loads((base[0] / "manifest.json").read_text(encoding="utf-8")),
        "concepts": pq.read_table(base[0] / "shard_concepts.parquet"),
    }
    return Plan(n_shards, facts, changed, base[0], remembered)


def newest(timeline_dir: Path, facts: Mapping[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest snapshot that can be compared with: same settings, layout and server version."""
    paths = sorted(timeline_dir.glob(f"*/{REFRESH}"), key=lambda path: (path.stat().st_mtime_ns, path.parent.name))
    for path in reversed(paths):
        if path.parent.suffix == ".partial":
            continue
        known = json.loads(path.read_text(encoding="utf-8"))
        if all(known.get(name) == facts[name] for name in ("settings", "layout", "server_major")):
            return path.parent, known
    return None


def person_digests(sides: SideTables, lookup: ShardLookup) -> list[str]:
    """Return one hash a shard over its persons and their death rows, which are events too."""
    person_id = numbers(sides.tables["person"], "person_id")
    dead, time_s, is_date = (np.asarray(column) for column in sides.death_rows)
    home, dead_home = lookup.of(person_id), lookup.of(dead.astype(np.int64))
    return [
        hash_arrays(
            person_id[home == number],
            *(column[dead_home == number].astype(np.int64) for column in (dead, time_s, is_date)),
        )
        for number in range(lookup.n_shards)
    ]


def fingerprints(
    connection: Any, database: Database, settings: LabelingSettings, n_shards: int
) -> dict[str, dict[str, list[str]]]:
    """Return, for each table and shard that has rows, their number and the sum of their hashes."""
    found = {}
    for source in EVENT_TABLES:
        rows = connection.execute(literal_sql(row_fingerprint(source, settings, n_shards), database)).fetchall()
        found[source.name] = {str(shard): [str(count), total] for shard, count, total in rows}
    return found


def closed_run(connection: Any) -> int | None:
    """Return the last run of the ledger that, with all before it, is over; None without a load or while one goes on."""
    row = connection.execute(statement("closed_run").encode()).fetchone()
    return None if row is None or row[0] is None or row[1] else int(row[0])


def touched_shards(connection: Any, since: int | None, now: int | None, lookup: ShardLookup) -> set[int] | None:
    """Return the shards of the persons that loads touched since a run; None where the ledger cannot tell."""
    if since is None or now is None:
        return None
    rows = connection.execute(statement("touched_since"), {"run_no": since}).fetchall()
    persons = np.array([row[0] for row in rows], dtype=np.int64)
    return {int(shard) for shard in lookup.of(persons) if shard >= 0}


def _changed_tables(old: Mapping[str, Any] | None, new: Mapping[str, Any], n_shards: int) -> set[int]:
    if old is None:
        return set(range(n_shards))
    return {
        int(shard)
        for table, shards in new.items()
        for shard in shards.keys() | old.get(table, {}).keys()
        if shards.get(shard) != old.get(table, {}).get(shard)
    }


def _differing(old: list[str], new: list[str], n_shards: int) -> set[int]:
    return {number for number in range(n_shards) if old[number] != new[number]}


def _numbers(counts: Mapping[str, Any] | None, name: str, n_shards: int) -> NDArray[np.int64]:
    if counts is None:
        return np.zeros(n_shards, dtype=np.int64)
    return np.asarray(counts[name], dtype=np.int64)
