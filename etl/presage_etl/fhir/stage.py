"""Stage tables: what the workers leave behind, before keys become ids (E88, E91).

Each CDM table that resources fill has an unlogged twin, derived from its declaration: values keep their types, and
references to other rows hold the key of the resource that is meant. They live for one run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import psycopg
import pyarrow as pa
from psycopg import sql
from sqlalchemy import BigInteger, Column, Date, DateTime, Double, Integer, String, Table, Text

from presage_etl.fhir.fit import fit
from presage_etl.fhir.outcome import Row
from presage_platform.ledger.tables import TABLE_NUMBERS
from presage_platform.omop.imaging import image_occurrence
from presage_platform.omop.tables import TABLES

ROW_TABLES = (
    "location",
    "care_site",
    "provider",
    "person",
    "death",
    "visit_occurrence",
    "visit_detail",
    "condition_occurrence",
    "drug_exposure",
    "procedure_occurrence",
    "device_exposure",
    "measurement",
    "observation",
    "note",
    "specimen",
    "payer_plan_period",
    "image_occurrence",
)
"""CDM tables that resources fill, in the order in which the merge fills them."""

Kind = Literal["value", "reference"]


@dataclass(frozen=True, slots=True)
class StageColumn:
    """One column of a stage table."""

    name: str
    kind: Kind
    arrow: pa.DataType
    sql_type: str
    width: int | None = None
    """Characters that the CDM column takes."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A text of one row that was longer than its column."""

    stage_no: int
    table: str
    slot: str
    column: str
    whole: str


@dataclass(frozen=True, slots=True)
class RowTable:
    """A CDM table as the stages see it: its own key, the columns with values, the columns that point elsewhere."""

    name: str
    key: str
    columns: tuple[StageColumn, ...]

    @property
    def number(self) -> int:
        """Its number in `origin`."""
        return TABLE_NUMBERS[self.name]

    @property
    def stage(self) -> str:
        """Name of its stage table."""
        return f"stage_{self.name}"

    @property
    def values(self) -> tuple[StageColumn, ...]:
        """Columns that hold values."""
        return tuple(column for column in self.columns if column.kind == "value")

    @property
    def references(self) -> tuple[str, ...]:
        """Columns that hold the id of another row."""
        return tuple(column.name for column in self.columns if column.kind == "reference")


_ROW_EXTRAS = (
    StageColumn("stage_no", "value", pa.int64(), "bigint NOT NULL"),
    StageColumn("slot", "value", pa.string(), "text NOT NULL"),
    StageColumn("rule", "value", pa.int16(), "smallint NOT NULL"),
    StageColumn("required_date", "value", pa.string(), "text"),
    StageColumn("after_birth", "value", pa.string(), "text"),
    StageColumn("date_source", "value", pa.string(), "text"),
    StageColumn("imputed", "value", pa.string(), "text"),
)

_MOMENT = pa.timestamp("us", tz="UTC")
_SPECIAL: dict[str, tuple[tuple[str, pa.DataType, str], ...]] = {
    "stage_resource": (
        ("stage_no", pa.int64(), "bigint NOT NULL"),
        ("file_no", pa.int64(), "bigint NOT NULL"),
        ("byte_offset", pa.int64(), "bigint NOT NULL"),
        ("byte_length", pa.int32(), "integer"),
        ("line", pa.int64(), "bigint"),
        ("resource_type", pa.string(), "text NOT NULL"),
        ("resource_id", pa.string(), "text"),
        ("content_hash", pa.binary(), "bytea"),
        ("last_updated", _MOMENT, "timestamptz"),
        ("version_id", pa.int64(), "bigint"),
        ("state", pa.string(), "text NOT NULL"),
        ("reason", pa.string(), "text"),
        ("letter_no", pa.int64(), "bigint"),
    ),
    "stage_dead": (
        ("stage_no", pa.int64(), "bigint NOT NULL"),
        ("file_no", pa.int64(), "bigint NOT NULL"),
        ("byte_offset", pa.int64(), "bigint NOT NULL"),
        ("line", pa.int64(), "bigint"),
        ("resource_type", pa.string(), "text"),
        ("resource_id", pa.string(), "text"),
        ("content_hash", pa.binary(), "bytea NOT NULL"),
        ("stage", pa.string(), "text NOT NULL"),
        ("reason", pa.string(), "text NOT NULL"),
        ("path", pa.string(), "text"),
        ("payload", pa.binary(), "bytea"),
        ("letter_no", pa.int64(), "bigint"),
    ),
    "stage_identifier": (
        ("stage_no", pa.int64(), "bigint NOT NULL"),
        ("ordinal", pa.int16(), "smallint NOT NULL"),
        ("system", pa.string(), "text"),
        ("value_hmac", pa.string(), "text NOT NULL"),
        ("period_start", pa.date32(), "date"),
        ("period_end", pa.date32(), "date"),
    ),
    "stage_unmapped": (
        ("stage_no", pa.int64(), "bigint NOT NULL"),
        ("system", pa.string(), "text NOT NULL"),
        ("code", pa.string(), "text NOT NULL"),
        ("reason", pa.string(), "text NOT NULL"),
        ("display", pa.string(), "text"),
        ("count", pa.int32(), "integer NOT NULL"),
    ),
    "stage_long_value": (
        ("stage_no", pa.int64(), "bigint NOT NULL"),
        ("table_no", pa.int16(), "smallint NOT NULL"),
        ("slot", pa.string(), "text NOT NULL"),
        ("column_name", pa.string(), "text NOT NULL"),
        ("value", pa.string(), "text NOT NULL"),
    ),
    "stage_medication": (
        ("stage_no", pa.int64(), "bigint NOT NULL"),
        ("slot", pa.string(), "text NOT NULL"),
        ("rank", pa.int16(), "smallint NOT NULL"),
        ("target_concept_id", pa.int32(), "integer NOT NULL"),
        ("source_concept_id", pa.int32(), "integer NOT NULL"),
        ("source_code", pa.string(), "text"),
    ),
    "stage_diagnosis_role": (
        ("stage_no", pa.int64(), "bigint NOT NULL"),
        ("ordinal", pa.int16(), "smallint NOT NULL"),
        ("condition_key", pa.string(), "text NOT NULL"),
        ("concept_id", pa.int32(), "integer NOT NULL"),
        ("source_value", pa.string(), "text"),
    ),
    "stage_person_alias": (
        ("stage_no", pa.int64(), "bigint NOT NULL"),
        ("target_key", pa.string(), "text NOT NULL"),
    ),
}


def _arrow_and_sql(column: Column[Any]) -> tuple[pa.DataType, str]:
    kind = column.type
    if isinstance(kind, Integer):
        return pa.int32(), "integer"
    if isinstance(kind, DateTime):
        return pa.timestamp("us"), "timestamp"
    if isinstance(kind, Date):
        return pa.date32(), "date"
    if isinstance(kind, (String, Text)):
        return pa.string(), "text"
    if isinstance(kind, Double):
        return pa.float64(), "double precision"
    raise TypeError(f"no stage type for {column.name}")


def _declared(name: str) -> Table:
    return image_occurrence if name == "image_occurrence" else TABLES[name]


def _stage_column(column: Column[Any]) -> StageColumn:
    if isinstance(column.type, BigInteger):
        return StageColumn(column.name, "reference", pa.string(), "text")
    arrow, sql_type = _arrow_and_sql(column)
    width = column.type.length if isinstance(column.type, String) else None
    return StageColumn(column.name, "value", arrow, sql_type, width)


@cache
def row_table(name: str) -> RowTable:
    """Return the table as the stages see it."""
    declared = _declared(name)
    key = "person_id" if name == "death" else next(iter(declared.primary_key.columns)).name
    columns = [_stage_column(column) for column in declared.columns if column.name != key or name == "death"]
    if name == "drug_exposure":
        columns.append(StageColumn("medication_key", "value", pa.string(), "text"))
    if name == "visit_detail":
        columns.append(StageColumn("part_of", "value", pa.string(), "text"))
    return RowTable(name, key, tuple(columns))


@cache
def stage_columns(stage: str) -> tuple[StageColumn, ...]:
    """Return the columns of a stage table."""
    if stage in _SPECIAL:
        return tuple(StageColumn(name, "value", arrow, kind) for name, arrow, kind in _SPECIAL[stage])
    return (*_ROW_EXTRAS, *row_table(stage.removeprefix("stage_")).columns)


def stage_tables() -> tuple[str, ...]:
    """Return the names of all stage tables."""
    return (*_SPECIAL, *(row_table(name).stage for name in ROW_TABLES))


def create_stage(connection: psycopg.Connection[Any], schema: str) -> None:
    """Make empty stage tables, in the caller's transaction; those of an earlier run are dropped."""
    drop_stage(connection, schema)
    for stage in stage_tables():
        columns = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.sql_type))
            for column in stage_columns(stage)
        )
        connection.execute(sql.SQL("CREATE UNLOGGED TABLE {} ({})").format(sql.Identifier(schema, stage), columns))


def drop_stage(connection: psycopg.Connection[Any], schema: str) -> None:
    """Drop the stage tables, in the caller's transaction."""
    names = sql.SQL(", ").join(sql.Identifier(schema, stage) for stage in stage_tables())
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(names))


class Batch:
    """The rows of one partition on their way into the stage tables; columns are cut from them at the end."""

    def __init__(self) -> None:
        self._special: dict[str, list[tuple[Any, ...]]] = {}
        self._rows: dict[str, list[tuple[tuple[Any, ...], Mapping[str, Any]]]] = {}

    def append(self, stage: str, values: tuple[Any, ...]) -> None:
        """Add one row of a special stage table, its values in the order of the columns."""
        rows = self._special.get(stage)
        if rows is None:
            rows = self._special[stage] = []
        rows.append(values)

    def add_row(self, stage_no: int, row: Row) -> None:
        """Add one row for a CDM table; `row.values` holds keys for its references by now."""
        rows = self._rows.get(row.table)
        if rows is None:
            rows = self._rows[row.table] = []
        extras = (stage_no, row.slot, row.rule, row.required_date, row.after_birth, row.date_source, row.imputed)
        rows.append((extras, row.values))

    def tables(self) -> tuple[dict[str, pa.Table], list[Cut]]:
        """Return the rows of each stage table, and the texts that were cut to fit: they go whole to `stage_long_value`.

        Columns that no row fills are left out.
        """
        tables: dict[str, pa.Table] = {}
        cuts: list[Cut] = []
        for name, made in self._rows.items():
            tables[row_table(name).stage], found = _row_table(row_table(name), made)
            cuts += found
        for cut in cuts:
            self.append("stage_long_value", (cut.stage_no, TABLE_NUMBERS[cut.table], cut.slot, cut.column, cut.whole))
        return {stage: _special_table(stage, rows) for stage, rows in self._special.items()} | tables, cuts


def _special_table(stage: str, rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = stage_columns(stage)
    arrays = [pa.array(values, type=c.arrow) for c, values in zip(columns, zip(*rows, strict=True), strict=True)]
    return pa.Table.from_arrays(arrays, names=[column.name for column in columns])


def _row_table(table: RowTable, rows: list[tuple[tuple[Any, ...], Mapping[str, Any]]]) -> tuple[pa.Table, list[Cut]]:
    cuts: list[Cut] = []
    extras = zip(*(extra for extra, _ in rows), strict=True)
    arrays = {
        column.name: pa.array(values, type=column.arrow) for column, values in zip(_ROW_EXTRAS, extras, strict=True)
    }
    values = [value for _, value in rows]
    filled = frozenset().union(*{frozenset(value) for value in values})
    for column in table.columns:
        if column.name in filled:
            name = column.name
            array = pa.array([value.get(name) for value in values], type=column.arrow)
            if column.width is not None:
                array, found = fit(array, column.width)
                for place, whole in found.items():
                    stage_no, slot = rows[place][0][:2]
                    cuts.append(Cut(stage_no, table.name, slot, name, whole))
            arrays[name] = array
    return pa.table(arrays), cuts
