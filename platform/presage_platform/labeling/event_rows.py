"""Rows of the CDM as events: the concept, by policy the source concept, flags, value bins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from presage_platform.labeling.event import SECONDS_PER_DAY
from presage_platform.labeling.event_tables import BINNED, SHIFT
from presage_platform.labeling.first_occurrence import DATE_ONLY
from presage_platform.labeling.timeline import EVENT_DTYPE
from presage_platform.labeling.value_bins import ValueBins, binned
from presage_platform.labeling.whole_records import CARRIES_VALUE

Batch = dict[str, NDArray[Any]]

EARLIEST_S = -(70 * 365 + 17) * SECONDS_PER_DAY
"""1900-01-01: an earlier date is a placeholder."""
DEATH_CONCEPT = 4306655
DEATH_TABLE = 7
SOURCE_CONCEPT = 16
MIDNIGHT = 64
"""Flag of the extraction only: a datetime at 00:00:00, a bare date where most rows of the table have it."""


def unpack(batch: pa.RecordBatch) -> Batch:
    """Return person_id, concept, source_concept, time_s, is_date of some rows, and the columns of values if any."""
    code = np.asarray(batch.column("code"))
    is_date = code < 0
    code = np.where(is_date, -1 - code, code)
    time = batch.column("time")
    micros = np.asarray(time.cast(pa.timestamp("us")).cast(pa.int64()).fill_null(0))
    time_s = micros // 1_000_000
    if time.null_count:
        time_s = np.where(np.asarray(time.is_valid()), time_s, EARLIEST_S - 1)
    found: Batch = {
        "person_id": np.asarray(batch.column("person_id")).astype(np.int64, copy=False),
        "concept": (code >> SHIFT).astype(np.int32),
        "source_concept": code.astype(np.int32),  # the low half
        "time_s": time_s,
        "is_date": is_date,
    }
    if "has_value" in batch.schema.names:
        found["has_value"] = np.asarray(batch.column("has_value")) == 1
    if BINNED[0] in batch.schema.names:
        for name in BINNED:
            missing = 0.0 if name == "unit_concept_id" else float("nan")
            found[name] = np.asarray(batch.column(name).cast(pa.float64()).fill_null(missing))
    return found


def events_of(batch: Batch, bit: int, source_concepts: str, bins: ValueBins | None = None) -> NDArray[Any]:
    """Return the events of some rows: the standard concept, by policy the source concept, and value bins.

    Columns: person_id, concept, source_concept, time_s, is_date, all of one length; has_value and `BINNED` if known.
    """
    flags = np.full(len(batch["time_s"]), bit, dtype=np.uint8)
    flags[batch["is_date"] != 0] |= DATE_ONLY
    flags[midnights(batch)] |= MIDNIGHT
    if "has_value" in batch:
        flags[batch["has_value"]] |= CARRIES_VALUE
    standard = batch["concept"] > 0
    wanted = (batch["source_concept"] > 0) & (batch["source_concept"] != batch["concept"])
    if source_concepts == "unmapped":
        wanted &= ~standard
    every: NDArray[Any] | slice = slice(None) if standard.all() else np.flatnonzero(standard)
    parts = [_events(batch, every, batch["concept"][every], flags[every])]
    if wanted.any():
        rows = np.flatnonzero(wanted)
        parts.append(_events(batch, rows, batch["source_concept"][rows], flags[rows] | SOURCE_CONCEPT))
    if bins is not None and BINNED[0] in batch:
        rows, ids = binned(batch, bins)
        parts.append(_events(batch, rows, ids, flags[rows]))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def midnights(batch: Batch) -> NDArray[np.bool_]:
    """Return which rows have a time of day that reads 00:00:00."""
    found: NDArray[np.bool_] = (batch["time_s"] % SECONDS_PER_DAY == 0) & (batch["is_date"] == 0)
    return found


def settle_midnights(events: NDArray[Any], date_tables: set[int]) -> NDArray[Any]:
    """Turn midnights of tables that have mostly midnights into bare dates, and clear the extraction's own flag."""
    flags = events["flags"].copy()
    midnight = (flags & MIDNIGHT) != 0
    if midnight.any():
        bare = midnight & np.isin(flags & 7, sorted(date_tables))
        events["flags"] = (flags & ~np.uint8(MIDNIGHT)) | np.where(bare, DATE_ONLY, 0).astype(np.uint8)
    return events


def death_events(person_id: NDArray[Any], time_s: NDArray[Any], is_date: NDArray[Any]) -> NDArray[Any]:
    """Return every death row as an event; its cause is no event."""
    events = np.empty(len(person_id), dtype=EVENT_DTYPE)
    events["person_id"], events["time"], events["concept"] = person_id, time_s, DEATH_CONCEPT
    events["flags"] = DEATH_TABLE | np.where(is_date, DATE_ONLY, 0)
    return events


def _events(batch: Batch, rows: Any, concept: NDArray[Any], flags: NDArray[Any]) -> NDArray[Any]:
    events = np.empty(len(concept), dtype=EVENT_DTYPE)
    events["person_id"], events["time"] = batch["person_id"][rows], batch["time_s"][rows]
    events["concept"], events["flags"] = concept, flags
    return events
