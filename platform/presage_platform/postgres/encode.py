"""Arrow to the bytes of binary COPY: by pgpq where it has the type, by our own encoder where it has not.

Both write the same format: a header, then for each row its number of fields, and for each field a length (-1: NULL) and
its bytes in network order. Ours is vectorised over the rows of a block, column by column.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from presage_platform.postgres import types
from presage_platform.postgres.types import DATE_SHIFT_DAYS, ELEMENTS, TIME_SHIFT_US

HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)

OF_PGPQ = {
    types.BOOL,
    types.INT2,
    types.INT4,
    types.INT8,
    types.FLOAT4,
    types.FLOAT8,
    types.TEXT,
    types.VARCHAR,
    types.BYTEA,
    types.DATE,
    types.TIMESTAMP,
}

BYTES_A_BLOCK = 16 * 1024 * 1024
FIXED: dict[int, str] = {
    types.BOOL: "u1",
    types.INT2: ">i2",
    types.INT4: ">i4",
    types.INT8: ">i8",
    types.OID: ">u4",
    types.FLOAT4: ">f4",
    types.FLOAT8: ">f8",
}
SHIFTED: dict[int, tuple[Any, str, int]] = {  # Arrow's integers, bytes on the wire, difference of the epochs
    types.DATE: (np.int32, ">i4", DATE_SHIFT_DAYS),
    types.TIMESTAMP: (np.int64, ">i8", TIME_SHIFT_US),
    types.TIMESTAMPTZ: (np.int64, ">i8", TIME_SHIFT_US),
}


@dataclass(frozen=True)
class _Field:
    """One column of a block: row i is `payload[start[i] : start[i] + length[i]]`; length -1 is NULL."""

    payload: NDArray[np.uint8]
    start: NDArray[np.int64]
    length: NDArray[np.int64]


def encode_rows(data: pa.Table, oids: list[int], *, rows_a_batch: int = 65_536) -> Iterator[bytes]:
    """Yield the bytes of a whole binary COPY; `data` must hold the Arrow types of `types.ARROW_TYPES`."""
    if all(oid in OF_PGPQ for oid in oids) and not _has_extreme_times(data, oids):
        yield from _encode_by_pgpq(data, rows_a_batch)
        return
    yield HEADER
    row_bytes = max(1, data.nbytes // max(1, data.num_rows))
    for batch in data.to_batches(max_chunksize=max(1, min(rows_a_batch, BYTES_A_BLOCK // row_bytes))):
        if batch.num_rows:
            yield encode_block(batch, oids)
    yield TRAILER


def encode_block(batch: pa.RecordBatch, oids: list[int]) -> bytes:
    """Return the rows of one block, without header and trailer."""
    fields = [_field(column, oid) for column, oid in zip(batch.columns, oids, strict=True)]
    row_length = np.full(batch.num_rows, 2, np.int64)
    for field in fields:
        row_length += 4 + np.maximum(field.length, 0)
    position = np.cumsum(row_length) - row_length
    block = np.empty(int(row_length.sum()), np.uint8)
    _put_integers(block, position, np.full(batch.num_rows, len(fields)), ">i2")
    position = position + 2
    for field in fields:
        _put_integers(block, position, field.length, ">i4")
        position = position + 4
        length = np.maximum(field.length, 0)
        block[spans(position, length)] = field.payload[spans(field.start, length)]
        position = position + length
    return block.tobytes()


def spans(start: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices start[0], start[0]+1, … of every span, one after the other."""
    before = np.cumsum(length) - length
    return np.repeat(start - before, length) + np.arange(int(length.sum()))


def _encode_by_pgpq(data: pa.Table, rows_a_batch: int) -> Iterator[bytes]:
    from pgpq import ArrowToPostgresBinaryEncoder

    encoder = ArrowToPostgresBinaryEncoder(data.schema)
    yield bytes(encoder.write_header())
    for batch in data.to_batches(max_chunksize=rows_a_batch):
        yield bytes(encoder.write_batch(batch))
    yield bytes(encoder.finish())


def _has_extreme_times(data: pa.Table, oids: list[int]) -> bool:
    """pgpq shifts infinity into a finite date, and refuses times close to the lower end."""
    for column, oid in zip(data.columns, oids, strict=True):
        if oid not in SHIFTED or not len(column):
            continue
        kind, _, shift = SHIFTED[oid]
        limits = np.iinfo(kind)
        integers = column.cast(pa.int32() if kind is np.int32 else pa.int64())
        lowest, highest = (limit.as_py() for limit in pc.min_max(integers).values())
        if lowest is not None and (lowest < limits.min + shift or highest == limits.max):
            return True
    return False


def _field(column: pa.Array, oid: int) -> _Field:
    valid = ~np.asarray(column.is_null())
    if oid in FIXED:
        filled = column.fill_null(False if oid == types.BOOL else 0)
        return _fixed(np.asarray(filled).astype(FIXED[oid]), valid)
    if oid in SHIFTED:
        kind, wire, shift = SHIFTED[oid]
        integers = np.asarray(column.cast(pa.int32() if kind is np.int32 else pa.int64()).fill_null(0))
        return _fixed(_shifted(integers, kind, shift).astype(wire), valid)
    if oid in VALUE_ENCODERS or oid in ELEMENTS:
        return _by_value(column, oid, valid)
    return _variable(column, valid)


def _shifted(integers: NDArray[Any], kind: Any, shift: int) -> NDArray[Any]:
    limits = np.iinfo(kind)
    infinite = (integers == limits.max) | (integers == limits.min)  # ±infinity keeps its own code on both sides
    return np.where(infinite, integers, np.where(infinite, 0, integers) - kind(shift))


def _fixed(values: NDArray[Any], valid: NDArray[np.bool_]) -> _Field:
    width = values.dtype.itemsize
    start = np.arange(len(values), dtype=np.int64) * width
    return _Field(values.view(np.uint8).reshape(-1), start, np.where(valid, width, -1))


def _variable(column: pa.Array, valid: NDArray[np.bool_]) -> _Field:
    is_large = pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)
    _, offsets, payload = column.buffers()
    kind = np.int64 if is_large else np.int32
    ends = np.frombuffer(offsets, kind)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    data = np.frombuffer(payload, np.uint8) if payload is not None else np.empty(0, np.uint8)
    return _Field(data, ends[:-1], np.where(valid, np.diff(ends), -1))


def _by_value(column: pa.Array, oid: int, valid: NDArray[np.bool_]) -> _Field:
    encode = VALUE_ENCODERS.get(oid) or _array_encoder(oid)
    encoded = [b"" if value is None else encode(value) for value in column.to_pylist()]
    length = np.fromiter(map(len, encoded), np.int64, len(encoded))
    payload = np.frombuffer(b"".join(encoded), np.uint8)
    return _Field(payload, np.cumsum(length) - length, np.where(valid, length, -1))


def _put_integers(block: NDArray[np.uint8], position: NDArray[np.int64], values: NDArray[Any], wire: str) -> None:
    as_bytes = values.astype(wire).view(np.uint8).reshape(len(values), -1)
    for offset in range(as_bytes.shape[1]):
        block[position + offset] = as_bytes[:, offset]


def _jsonb(value: str) -> bytes:
    return b"\x01" + value.encode()  # version of the format


def _uuid(value: str) -> bytes:
    return uuid.UUID(value).bytes


def _numeric(value: Any) -> bytes:
    from psycopg.types.numeric import DecimalBinaryDumper

    number = value if isinstance(value, Decimal) else Decimal(repr(value))
    return bytes(DecimalBinaryDumper(Decimal).dump(number) or b"")


VALUE_ENCODERS: dict[int, Callable[[Any], bytes]] = {
    types.JSONB: _jsonb,
    types.UUID: _uuid,
    types.NUMERIC: _numeric,
}


def _array_encoder(oid: int) -> Callable[[list[Any]], bytes]:
    """Return the encoder of one-dimensional arrays: header, bounds, then each element with its length."""
    element = ELEMENTS[oid]
    wire = FIXED.get(element)

    def encode_element(value: Any) -> bytes:
        if value is None:
            return struct.pack(">i", -1)
        payload = np.array(value).astype(wire).tobytes() if wire else str(value).encode()
        return struct.pack(">i", len(payload)) + payload

    def encode(values: list[Any]) -> bytes:
        if not values:
            return struct.pack(">iii", 0, 0, element)
        head = struct.pack(">iiiii", 1, int(any(value is None for value in values)), element, len(values), 1)
        return head + b"".join(map(encode_element, values))

    return encode
