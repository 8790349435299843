"""Two CDMs side by side, the generator's and the product's, as rows without minted ids.

A reference is replaced by the name of what it points at: the resource that the row came from, for a location its
content. A row's own resource stands in its first column, so that a difference says where to look.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
from sqlalchemy import BigInteger, Table

from presage_platform.ledger.tables import TABLE_NUMBERS
from presage_platform.omop.imaging import image_occurrence
from presage_platform.omop.tables import TABLES

Rows = Counter[tuple[Any, ...]]
WITHOUT_RESOURCE = frozenset({"location", "death", "observation_period", "condition_era", "drug_era", "cdm_source"})
UNKNOWABLE = {"cdm_source": {"cdm_etl_reference", "cdm_release_date"}}
"""What depends on the run and not on the record."""


def declaration(name: str) -> Table:
    """A CDM table, or the one of MI-CDM."""
    return image_occurrence if name == image_occurrence.name else TABLES[name]


def compared_columns(name: str) -> list[str]:
    """Columns that both must agree on."""
    skipped = UNKNOWABLE.get(name, set())
    return [
        column.name for column in declaration(name).columns if not column.primary_key and column.name not in skipped
    ]


class Generated:
    """The CDM that the mode `omop` wrote."""

    def __init__(self, hospital: Path) -> None:
        self._folder = hospital / "omop"
        self.tables = sorted(path.stem for path in self._folder.glob("*.parquet"))
        named = pq.read_table(hospital / "truth" / "omop_keys.parquet").to_pylist()
        self._names = {(row["table"], row["row_id"]): row["key"].partition("#")[0] for row in named}
        self._names |= {("location", row["location_id"]): _place(row) for row in self._read("location")}

    def rows(self, name: str) -> Rows:
        """All rows of a table."""
        return Counter(_without_ids(name, row, number, self._names) for number, row in enumerate(self._read(name), 1))

    def _read(self, name: str) -> list[dict[str, Any]]:
        return list(pq.read_table(self._folder / f"{name}.parquet").to_pylist())


class Loaded:
    """The CDM that the product made."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        number = {number: name for name, number in TABLE_NUMBERS.items()}
        origins = connection.execute(
            "SELECT table_no, row_id, resource_type || '/' || resource_id FROM origin JOIN resource USING (resource_no)"
        )
        self._names = {(number[table_no], row_id): key for table_no, row_id, key in origins}
        self._names |= {("location", row["location_id"]): _place(row) for row in self._read("location")}

    def rows(self, name: str) -> Rows:
        """All rows of a table."""
        own = next((column.name for column in declaration(name).columns if column.primary_key), "person_id")
        return Counter(_without_ids(name, row, row.get(own), self._names) for row in self._read(name))

    def filled(self) -> list[str]:
        """CDM tables that hold rows, those of the vocabulary left out."""
        own = [name for name, table in TABLES.items() if table.schema == "cdm" and "concept" not in name]
        return sorted(name for name in own if name not in VOCABULARY and self._read(name, limit=1))

    def _read(self, name: str, limit: int | None = None) -> list[dict[str, Any]]:
        query = f"SELECT * FROM {name}" + (f" LIMIT {limit}" if limit else "")
        with self._connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            return cursor.execute(query.encode()).fetchall()


VOCABULARY = frozenset({"vocabulary", "domain", "relationship", "drug_strength"})


def differences(name: str, wanted: Rows, found: Rows) -> list[str]:
    """Lines for people: what is missing and what is too much, at most ten."""
    columns = ["resource", *compared_columns(name)]
    lines = []
    for sign, rows in (("missing", wanted - found), ("too much", found - wanted)):
        for row in sorted(rows, key=str):
            shown = {column: value for column, value in zip(columns, row, strict=True) if value is not None}
            lines.append(f"{name} {sign}: {shown}")
    return lines[:10]


def _without_ids(name: str, row: dict[str, Any], row_id: Any, names: dict[tuple[str, int], str]) -> tuple[Any, ...]:
    resource = None if name in WITHOUT_RESOURCE else names.get((name, row_id), "?")
    return (resource, *(_value(name, column, row[column], names) for column in compared_columns(name)))


def _value(name: str, column: str, value: Any, names: dict[tuple[str, int], str]) -> Any:
    declared = declaration(name).columns[column]
    if value is None or not isinstance(declared.type, BigInteger):
        return value
    target = next((key.column.table.name for key in declared.foreign_keys), name)
    return names.get((target, value), f"? {target} {value}")


def _place(row: dict[str, Any]) -> str:
    return f"{row['state']}, {row['country_source_value']}, {row['address_1']}"
