"""Which Arrow type each PostgreSQL type travels as; one table for both directions."""

from __future__ import annotations

import pyarrow as pa

from presage_platform.errors import DatabaseError

BOOL, BYTEA, CHAR, NAME, INT8, INT2, INT4, TEXT, OID, JSON = 16, 17, 18, 19, 20, 21, 23, 25, 26, 114
FLOAT4, FLOAT8, BPCHAR, VARCHAR, DATE, TIMESTAMP, TIMESTAMPTZ = 700, 701, 1042, 1043, 1082, 1114, 1184
NUMERIC, UUID, JSONB = 1700, 2950, 3802
INT2_ARRAY, INT4_ARRAY, TEXT_ARRAY, VARCHAR_ARRAY, INT8_ARRAY, FLOAT8_ARRAY = 1005, 1007, 1009, 1015, 1016, 1022

ARROW_TYPES: dict[int, pa.DataType] = {
    BOOL: pa.bool_(),
    BYTEA: pa.binary(),
    CHAR: pa.string(),
    NAME: pa.string(),
    INT8: pa.int64(),
    INT2: pa.int16(),
    INT4: pa.int32(),
    OID: pa.int64(),
    TEXT: pa.string(),
    JSON: pa.string(),
    JSONB: pa.string(),
    BPCHAR: pa.string(),
    VARCHAR: pa.string(),
    FLOAT4: pa.float32(),
    FLOAT8: pa.float64(),
    NUMERIC: pa.float64(),
    DATE: pa.date32(),
    TIMESTAMP: pa.timestamp("us"),
    TIMESTAMPTZ: pa.timestamp("us", tz="UTC"),
    UUID: pa.string(),
    INT2_ARRAY: pa.list_(pa.int16()),
    INT4_ARRAY: pa.list_(pa.int32()),
    INT8_ARRAY: pa.list_(pa.int64()),
    FLOAT8_ARRAY: pa.list_(pa.float64()),
    TEXT_ARRAY: pa.list_(pa.string()),
    VARCHAR_ARRAY: pa.list_(pa.string()),
}

# Element type of each array type.
ELEMENTS = {
    INT2_ARRAY: INT2,
    INT4_ARRAY: INT4,
    INT8_ARRAY: INT8,
    FLOAT8_ARRAY: FLOAT8,
    TEXT_ARRAY: TEXT,
    VARCHAR_ARRAY: VARCHAR,
}

DATE_SHIFT_DAYS = 10_957  # PostgreSQL counts from 2000-01-01, Arrow from 1970-01-01
TIME_SHIFT_US = DATE_SHIFT_DAYS * 86_400_000_000


def arrow_type(oid: int, column: str) -> pa.DataType:
    """Return the Arrow type of a PostgreSQL type; one that has none is refused by the name of its column."""
    found = ARROW_TYPES.get(oid)
    if found is None:
        raise DatabaseError(f"column {column} has a type (oid {oid}) that cannot travel in bulk: cast it in the query")
    return found
