"""The CDM tables that make events, and the query that reads each: no join, no order, few columns.

A row travels packed, because the cost of a COPY is by row and column: `concept << 32 | source concept` in one bigint,
inverted (`-1 - code`) where the row has a date and no time of day.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Float,
    Integer,
    SmallInteger,
    Table,
    and_,
    case,
    cast,
    func,
    literal,
    literal_column,
    select,
)
from sqlalchemy import or_ as any_of
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TIMESTAMP, Text

from presage_platform.errors import SettingsError
from presage_platform.omop import tables as cdm

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Select

    from presage_platform.postgres.connection import Database
    from presage_platform.settings import LabelingSettings

SHIFT = 32


@dataclass(frozen=True, slots=True)
class EventTable:
    """A CDM table and the columns that make its events; `bit` names it in the flags."""

    name: str
    bit: int
    concept: str
    day: str
    moment: str
    source: str
    kind: str
    status: str | None = None
    values: tuple[str, ...] = ()

    @property
    def table(self) -> Table:
        """The declared table."""
        return cdm.TABLES[self.name]


EVENT_TABLES = (
    EventTable("condition_occurrence", 0, "condition_concept_id", "condition_start_date", "condition_start_datetime",
               "condition_source_concept_id", "condition_type_concept_id", "condition_status_concept_id"),
    EventTable("procedure_occurrence", 1, "procedure_concept_id", "procedure_date", "procedure_datetime",
               "procedure_source_concept_id", "procedure_type_concept_id"),
    EventTable("drug_exposure", 2, "drug_concept_id", "drug_exposure_start_date", "drug_exposure_start_datetime",
               "drug_source_concept_id", "drug_type_concept_id"),
    EventTable("measurement", 3, "measurement_concept_id", "measurement_date", "measurement_datetime",
               "measurement_source_concept_id", "measurement_type_concept_id",
               values=("value_as_number", "value_as_concept_id")),
    EventTable("observation", 4, "observation_concept_id", "observation_date", "observation_datetime",
               "observation_source_concept_id", "observation_type_concept_id",
               values=("value_as_number", "value_as_string", "value_as_concept_id")),
    EventTable("device_exposure", 5, "device_concept_id", "device_exposure_start_date",
               "device_exposure_start_datetime", "device_source_concept_id", "device_type_concept_id"),
    EventTable("visit_occurrence", 6, "visit_concept_id", "visit_start_date", "visit_start_datetime",
               "visit_source_concept_id", "visit_type_concept_id"),
)  # fmt: skip
BINNED = ("value_as_number", "unit_concept_id", "range_low", "range_high")
"""Columns of `measurement` that value bins need."""


def event_query(source: EventTable, settings: LabelingSettings) -> Select[Any]:
    """Return the query of one table: person_id, code (packed), time; and where asked, a value's columns.

    `has_value` comes with `mode = paper-floor`, `BINNED` with `value_bins` (measurement only).
    """
    columns = source.table.c
    moment, day = columns[source.moment], columns[source.day]
    concept = func.coalesce(columns[source.concept], 0)
    code = func.coalesce(columns[source.source], 0) if settings.source_concepts != "none" else literal_column("0")
    packed = cast(concept, BigInteger).op("<<")(literal_column(str(SHIFT))).op("|")(code)
    time = func.coalesce(moment, cast(day, TIMESTAMP))
    # ADBC refuses infinite times: as NULL they are dropped and counted by the reader.
    finite = func.nullif(
        func.nullif(time, cast(literal_column("'infinity'"), TIMESTAMP)), cast(literal_column("'-infinity'"), TIMESTAMP)
    )
    chosen: list[ColumnElement[Any]] = [
        columns["person_id"].label("person_id"),
        case((moment.is_(None), -1 - packed), else_=packed).label("code"),
        finite.label("time"),
    ]
    if settings.mode == "paper-floor":
        chosen.append(cast(case((_has_value(source), 1), else_=0), SmallInteger).label("has_value"))
    if settings.value_bins is not None and source.name == "measurement":
        chosen += [cast(columns[n], Integer if n == "unit_concept_id" else Float(53)).label(n) for n in BINNED]
    return select(*chosen).where(and_(*wanted_rows(source, settings)))


def wanted_rows(source: EventTable, settings: LabelingSettings) -> list[ColumnElement[bool]]:
    """Return the conditions of the rows that make events: a concept, a person, and the filters of type and status."""
    columns = source.table.c
    concept = columns[source.concept] > 0
    if settings.source_concepts != "none":
        concept = any_of(concept, columns[source.source] > 0)
    conditions = [concept, columns["person_id"].is_not(None)]
    if source.name in settings.type_concept:
        conditions.append(columns[source.kind].in_(settings.type_concept[source.name]))
    if source.name in settings.status_concept and source.status is not None:
        conditions.append(columns[source.status].in_(settings.status_concept[source.name]))
    return conditions


def schema_of(source: EventTable, database: Database) -> str:
    """Return the schema of a table in a database."""
    declared = str(source.table.schema)
    return database.schemas.translation.get(declared, declared)


def check_filters(settings: LabelingSettings) -> None:
    """Refuse a filter of a table that makes no events, or that has no such column.

    Raises
    ------
    SettingsError
        Naming the setting and the tables that it may name.
    """
    allowed = {
        "type_concept": [source.name for source in EVENT_TABLES],
        "status_concept": [source.name for source in EVENT_TABLES if source.status is not None],
    }
    for setting, names in allowed.items():
        unknown = sorted(set(getattr(settings, setting)) - set(names))
        if unknown:
            raise SettingsError(
                f"settings: labeling.{setting} names {', '.join(unknown)}, expected one of {', '.join(names)}"
            )


def between_pages(source: EventTable, first: int, stop: int | None, database: Database) -> ColumnElement[bool]:
    """Return the condition of the rows on some pages of a table, by their physical address."""
    ctid: ColumnElement[Any] = literal_column(f'"{schema_of(source, database)}".{source.name}.ctid')
    low = ctid >= literal_column(f"'({first},0)'::tid")
    return low if stop is None else and_(low, ctid < literal_column(f"'({stop},0)'::tid"))


def shard_expression(person_id: ColumnElement[Any], n_shards: int) -> ColumnElement[int]:
    """Return the shard of a person as the server computes it; the same as `timeline.shard_of_person`."""
    digest = func.encode(func.sha256(func.convert_to(cast(person_id, Text), literal("UTF8"))), literal("hex"))
    number = cast(cast(literal("x").op("||")(func.left(digest, literal_column("8"))), postgresql.BIT(32)), BigInteger)
    return func.mod(number, literal_column(str(n_shards)))


def row_fingerprint(source: EventTable, settings: LabelingSettings, n_shards: int) -> Select[Any]:
    """Return the query of a table's fingerprint: shard, rows, and the sum of a hash over what events are made of."""
    columns = source.table.c
    names = [source.concept, source.source, source.day, source.moment]
    if settings.mode == "paper-floor":
        names += source.values
    if settings.value_bins is not None and source.name == "measurement":
        names += [name for name in BINNED if name not in names]
    row = func.row(columns["person_id"], *(columns[name] for name in names))
    hashed = func.hashtextextended(cast(row, Text), literal_column("0"))
    person = (
        select(columns["person_id"].label("person_id"), func.count().label("rows"), func.sum(hashed).label("hash"))
        .where(and_(*wanted_rows(source, settings)))
        .group_by(columns["person_id"])
        .subquery()
    )
    totals: list[ColumnElement[Any]] = [
        shard_expression(person.c.person_id, n_shards).label("shard"),
        func.sum(person.c.rows).label("rows"),
        cast(func.sum(person.c.hash), Text).label("hash"),
    ]
    return select(*totals).group_by(literal_column("1")).order_by(literal_column("1"))


def literal_sql(query: Select[Any], database: Database) -> str:
    """Return the text of a query with the schema names of a database; its values are numbers and constants of ours."""
    compiled = query.compile(
        dialect=postgresql.dialect(),  # type: ignore[no-untyped-call]
        schema_translate_map=database.schemas.translation,
        render_schema_translate=True,
        compile_kwargs={"literal_binds": True},
    )
    return str(compiled)


def _has_value(source: EventTable) -> ColumnElement[bool]:
    if not source.values:
        return literal_column("false")
    return any_of(*(source.table.c[name].is_not(None) for name in source.values))
