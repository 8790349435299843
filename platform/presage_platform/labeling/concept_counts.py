"""How often each concept occurs: rows, persons, years and source tables, counted shard by shard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from presage_platform.labeling.timeline import SortedShard


class ConceptCounter:
    """Counts rows and persons of each concept, shard by shard."""

    def __init__(self) -> None:
        self._parts: list[dict[str, NDArray[Any]]] = []

    def add(self, shard: SortedShard) -> None:
        """Count one shard."""
        concepts, number = np.unique(shard.concept, return_inverse=True)
        person = np.repeat(np.arange(len(shard.person_id), dtype=np.int64), np.diff(shard.offset))
        pairs = np.unique(number.astype(np.int64) * max(len(shard.person_id), 1) + person)
        year = shard.time.astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64) + 1970
        first, last = np.full(len(concepts), 9999), np.full(len(concepts), 0)
        np.minimum.at(first, number, year)
        np.maximum.at(last, number, year)
        tables = np.zeros(len(concepts), dtype=np.uint8)
        np.bitwise_or.at(tables, number, np.left_shift(1, shard.flags & 7).astype(np.uint8))
        self._parts.append(
            {
                "concept": concepts.astype(np.int64),
                "rows": np.bincount(number, minlength=len(concepts)),
                "persons": np.bincount(pairs // max(len(shard.person_id), 1), minlength=len(concepts)),
                "first_year": first,
                "last_year": last,
                "tables": tables,
            }
        )

    def table(self) -> pa.Table:
        """Return concept, rows, persons, first and last year, and the tables (bits) that fed each concept."""
        joined = {
            name: np.concatenate([np.empty(0, dtype=np.int64), *(part[name] for part in self._parts)])
            for name in _COUNT_COLUMNS
        }
        concepts, number = np.unique(joined["concept"].astype(np.int64), return_inverse=True)
        result: dict[str, NDArray[Any]] = {"concept": concepts}
        for name, (ufunc, start) in _COUNT_COLUMNS.items():
            if name != "concept":
                result[name] = np.full(len(concepts), start, dtype=np.int64)
                ufunc.at(result[name], number, joined[name].astype(np.int64))
        return pa.table({name: pa.array(values, pa.int64()) for name, values in result.items()})


_COUNT_COLUMNS: dict[str, tuple[np.ufunc, int]] = {
    "concept": (np.add, 0),
    "rows": (np.add, 0),
    "persons": (np.add, 0),
    "first_year": (np.minimum, 9999),
    "last_year": (np.maximum, 0),
    "tables": (np.bitwise_or, 0),
}
