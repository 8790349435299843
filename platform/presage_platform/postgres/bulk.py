"""Bulk rows: Arrow to binary COPY, and back. Every load and every snapshot goes through these two functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from presage_platform.errors import DatabaseError, IntegrityError
from presage_platform.postgres.decode import RowDecoder
from presage_platform.postgres.encode import encode_rows
from presage_platform.postgres.failures import translate_errors
from presage_platform.postgres.types import ARROW_TYPES, NUMERIC, arrow_type

Query = str | sql.Composed | sql.SQL
Parameters = Sequence[Any] | Mapping[str, Any] | None

ROWS_A_BATCH = 65_536
BYTES_A_BATCH = 32 * 1024 * 1024


def copy_in(
    connection: psycopg.Connection[Any], table: str, data: pa.Table | pa.RecordBatch, *, schema: str | None = None
) -> int:
    """Append the rows of `data` to a table by binary COPY, in the caller's transaction.

    Parameters
    ----------
    connection
        Its transaction goes on: the caller commits.
    table, schema
        Name of the table; without a schema the search path of the connection decides.
    data
        Columns are matched by name and cast to the type of their column. Columns that are absent take their default.

    Returns
    -------
    int
        Number of rows.

    Raises
    ------
    DatabaseError
        When a column does not exist or a value does not fit its type; the message names columns, never values.
    """
    name = sql.Identifier(schema, table) if schema else sql.Identifier(table)
    with translate_errors():
        types = _column_types(connection, name.as_string(connection), data.schema.names)
        batch_source = pa.table(data) if isinstance(data, pa.RecordBatch) else data
        fitted = _fit(batch_source, types, table)
        columns = sql.SQL(", ").join(sql.Identifier(column) for column in data.schema.names)
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(name, columns)
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            for block in encode_rows(fitted, list(types.values()), rows_a_batch=ROWS_A_BATCH):
                copy.write(block)
    return int(data.num_rows)


def copy_out(connection: psycopg.Connection[Any], query: Query, params: Parameters = None) -> pa.Table:
    """Return the rows of a query as an Arrow table by binary COPY, in the caller's transaction and snapshot.

    Types follow `types.ARROW_TYPES`; numeric becomes float64, so that sums of bigint want a cast where digits matter.
    """
    with translate_errors():
        names, oids = _describe(connection, query, params)
        schema = pa.schema([pa.field(name, arrow_type(oid, name)) for name, oid in zip(names, oids, strict=True)])
        decoder = RowDecoder(schema, oids)
        statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(_composed(query))
        batches: list[pa.RecordBatch] = []
        rows: list[bytes] = []
        size = 0
        with connection.cursor() as cursor, cursor.copy(statement, params) as copy:
            for row in copy:
                rows.append(bytes(row))
                size += len(row)
                if size >= BYTES_A_BATCH:
                    batches.append(decoder.decode(rows))
                    rows, size = [], 0
        batches.append(decoder.decode(rows))
    return pa.Table.from_batches(batches, schema=schema)


def _composed(query: Query) -> sql.Composable:
    return sql.SQL(query) if isinstance(query, str) else query


def _describe(connection: psycopg.Connection[Any], query: Query, params: Parameters) -> tuple[list[str], list[int]]:
    """Return names and type oids of a query's columns, without running it to its end."""
    statement = sql.SQL("SELECT * FROM ({}) AS described LIMIT 0").format(_composed(query))
    with connection.cursor() as cursor:
        cursor.execute(statement, params)
        described = cursor.description or []
    names = [column.name for column in described]
    if len(set(names)) != len(names):
        raise IntegrityError("a query returns two columns of one name: give each its own")
    return names, [column.type_code for column in described]


def _column_types(connection: psycopg.Connection[Any], name: str, columns: list[str]) -> dict[str, int]:
    """Return the type oid of each named column of a table, in that order."""
    found = dict(
        connection.execute(
            "SELECT attname, atttypid::bigint FROM pg_attribute"
            " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            (name,),
        ).fetchall()
    )
    if not found:
        raise DatabaseError(f"there is no table {name}: run `platform db upgrade`")
    missing = [column for column in columns if column not in found]
    if missing:
        raise DatabaseError(f"table {name} has no column {', '.join(missing)}: run `platform db upgrade`")
    return {column: int(found[column]) for column in columns}


def _fit(data: pa.Table, types: dict[str, int], table: str) -> pa.Table:
    """Cast every column to the type in which it travels; a value that does not fit names its column only."""
    arrays = []
    for name, oid in types.items():
        column = data.column(name)
        target = ARROW_TYPES.get(oid)
        if target is not None and column.type != target and not _travels_as_is(column.type, oid):
            try:
                column = pc.cast(column, target, safe=True)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                raise DatabaseError(
                    f"column {name} of table {table} holds a value of {column.type} that does not fit {target}: "
                    "please report this"
                ) from None
        arrays.append(column)
    return pa.table(arrays, names=list(types))


def _travels_as_is(kind: pa.DataType, oid: int) -> bool:
    """Large text needs no copy, and decimals must not pass through floats."""
    if oid == NUMERIC:
        return bool(pa.types.is_decimal(kind) or pa.types.is_integer(kind))
    return bool(pa.types.is_large_string(kind) and pa.types.is_string(ARROW_TYPES[oid]))
