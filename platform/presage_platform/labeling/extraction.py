"""From the CDM to a snapshot: one read-only transaction, one query a part of a table, no join, no order.

Every connection reads the same state of the database (its snapshot is exported), rows come as Arrow batches through
ADBC, and what cannot be a time in the record (infinity, before 1900, after the data cut) is dropped and counted. Big
tables are split by physical address over the connections; how many there are changes no byte. Where an earlier snapshot
is there, only the shards that changed since are read again (`refresh.py`).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from presage_platform.errors import DatabaseError, InputError
from presage_platform.labeling import refresh, side_tables
from presage_platform.labeling.event import SECONDS_PER_DAY
from presage_platform.labeling.event_rows import Batch, unpack
from presage_platform.labeling.event_tables import (
    EVENT_TABLES,
    EventTable,
    between_pages,
    check_filters,
    event_query,
    literal_sql,
    schema_of,
    shard_expression,
)
from presage_platform.labeling.hashing import hash_table
from presage_platform.labeling.semantics import LAST_SECOND
from presage_platform.labeling.spool import ShardLookup, Spool, counts_by_name, date_tables
from presage_platform.labeling.timeline import Snapshot, SortedShard, choose_n_shards
from presage_platform.labeling.timeline_writer import StagedShard, write_snapshot
from presage_platform.labeling.value_bins import ValueBins, read_bins
from presage_platform.logs import get_logger
from presage_platform.progress import Progress

if TYPE_CHECKING:
    from presage_platform.postgres.connection import Database
    from presage_platform.settings import LabelingSettings

log = get_logger(__name__)

MISSING = ("42P01", "42703", "42883", "42804")
"""SQLSTATE of a missing table or column, or of one with another type."""
PAGES_A_PART = 32_768
"""256 MB of a table at a time: enough parts to keep every connection busy to the end."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some pages of a table: from `first` to before `stop` (None = to the end); without `first`, the whole table."""

    source: EventTable
    first: int | None = None
    stop: int | None = None


def extract_snapshot(database: Database, settings: LabelingSettings, timeline_dir: Path) -> Snapshot:
    """Read the CDM in one state and write (or find) its snapshot.

    Raises
    ------
    InputError
        If the database lacks what labels need: persons, observation periods, a data cut.
    SettingsError
        If a filter names a table that makes no events.
    """
    check_filters(settings)
    bins = None if settings.value_bins is None else read_bins(settings.value_bins)
    with database.connect() as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        sides = side_tables.read(connection, data_cut_s=_declared_cut(settings))
        state = connection.execute("SELECT pg_export_snapshot()").fetchone()
        expected = sum(count_rows(connection, database).values())
        n_shards = settings.n_shards or choose_n_shards(expected)
        identity = extraction_settings(settings, sides.data_cut_s, n_shards, bins)
        lookup = ShardLookup(sides.person_id, n_shards)
        plan = refresh.plan(connection, database, settings, timeline_dir, sides, lookup, identity)
        parts = table_parts(connection, database)
        timeline_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with Spool(timeline_dir, lookup, sides.data_cut_s) as spool:
            reader = Reader(database, str(state[0]) if state else "", settings, bins, spool, expected)
            changed = reader.read(parts, plan.changed)
            if not plan.agrees(date_tables(EVENT_TABLES, plan.merged_counts(spool.counts))):
                # Most times of a table are midnights now, or are so no longer: that changes every shard.
                changed = reader.read(parts, plan.read_everything() - changed)
            counts = plan.merged_counts(spool.counts)
            spool.add_deaths(sides.death_rows, sorted(plan.changed))
            return write_snapshot(
                timeline_dir,
                _shards(spool, plan, date_tables(EVENT_TABLES, counts)),
                sides.tables if bins is None else {**sides.tables, "bins": bins.table},
                settings=identity,
                vocabulary_version=sides.vocabulary_version,
                counts=lambda: {**sides.counts, **counts_by_name(counts)},
                refresh=plan.remembered(counts),
            )


def extraction_settings(
    settings: LabelingSettings, data_cut_s: int, n_shards: int, bins: ValueBins | None
) -> dict[str, Any]:
    """Return what of the settings makes another snapshot of the same database."""
    return {
        "data_cut_s": data_cut_s,
        "source_concepts": settings.source_concepts,
        "type_concept": {name: sorted(ids) for name, ids in settings.type_concept.items()},
        "status_concept": {name: sorted(ids) for name, ids in settings.status_concept.items()},
        "value_bins": None if bins is None else hash_table(bins.table),
        "value_flag": settings.mode == "paper-floor",
        "n_shards": n_shards,
    }


class Reader:
    """Reads parts of tables into a spool over several connections that see one state."""

    def __init__(
        self,
        database: Database,
        state: str,
        settings: LabelingSettings,
        bins: ValueBins | None,
        spool: Spool,
        expected: int,
    ) -> None:
        self._database, self._state, self._settings = database, state, settings
        self._bins, self._spool, self._expected = bins, spool, expected

    def read(self, parts: Sequence[Part], shards: set[int]) -> set[int]:
        """Read the rows of some shards (all of them without a condition) and return these shards."""
        if not shards:
            return shards
        work: queue.SimpleQueue[Part] = queue.SimpleQueue()
        for part in parts:
            work.put(part)
        failures: list[BaseException] = []
        total = self._expected if len(shards) == self._spool.n_shards else None
        with Progress("extract", total=total, unit="rows") as bar:

            def run() -> None:
                try:
                    with _arrow_connection(self._database, self._state) as cursor:
                        while not failures:
                            self._read_part(cursor, work.get_nowait(), shards, bar)
                except queue.Empty:
                    return
                except BaseException as error:  # handed to the caller's thread
                    failures.append(error)

            number = min(self._settings.connections, len(parts))
            threads = [threading.Thread(target=run, name=f"extract-{n}") for n in range(number)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]
        return shards

    def _read_part(self, cursor: Any, part: Part, shards: set[int], bar: Progress) -> None:
        query = event_query(part.source, self._settings)
        if part.first is not None:
            query = query.where(between_pages(part.source, part.first, part.stop, self._database))
        if len(shards) < self._spool.n_shards:
            shard = shard_expression(part.source.table.c["person_id"], self._spool.n_shards)
            query = query.where(shard.in_(sorted(shards)))
        for batch in _batches(cursor, literal_sql(query, self._database)):
            self._spool.add(part.source, batch, self._settings.source_concepts, self._bins)
            bar.advance(len(batch["person_id"]))


def table_parts(connection: Any, database: Database) -> list[Part]:
    """Return the parts of all tables, the largest tables first; views and partitioned tables are one part each."""
    sizes = []
    for source in EVENT_TABLES:
        row = connection.execute(
            "SELECT CASE WHEN relkind = 'r' THEN pg_relation_size(oid) / current_setting('block_size')::bigint END"
            " FROM pg_class WHERE oid = to_regclass(%s)",
            [f'"{schema_of(source, database)}".{source.name}'],
        ).fetchone()
        sizes.append((source, row[0] if row else None))
    parts = []
    for source, pages in sorted(sizes, key=lambda size: (-(size[1] or 0), size[0].bit)):
        starts = list(range(0, pages or 0, PAGES_A_PART))
        stops: list[int | None] = [*starts[1:], None]
        parts += (
            [Part(source, *ends) for ends in zip(starts, stops, strict=True)] if len(starts) > 1 else [Part(source)]
        )
    return parts


def count_rows(connection: Any, database: Database) -> dict[str, int]:
    """Return the number of rows of each table that makes events."""
    counts = {}
    for source in EVENT_TABLES:
        query = literal_sql(select(func.count()).select_from(source.table), database)
        counts[source.name] = int((connection.execute(query).fetchone() or [0])[0])
    return counts


def _declared_cut(settings: LabelingSettings) -> int | None:
    if settings.data_cut is None:
        return None
    return (settings.data_cut - date(1970, 1, 1)).days * SECONDS_PER_DAY + LAST_SECOND


def _shards(spool: Spool, plan: refresh.Plan, bare: set[int]) -> Iterator[SortedShard | StagedShard]:
    for number in range(spool.n_shards):
        if number in plan.changed:
            yield spool.sorted_shard(number, bare)
        else:
            yield plan.kept(number)


@contextmanager
def _arrow_connection(database: Database, state: str) -> Iterator[Any]:
    """Yield an ADBC cursor within the exported state of the database."""
    from adbc_driver_manager import Error
    from adbc_driver_postgresql import dbapi  # type: ignore[import-untyped]

    try:
        with dbapi.connect(database.conninfo, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute(f"SET TRANSACTION SNAPSHOT '{state}'")
            yield cursor
            cursor.execute("ROLLBACK")
    except Error as error:
        if error.sqlstate in MISSING:
            raise InputError(
                "cdm: a table or column that makes events is missing or of another type: run `platform db upgrade`"
            ) from None
        raise DatabaseError(
            f"database: reading events failed (SQLSTATE {error.sqlstate or 'none'}): check that the schema is complete "
            "with `platform doctor`"
        ) from None


def _batches(cursor: Any, query: str) -> Iterator[Batch]:
    cursor.execute(query)
    for batch in cursor.fetch_record_batch():
        yield unpack(batch)
