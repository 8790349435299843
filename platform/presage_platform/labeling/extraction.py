"""From the CDM to a snapshot: one read-only transaction, one query a table, no join, no order.

Every connection reads the same state of the database (its snapshot is exported), rows come as Arrow batches through
ADBC, and what cannot be a time in the record (infinity, before 1900, after the data cut) is dropped and counted.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlalchemy import Table, case, cast, func, literal_column, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TIMESTAMP, SmallInteger

from presage_platform.errors import DatabaseError, InputError
from presage_platform.labeling import side_tables
from presage_platform.labeling.event import SECONDS_PER_DAY
from presage_platform.labeling.first_occurrence import DATE_ONLY
from presage_platform.labeling.semantics import LAST_SECOND
from presage_platform.labeling.timeline import (
    EVENT_DTYPE,
    Snapshot,
    SortedShard,
    choose_n_shards,
    shard_of_person,
    sort_shard,
    write_snapshot,
)
from presage_platform.logs import get_logger
from presage_platform.omop import tables as cdm
from presage_platform.progress import Progress

if TYPE_CHECKING:
    from sqlalchemy import Select

    from presage_platform.postgres.connection import Database
    from presage_platform.settings import LabelingSettings

log = get_logger(__name__)

MISSING = ("42P01", "42703", "42883", "42804")
"""SQLSTATE of a missing table or column, or of one with another type."""
EARLIEST_S = -(70 * 365 + 17) * SECONDS_PER_DAY
"""1900-01-01: an earlier date is a placeholder."""
DEATH_CONCEPT = 4306655
DEATH_TABLE = 7
SOURCE_CONCEPT = 16
MIDNIGHT = 32
"""Flag of the extraction only: a datetime at 00:00:00, a bare date where most rows of the table have it."""


@dataclass(frozen=True, slots=True)
class EventTable:
    """A CDM table and the columns that make its events; `bit` names it in the flags."""

    name: str
    bit: int
    concept: str
    day: str
    moment: str
    source: str | None
    kind: str | None

    @property
    def table(self) -> Table:
        """The declared table."""
        return cdm.TABLES[self.name]


EVENT_TABLES = (
    EventTable("condition_occurrence", 0, "condition_concept_id", "condition_start_date", "condition_start_datetime",
               "condition_source_concept_id", "condition_type_concept_id"),
    EventTable("procedure_occurrence", 1, "procedure_concept_id", "procedure_date", "procedure_datetime",
               "procedure_source_concept_id", "procedure_type_concept_id"),
    EventTable("drug_exposure", 2, "drug_concept_id", "drug_exposure_start_date", "drug_exposure_start_datetime",
               "drug_source_concept_id", "drug_type_concept_id"),
    EventTable("measurement", 3, "measurement_concept_id", "measurement_date", "measurement_datetime",
               "measurement_source_concept_id", "measurement_type_concept_id"),
    EventTable("observation", 4, "observation_concept_id", "observation_date", "observation_datetime",
               "observation_source_concept_id", "observation_type_concept_id"),
    EventTable("device_exposure", 5, "device_concept_id", "device_exposure_start_date",
               "device_exposure_start_datetime", "device_source_concept_id", "device_type_concept_id"),
    EventTable("visit_occurrence", 6, "visit_concept_id", "visit_start_date", "visit_start_datetime",
               "visit_source_concept_id", "visit_type_concept_id"),
)  # fmt: skip


@dataclass
class Extraction:
    """What was read and dropped; counts only."""

    rows: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def counts(self) -> dict[str, int]:
        """Return all counts under one name each."""
        read = {f"rows read from {name}": count for name, count in self.rows.items()}
        return read | {f"dropped, {name}": count for name, count in self.dropped.items() if count}


def extract_snapshot(database: Database, settings: LabelingSettings, timeline_dir: Path) -> Snapshot:
    """Read the CDM in one state and write (or find) its snapshot.

    Raises
    ------
    InputError
        If the database lacks what labels need: persons, observation periods, a data cut.
    """
    with database.connect() as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        sides = side_tables.read(connection, data_cut_s=_declared_cut(settings))
        state = connection.execute("SELECT pg_export_snapshot()").fetchone()
        expected = sum(count_rows(connection, database).values())
        n_shards = settings.n_shards or choose_n_shards(expected)
        found = Extraction()
        with _arrow_connection(database, str(state[0]) if state else "") as cursor:
            shards = _spool(cursor, database, settings, sides, n_shards, expected, found)
            return write_snapshot(
                timeline_dir,
                shards,
                sides.tables,
                settings={
                    "data_cut_s": sides.data_cut_s,
                    "source_concepts": settings.source_concepts,
                    "type_concepts": {name: sorted(ids) for name, ids in settings.type_concepts.items()},
                    "n_shards": n_shards,
                },
                vocabulary_version=sides.vocabulary_version,
                counts=lambda: {**sides.counts, **found.counts()},
            )


def event_query(source: EventTable, settings: LabelingSettings) -> Select[Any]:
    """Return the query of one table: person, concept, source concept, time, whether the time is a bare date."""
    columns = source.table.c
    concept = columns[source.concept]
    code = columns[source.source] if source.source is not None and settings.source_concepts != "none" else None
    time = func.coalesce(columns[source.moment], cast(columns[source.day], TIMESTAMP))
    # ADBC refuses infinite times: as NULL they are dropped and counted here.
    finite = func.nullif(
        func.nullif(time, cast(literal_column("'infinity'"), TIMESTAMP)), cast(literal_column("'-infinity'"), TIMESTAMP)
    )
    query = select(
        columns["person_id"].label("person_id"),
        concept.label("concept"),
        (func.coalesce(code, 0) if code is not None else cast(0, concept.type)).label("source_concept"),
        finite.label("time"),
        cast(case((columns[source.moment].is_(None), 1), else_=0), SmallInteger).label("is_date"),
    ).where((concept > 0) if code is None else ((concept > 0) | (code > 0)))
    if source.name in settings.type_concepts and source.kind is not None:
        query = query.where(columns[source.kind].in_(settings.type_concepts[source.name]))
    return query


def events_of(batch: dict[str, NDArray[Any]], bit: int, source_concepts: str) -> NDArray[Any]:
    """Return the events of some rows: the standard concept, and by policy the source concept.

    Columns: person_id, concept, source_concept, time_s, is_date (0 or 1), all of one length.
    """
    flags = np.uint8(bit) | np.where(batch["is_date"] == 1, DATE_ONLY, 0).astype(np.uint8)
    midnight = (batch["is_date"] == 0) & (batch["time_s"] % SECONDS_PER_DAY == 0)
    flags |= np.where(midnight, MIDNIGHT, 0).astype(np.uint8)
    standard = batch["concept"] > 0
    wanted = (batch["source_concept"] > 0) & (batch["source_concept"] != batch["concept"])
    if source_concepts == "unmapped":
        wanted &= ~standard
    parts = []
    for rows, concept, extra in ((standard, "concept", 0), (wanted, "source_concept", SOURCE_CONCEPT)):
        events = np.empty(int(rows.sum()), dtype=EVENT_DTYPE)
        events["person_id"], events["time"] = batch["person_id"][rows], batch["time_s"][rows]
        events["concept"], events["flags"] = batch[concept][rows], flags[rows] | extra
        parts.append(events)
    return np.concatenate(parts)


def settle_midnights(events: NDArray[Any], date_tables: set[int]) -> NDArray[Any]:
    """Turn midnights of tables that have mostly midnights into bare dates, and clear the extraction's own flag."""
    midnight = (events["flags"] & MIDNIGHT) != 0
    bare = midnight & np.isin(events["flags"] & 7, sorted(date_tables))
    events["flags"] = (events["flags"] & ~np.uint8(MIDNIGHT)) | np.where(bare, DATE_ONLY, 0).astype(np.uint8)
    return events


def death_events(sides: side_tables.SideTables) -> NDArray[Any]:
    """Return every death row as an event; its cause is no event."""
    person, time, is_date = sides.death_rows
    events = np.empty(len(person), dtype=EVENT_DTYPE)
    events["person_id"], events["time"], events["concept"] = person, time, DEATH_CONCEPT
    events["flags"] = DEATH_TABLE | np.where(is_date, DATE_ONLY, 0)
    return events


def _declared_cut(settings: LabelingSettings) -> int | None:
    if settings.data_cut is None:
        return None
    return (settings.data_cut - date(1970, 1, 1)).days * SECONDS_PER_DAY + LAST_SECOND


def count_rows(connection: Any, database: Database) -> dict[str, int]:
    """Return the number of rows of each table that makes events."""
    counts = {}
    for source in EVENT_TABLES:
        query = _literal(select(func.count()).select_from(source.table), database)
        counts[source.name] = int((connection.execute(query).fetchone() or [0])[0])
    return counts


def _literal(query: Select[Any], database: Database) -> str:
    compiled = query.compile(
        dialect=postgresql.dialect(),  # type: ignore[no-untyped-call]
        schema_translate_map=database.schemas.translation,
        render_schema_translate=True,
        compile_kwargs={"literal_binds": True},
    )
    return str(compiled)


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


def _spool(
    cursor: Any,
    database: Database,
    settings: LabelingSettings,
    sides: side_tables.SideTables,
    n_shards: int,
    expected: int,
    found: Extraction,
) -> Iterator[SortedShard]:
    """Spill every table's events by shard, then sort one shard at a time."""
    persons = sides.person_id
    shard_of = np.array([shard_of_person(person, n_shards) for person in persons.tolist()], dtype=np.int64)
    with tempfile.TemporaryDirectory(prefix="presage-events-") as folder, ExitStack() as open_files:
        paths = [Path(folder) / f"{number:05d}" for number in range(n_shards)]
        files = [open_files.enter_context(path.open("wb")) for path in paths]
        date_tables: set[int] = set()
        with Progress("extract", total=expected, unit="rows") as bar:
            for source in EVENT_TABLES:
                midnights = timed = 0
                for batch in _batches(cursor, _literal(event_query(source, settings), database)):
                    bar.advance(len(batch["person_id"]))
                    found.rows[source.name] += len(batch["person_id"])
                    has_time = batch["is_date"] == 0
                    timed += int(has_time.sum())
                    midnights += int((has_time & (batch["time_s"] % SECONDS_PER_DAY == 0)).sum())
                    kept = _plausible(batch, sides.data_cut_s, source.name, found)
                    _spill(events_of(kept, source.bit, settings.source_concepts), persons, shard_of, files, found)
                if timed and midnights * 2 > timed:
                    date_tables.add(source.bit)
        _spill(death_events(sides), persons, shard_of, files, found)
        open_files.close()
        for path in paths:
            yield sort_shard(settle_midnights(np.fromfile(path, dtype=EVENT_DTYPE), date_tables))


def _batches(cursor: Any, query: str) -> Iterator[dict[str, NDArray[Any]]]:
    cursor.execute(query)
    for batch in cursor.fetch_record_batch():
        time = batch.column("time")
        valid = np.asarray(time.is_valid())
        micros = np.asarray(time.cast(pa.timestamp("us")).cast(pa.int64()).fill_null(0))
        yield {
            "person_id": np.asarray(batch.column("person_id")).astype(np.int64),
            "concept": np.asarray(batch.column("concept")).astype(np.int32),
            "source_concept": np.asarray(batch.column("source_concept")).astype(np.int32),
            "time_s": np.where(valid, micros // 1_000_000, EARLIEST_S - 1),
            "is_date": np.asarray(batch.column("is_date")),
        }


def _plausible(
    batch: dict[str, NDArray[Any]], data_cut_s: int, table: str, found: Extraction
) -> dict[str, NDArray[Any]]:
    early, late = batch["time_s"] < EARLIEST_S, batch["time_s"] > data_cut_s
    found.dropped[f"{table}: before 1900 or infinite"] += int(early.sum())
    found.dropped[f"{table}: after the data cut"] += int(late.sum())
    keep = ~(early | late)
    return batch if keep.all() else {name: values[keep] for name, values in batch.items()}


def _spill(
    events: NDArray[Any],
    persons: NDArray[np.int64],
    shard_of: NDArray[np.int64],
    files: list[Any],
    found: Extraction,
) -> None:
    if len(events) == 0:
        return
    at = np.minimum(np.searchsorted(persons, events["person_id"]), max(len(persons) - 1, 0))
    known = persons[at] == events["person_id"]
    found.dropped["person not in person"] += int((~known).sum())
    events, shard = events[known], shard_of[at[known]]
    if len(files) == 1:
        files[0].write(events.tobytes())
        return
    order = np.argsort(shard, kind="stable")
    cuts = np.searchsorted(shard[order], np.arange(len(files) + 1))
    for number, file in enumerate(files):
        file.write(events[order[cuts[number] : cuts[number + 1]]].tobytes())
