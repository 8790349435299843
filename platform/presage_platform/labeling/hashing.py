"""Hashes of content: the same values give the same hash on any machine, whatever file or batch they lie in."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from presage_platform.runs import canonical_json, sha256_json

NAME_DIGITS = 16
CHUNK_BYTES = 1 << 22


def hash_json(value: Any) -> str:
    """Return the sha256 of a JSON value as 64 hex digits."""
    return sha256_json(value)


def hash_arrays(*arrays: NDArray[Any]) -> str:
    """Return the sha256 over type, length and little-endian bytes of each array in order."""
    digest = hashlib.sha256()
    for array in arrays:
        ordered = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(f"{ordered.dtype.str}{ordered.shape}".encode())
        content: Any = ordered.reshape(-1).view(np.uint8)
        digest.update(content)
    return digest.hexdigest()


def hash_table(table: pa.Table) -> str:
    """Return the sha256 over the values of a table, column by column: chunks, padding and file format do not count."""
    digest = hashlib.sha256()
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        digest.update(f"{name}:{len(column)}".encode())
        digest.update(_column_bytes(column))
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _column_bytes(column: pa.ChunkedArray | pa.Array) -> bytes:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_integer(array.type) and array.null_count == 0:
        return np.asarray(array.cast(pa.int64())).tobytes()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return canonical_json([_plain(value) for value in array.to_pylist()]).encode()


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | str) else repr(value)
