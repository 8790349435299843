"""The bytes of binary COPY to Arrow, column by column over all rows of a block.

The server sends each row as one message, so the starts of the rows are known and nothing is parsed row by row.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from presage_platform.errors import IntegrityError
from presage_platform.postgres import types
from presage_platform.postgres.encode import FIXED, HEADER, SHIFTED, TRAILER, spans
from presage_platform.postgres.types import ELEMENTS


class RowDecoder:
    """Decodes consecutive blocks of rows of one COPY."""

    def __init__(self, schema: pa.Schema, oids: list[int]) -> None:
        self._schema = schema
        self._oids = oids
        self._header_seen = False

    def decode(self, rows: list[bytes]) -> pa.RecordBatch:
        """Return the rows of these messages; header and trailer of the format are recognised and dropped."""
        rows = self._without_frame(rows)
        data = np.frombuffer(b"".join(rows), np.uint8)
        length = np.fromiter(map(len, rows), np.int64, len(rows))
        position = np.cumsum(length) - length
        if not bool((_integers(data, position, ">i2") == len(self._oids)).all()):
            raise IntegrityError("the server's COPY does not hold one row a message: please report this")
        position = position + 2
        columns = []
        for field, oid in zip(self._schema, self._oids, strict=True):
            size = _integers(data, position, ">i4").astype(np.int64)
            position = position + 4
            columns.append(_column(data, position, size, field.type, oid))
            position = position + np.maximum(size, 0)
        if not columns:
            return pa.RecordBatch.from_struct_array(pa.array([{}] * len(rows), pa.struct([])))
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _without_frame(self, rows: list[bytes]) -> list[bytes]:
        if rows and not self._header_seen:
            if not rows[0].startswith(HEADER):
                raise IntegrityError("the server's COPY begins with an unknown header: please report this")
            self._header_seen = True
            rest = rows[0][len(HEADER) :]
            rows = [rest, *rows[1:]] if rest else rows[1:]
        if rows and rows[-1] == TRAILER:
            rows = rows[:-1]
        return rows


def _integers(data: NDArray[np.uint8], position: NDArray[np.int64], wire: str) -> NDArray[Any]:
    width = np.dtype(wire).itemsize
    gathered = data[position[:, None] + np.arange(width)]
    return np.ascontiguousarray(gathered).reshape(-1).view(wire)


def _column(
    data: NDArray[np.uint8], position: NDArray[np.int64], size: NDArray[np.int64], kind: pa.DataType, oid: int
) -> pa.Array:
    valid = size >= 0
    if oid in FIXED or oid in SHIFTED:
        return _fixed(data, position, valid, kind, oid)
    if oid in VALUE_DECODERS or oid in ELEMENTS:
        decode = VALUE_DECODERS.get(oid) or _decode_array
        spans_of_rows = zip(position.tolist(), size.tolist(), strict=True)
        values = [None if n < 0 else decode(data[start : start + n].tobytes()) for start, n in spans_of_rows]
        return pa.array(values, kind)
    length = np.maximum(size, 0)
    offsets = np.zeros(len(size) + 1, np.int32)
    np.cumsum(length, out=offsets[1:])
    payload = data[spans(position, length)]
    mask = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    buffers = [mask, pa.py_buffer(offsets), pa.py_buffer(payload)]
    return pa.Array.from_buffers(kind, len(size), buffers)


def _fixed(
    data: NDArray[np.uint8], position: NDArray[np.int64], valid: NDArray[np.bool_], kind: pa.DataType, oid: int
) -> pa.Array:
    wire = FIXED.get(oid) or SHIFTED[oid][1]
    found = _integers(data, position[valid], wire)
    if oid in SHIFTED:
        integer, _, shift = SHIFTED[oid]
        limits = np.iinfo(integer)
        found = found.astype(integer)
        infinite = (found == limits.max) | (found == limits.min)
        if bool(((found > limits.max - shift) & ~infinite).any()):
            raise IntegrityError("a time beyond the year 294246 does not fit Arrow's microseconds: correct the row")
        found = np.where(infinite, found, np.where(infinite, 0, found) + integer(shift))
    values = np.zeros(len(valid), found.dtype.newbyteorder("="))
    values[valid] = found
    if oid == types.BOOL:
        return pa.array(values.astype(bool), mask=~valid)
    if oid in SHIFTED:
        return pa.array(values, mask=~valid).cast(pa.int32() if oid == types.DATE else pa.int64()).view(kind)
    return pa.array(values, mask=~valid).cast(kind)


def _decode_jsonb(payload: bytes) -> str:
    return payload[1:].decode()


def _decode_uuid(payload: bytes) -> str:
    return str(uuid.UUID(bytes=payload))


def _decode_numeric(payload: bytes) -> float:
    from psycopg.types.numeric import NumericBinaryLoader

    return float(NumericBinaryLoader(types.NUMERIC).load(payload))


def _decode_array(payload: bytes) -> list[Any]:
    dimensions, _, element = struct.unpack_from(">iii", payload)
    if dimensions == 0:
        return []
    if dimensions != 1:
        raise IntegrityError("an array of several dimensions cannot travel in bulk: unnest it in the query")
    (count,) = struct.unpack_from(">i", payload, 12)
    at, values = 20, []
    for _ in range(count):
        (size,) = struct.unpack_from(">i", payload, at)
        at += 4
        values.append(None if size < 0 else _decode_element(payload[at : at + size], element))
        at += max(size, 0)
    return values


def _decode_element(payload: bytes, element: int) -> Any:
    wire = FIXED.get(element)
    return np.frombuffer(payload, wire)[0].item() if wire else payload.decode()


VALUE_DECODERS: dict[int, Callable[[bytes], Any]] = {
    types.JSONB: _decode_jsonb,
    types.UUID: _decode_uuid,
    types.NUMERIC: _decode_numeric,
}
