"""Whatever goes in by binary COPY comes out the same, for every type that a table of ours has."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from presage_platform.errors import DatabaseError, IntegrityError
from presage_platform.postgres import types
from presage_platform.postgres.bulk import copy_in, copy_out
from presage_platform.postgres.encode import HEADER, TRAILER, encode_block, encode_rows
from tests.lib.database import TestServer, database_of, fresh_database

Connection = psycopg.Connection[Any]

# Column → type in PostgreSQL, oid, values. Dates and times are Arrow's integers, so that infinity has a value.
INFINITE_DATE, INFINITE_TIME = 2**31 - 1, 2**63 - 1
DAYS = st.integers(-2_440_588, 2_145_031_948) | st.sampled_from([INFINITE_DATE, -(2**31)])
MICROSECONDS = st.integers(-209_920_118_400_000_000, 9_223_372_036_854_775_806) | st.sampled_from(
    [INFINITE_TIME, -(2**63)]
)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
FLOATS = st.floats() | st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 5e-324])
JSON_TEXT = st.sampled_from(["{}", '{"a": [1, null, "ß"]}', "[]", "null"])
UUID_TEXT = st.uuids().map(str)

COLUMNS: dict[str, tuple[str, int, pa.DataType, st.SearchStrategy[Any]]] = {
    "concept": ("integer", types.INT4, pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "key": ("bigint", types.INT8, pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "small": ("smallint", types.INT2, pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    "flag": ("boolean", types.BOOL, pa.bool_(), st.booleans()),
    "value": ("double precision", types.FLOAT8, pa.float64(), FLOATS),
    "word": ("varchar(50)", types.VARCHAR, pa.string(), TEXT),
    "story": ("text", types.TEXT, pa.string(), TEXT),
    "bytes": ("bytea", types.BYTEA, pa.binary(), st.binary(max_size=40)),
    "day": ("date", types.DATE, pa.date32(), DAYS),
    "moment": ("timestamp", types.TIMESTAMP, pa.timestamp("us"), MICROSECONDS),
    "instant": ("timestamptz", types.TIMESTAMPTZ, pa.timestamp("us", tz="UTC"), MICROSECONDS),
    "document": ("jsonb", types.JSONB, pa.string(), JSON_TEXT),
    "name": ("uuid", types.UUID, pa.string(), UUID_TEXT),
    "keys": ("bigint[]", types.INT8_ARRAY, pa.list_(pa.int64()), st.lists(st.none() | st.integers(-9, 2**62))),
    "words": ("text[]", types.TEXT_ARRAY, pa.list_(pa.string()), st.lists(st.none() | TEXT, max_size=4)),
}
OF_BOTH_ENCODERS = [name for name, (_, oid, _, _) in COLUMNS.items() if oid <= types.TIMESTAMP and oid != types.JSON]

ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | values for name, (_, _, _, values) in COLUMNS.items()}), max_size=8
)


@pytest.fixture(scope="module")
def connection(server: TestServer) -> Iterator[Connection]:
    with fresh_database(server) as url, database_of(url).connect() as opened:
        columns = ", ".join(f'"{name}" {kind}' for name, (kind, _, _, _) in COLUMNS.items())
        opened.execute(f"CREATE TEMP TABLE round_trip (row serial, {columns})".encode())
        opened.commit()
        yield opened


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
@example(rows=[dict.fromkeys(COLUMNS)])
@example(rows=[dict.fromkeys(COLUMNS), {**dict.fromkeys(COLUMNS), "story": "x" * 1_000_000, "day": INFINITE_DATE}])
def test_p26_rows_come_back_as_they_went_in(connection: Connection, rows: list[dict[str, Any]]) -> None:
    sent = _table(rows)
    assert copy_in(connection, "round_trip", sent) == len(rows)
    received = copy_out(connection, f"SELECT {_names(COLUMNS)} FROM round_trip ORDER BY row")
    connection.rollback()
    assert _plain(received) == _plain(sent)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_p26_our_encoder_writes_the_bytes_of_pgpq(rows: list[dict[str, Any]]) -> None:
    data = _table(rows).select(OF_BOTH_ENCODERS)
    finite = data.filter(_is_finite(rows))
    oids = [COLUMNS[name][1] for name in OF_BOTH_ENCODERS]
    ours = b"".join(encode_block(batch, oids) for batch in finite.to_batches() if batch.num_rows)
    assert b"".join(encode_rows(finite, oids)) == HEADER + ours + TRAILER


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, offset=st.integers(0, 8), length=st.integers(0, 8))
def test_p26_slices_of_a_table_are_sent_alone(
    connection: Connection, rows: list[dict[str, Any]], offset: int, length: int
) -> None:
    part = _table(rows).slice(offset, length)
    copy_in(connection, "round_trip", part)
    received = copy_out(connection, f"SELECT {_names(COLUMNS)} FROM round_trip ORDER BY row")
    connection.rollback()
    assert _plain(received) == _plain(part)


def test_p26_values_are_those_that_the_driver_reads(connection: Connection) -> None:
    day, moment = datetime.date(1582, 10, 15), datetime.datetime(9999, 12, 31, 23, 59, 59, 999_999)
    data = pa.table({"day": [day], "moment": [moment], "value": [2.5], "word": ["Ωß"], "key": [2**40], "flag": [True]})
    copy_in(connection, "round_trip", data)
    row = connection.execute('SELECT day, moment, value, word, "key", flag FROM round_trip').fetchone()
    connection.rollback()
    assert row == (day, moment, 2.5, "Ωß", 2**40, True)


def test_p26_infinity_is_infinity_on_the_server(connection: Connection) -> None:
    days = pa.array([INFINITE_DATE, -(2**31)], pa.int32()).cast(pa.date32())
    copy_in(connection, "round_trip", pa.table({"day": days}))
    rows = connection.execute("SELECT day::text FROM round_trip ORDER BY row").fetchall()
    connection.rollback()
    assert rows == [("infinity",), ("-infinity",)]


def test_p26_sums_and_decimals_travel(connection: Connection) -> None:
    data = copy_out(
        connection, "SELECT sum(n) AS total, 0.125::numeric AS part FROM generate_series(1, 4::bigint) AS n"
    )
    assert data.to_pylist() == [{"total": 10.0, "part": 0.125}]


def test_p26_many_blocks_make_one_table(connection: Connection) -> None:
    num_rows = 200_000
    data = pa.table({"key": pa.array(range(num_rows)), "word": pa.array([f"w{n % 7}" for n in range(num_rows)])})
    assert copy_in(connection, "round_trip", data) == num_rows
    received = copy_out(connection, 'SELECT "key", word FROM round_trip ORDER BY "key"')
    connection.rollback()
    assert received.combine_chunks().equals(data)


def test_p26_query_without_rows_keeps_its_types(connection: Connection) -> None:
    received = copy_out(connection, "SELECT word, day FROM round_trip WHERE word = %s", ("absent",))
    assert (received.num_rows, received.schema.types) == (0, [pa.string(), pa.date32()])


def test_p26_number_that_does_not_fit_names_its_column_and_no_value(connection: Connection) -> None:
    with pytest.raises(DatabaseError, match="column concept of table round_trip") as raised:
        copy_in(connection, "round_trip", pa.table({"concept": [3_000_000_000]}))
    assert "3000000000" not in str(raised.value)


def test_p26_text_that_is_too_long_is_refused_without_showing_it(connection: Connection) -> None:
    with pytest.raises(DatabaseError, match="SQLSTATE 22001") as raised:
        copy_in(connection, "round_trip", pa.table({"word": ["canary" * 20]}))
    connection.rollback()
    assert "canary" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_p26_unknown_column_and_table_are_named(connection: Connection) -> None:
    with pytest.raises(DatabaseError, match="has no column nonsense"):
        copy_in(connection, "round_trip", pa.table({"nonsense": [1]}))
    with pytest.raises(DatabaseError, match="there is no table"):
        copy_in(connection, "nowhere", pa.table({"key": [1]}))
    with pytest.raises(IntegrityError, match="two columns of one name"):
        copy_out(connection, "SELECT 1 AS a, 2 AS a")
    connection.rollback()


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table([_column(name, [row[name] for row in rows]) for name in COLUMNS], names=list(COLUMNS))


def _column(name: str, values: list[Any]) -> pa.Array:
    kind = COLUMNS[name][2]
    if pa.types.is_date32(kind):
        return pa.array(values, pa.int32()).cast(kind)
    if pa.types.is_timestamp(kind):
        return pa.array(values, pa.int64()).cast(kind)
    return pa.array(values, kind)


def _plain(table: pa.Table) -> dict[str, list[Any]]:
    """Values that can be compared: integers for dates and times, text for floats (NaN equals NaN, -0.0 is not 0.0)."""
    return {name: [_comparable(value) for value in _integers(table[name])] for name in table.column_names}


def _integers(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_date32(column.type):
        return list(column.cast(pa.int32()).to_pylist())
    if pa.types.is_timestamp(column.type):
        return list(column.cast(pa.int64()).to_pylist())
    return list(column.to_pylist())


def _comparable(value: Any) -> Any:
    return repr(value) if isinstance(value, float) else value


def _is_finite(rows: list[dict[str, Any]]) -> pa.Array:
    infinite = {INFINITE_DATE, -(2**31), INFINITE_TIME, -(2**63)}
    return pa.array([row["day"] not in infinite and row["moment"] not in infinite for row in rows], pa.bool_())


def _names(columns: dict[str, Any]) -> str:
    return ", ".join(f'"{name}"' for name in columns)
