"""Value bins (optional): a measurement's number as an event of its own, beside the event of its concept.

`bins.parquet` lists them: `bin_id` (negative, ours), `concept_id`, `unit_concept_id` (null = any or none), and either
`low` and `high` (low <= value < high, null = open) or `range` = `below_range` or `above_range` (against the row's own
`range_low` and `range_high`). A value belongs to every bin that holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from presage_platform.errors import InputError, UsageError

SCHEMA = pa.schema(
    [
        pa.field("bin_id", pa.int32()),
        pa.field("concept_id", pa.int64()),
        pa.field("unit_concept_id", pa.int64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("range", pa.string()),
    ]
)
BELOW, ABOVE = "below_range", "above_range"


@dataclass(frozen=True, slots=True, eq=False)
class ValueBins:
    """The bins, sorted by concept and id; `table` has the columns of `SCHEMA`."""

    table: pa.Table

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The bins as values."""
        return list(self.table.to_pylist())


def read_bins(path: Path) -> ValueBins:
    """Read and check a file of bins.

    Raises
    ------
    UsageError
        If there is no such file.
    InputError
        If a column is missing or a row is no bin; the message names the row by number.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise UsageError(
            f"usage: {path.name} does not exist, expected a file of value bins: mend [labeling] value_bins"
        ) from None
    except (OSError, ValueError):
        raise InputError(f"value bins: {path.name} cannot be read, expected Parquet") from None
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise InputError(f"value bins: {path.name} lacks {', '.join(missing)}, expected {', '.join(SCHEMA.names)}")
    table = table.select(SCHEMA.names).cast(SCHEMA)
    seen: set[int] = set()
    for number, row in enumerate(table.to_pylist(), start=1):
        fault = _fault(row, seen)
        if fault:
            raise InputError(f"value bins: row {number} of {path.name} {fault}")
        seen.add(row["bin_id"])
    return ValueBins(table.sort_by([("concept_id", "ascending"), ("bin_id", "descending")]))


def binned(batch: Mapping[str, NDArray[Any]], bins: ValueBins) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return (row, bin id) of each value that falls into a bin.

    Columns: concept, value_as_number, unit_concept_id, range_low, range_high; no number is NaN, no unit 0.
    """
    concept, value, unit = batch["concept"], batch["value_as_number"], batch["unit_concept_id"]
    range_low, range_high = batch["range_low"], batch["range_high"]
    rows, ids = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int32)]
    wanted = np.flatnonzero(np.isin(concept, np.asarray(bins.table.column("concept_id"))) & ~np.isnan(value))
    for row in bins.rows:
        here = wanted[concept[wanted] == row["concept_id"]]
        if row["unit_concept_id"] is not None:
            here = here[unit[here] == row["unit_concept_id"]]
        number = value[here]
        if row["range"] == BELOW:
            inside = number < range_low[here]  # false against NaN
        elif row["range"] == ABOVE:
            inside = number > range_high[here]
        else:
            low = -np.inf if row["low"] is None else row["low"]
            high = np.inf if row["high"] is None else row["high"]
            inside = (number >= low) & (number < high)
        rows.append(here[inside])
        ids.append(np.full(int(inside.sum()), row["bin_id"], dtype=np.int32))
    return np.concatenate(rows), np.concatenate(ids)


def _fault(row: dict[str, Any], seen: set[int]) -> str | None:
    if row["bin_id"] is None or row["bin_id"] >= 0 or row["bin_id"] in seen:
        return "has no bin_id of its own, expected a negative number that no other row has"
    if row["concept_id"] is None or row["concept_id"] <= 0:
        return "has no concept_id, expected a concept"
    if row["range"] not in (None, BELOW, ABOVE):
        return f"has another range than {BELOW}, {ABOVE} or null"
    if row["range"] is None and row["low"] is None and row["high"] is None:
        return "has neither low, high nor range, expected one of them"
    if row["low"] is not None and row["high"] is not None and row["low"] >= row["high"]:
        return "is empty, expected low < high"
    return None
