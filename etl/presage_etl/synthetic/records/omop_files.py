"""The mode `omop`: the CDM that a right load must make, as CSV and Parquet.

Shards give Arrow tables whose references are keys; at the end keys become dense numbers in the order of persons, and
`truth/omop_keys.parquet` keeps which resource each numbered row came from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq
from sqlalchemy import BigInteger, Column, Date, DateTime, Double, Integer, Table

from presage_etl.synthetic.records.omop import Row
from presage_platform.errors import IntegrityError
from presage_platform.omop.imaging import image_occurrence
from presage_platform.omop.tables import TABLES

KEY = "key"
SHARED = frozenset({"location"})
"""Tables in which rows of equal keys are one row."""
ARROW = ((Integer, pa.int32()), (Date, pa.date32()), (DateTime, pa.timestamp("s")), (Double, pa.float64()))

Tables = dict[str, pa.Table]


def declared(name: str) -> Table:
    """The CDM declaration of a table."""
    return image_occurrence if name == image_occurrence.name else TABLES[name]


def keyed_tables(rows: Iterable[Row]) -> Tables:
    """Return rows as Arrow tables by CDM name: column `key`, then the columns of the CDM but its own id.

    Raises
    ------
    IntegrityError
        A row names a column that its table does not have: the generator is wrong.
    """
    by_table: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_table[row.table].append(row)
    return {name: _keyed_table(declared(name), found) for name, found in by_table.items()}


def write_omop(folder: Path, truth: Path, shards: Iterable[Tables]) -> dict[str, int]:
    """Number the rows of all shards and write every table; return rows by table."""
    parts: dict[str, list[pa.Table]] = defaultdict(list)
    for shard in shards:
        for name, table in shard.items():
            parts[name].append(table)
    whole = {name: _whole(name, tables) for name, tables in sorted(parts.items())}
    keys = {name: table[KEY].combine_chunks() for name, table in whole.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in whole.items():
        numbered = _numbered(declared(name), table, keys)
        pq.write_table(numbered, folder / f"{name}.parquet", compression="zstd", store_schema=False)
        pc_csv.write_csv(numbered, folder / f"{name}.csv")
    pq.write_table(_sources(keys), truth / "omop_keys.parquet", compression="zstd", store_schema=False)
    return {name: table.num_rows for name, table in whole.items()}


def _keyed_table(table: Table, rows: list[Row]) -> pa.Table:
    columns = [column for column in table.columns if not _is_own_id(column)]
    unknown = {name for row in rows for name in row.values} - {column.name for column in columns}
    if unknown:
        raise IntegrityError(f"{table.name} has no column {', '.join(sorted(unknown))}")
    arrays = [pa.array([row.key for row in rows], pa.string())]
    arrays += [pa.array([row.values.get(column.name) for row in rows], _type(column)) for column in columns]
    return pa.table(arrays, names=[KEY, *(column.name for column in columns)])


def _is_own_id(column: Column[Any]) -> bool:
    return bool(column.primary_key)


def _is_reference(column: Column[Any]) -> bool:
    return isinstance(column.type, BigInteger)


def _type(column: Column[Any]) -> pa.DataType:
    """Arrow type of a column; a reference is text until it is numbered."""
    if _is_reference(column):
        return pa.string()
    for kind, arrow in (
        (Integer, pa.int32()),
        (Date, pa.date32()),
        (DateTime, pa.timestamp("s")),
        (Double, pa.float64()),
    ):
        if isinstance(column.type, kind):
            return arrow
    return pa.string()


def _whole(name: str, tables: list[pa.Table]) -> pa.Table:
    table = pa.concat_tables(tables)
    if name not in SHARED:
        return table
    first = {key: place for place, key in reversed(list(enumerate(table[KEY].to_pylist())))}
    return table.take(sorted(first.values(), key=lambda place: table[KEY][place].as_py()))


def _numbered(declaration: Table, table: pa.Table, keys: Mapping[str, pa.Array]) -> pa.Table:
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for column in declaration.columns:
        if _is_own_id(column):
            columns[column.name] = pa.array(range(1, table.num_rows + 1), pa.int64())
        elif _is_reference(column):
            columns[column.name] = _numbers(declaration.name, column, table[column.name], keys)
        else:
            columns[column.name] = table[column.name]
    return pa.table(columns)


def _numbers(name: str, column: Column[Any], wanted: pa.ChunkedArray, keys: Mapping[str, pa.Array]) -> pa.ChunkedArray:
    """Numbers of the rows that a column names.

    Raises
    ------
    IntegrityError
        A row that is named does not exist: the generator is wrong.
    """
    target = next((key.column.table.name for key in column.foreign_keys), name)
    known = keys.get(target, pa.array([], pa.string()))
    found = pc.index_in(wanted, value_set=known)
    if found.null_count != wanted.null_count:
        raise IntegrityError(f"{name}.{column.name} names rows of {target} that do not exist")
    return pc.add(pc.cast(found, pa.int64()), 1)


def _sources(keys: Mapping[str, pa.Array]) -> pa.Table:
    """Where each numbered row came from: table, row_id, resource, slot."""
    tables = [
        pa.table(
            {
                "table": pa.array([name] * len(column), pa.string()),
                "row_id": pa.array(range(1, len(column) + 1), pa.int64()),
                "key": column,
            }
        )
        for name, column in keys.items()
    ]
    return pa.concat_tables(tables)
