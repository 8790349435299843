"""The index: one row a study, its person and the instant from which every label's clock starts.

`t0` is when the image was acquired: never an order date, never a file name. It is wall-clock time of the declared zone,
in whole seconds since 1970-01-01; no zone arithmetic happens here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from presage_platform.errors import InputError, UsageError
from presage_platform.labeling.event import SECONDS_PER_DAY
from presage_platform.labeling.splits import persons_hash

__all__ = ["STUDIES_SCHEMA", "IndexRows", "choose_t0", "persons_hash", "read_index_file"]

WORDS = pa.dictionary(pa.int32(), pa.string())
STUDIES_SCHEMA = pa.schema(
    [
        pa.field("study_id", pa.int64(), nullable=False),
        pa.field("person_id", pa.int64(), nullable=False),
        pa.field("t0", pa.int64(), nullable=False),
        pa.field("t0_precision", pa.uint8(), nullable=False),
        pa.field("t0_source", WORDS, nullable=False),
        pa.field("visit_occurrence_id", pa.int64()),
        pa.field("site", WORDS),
        pa.field("scan_rank", pa.int16(), nullable=False),
        pa.field("n_scans", pa.int16(), nullable=False),
        pa.field("split", pa.uint8(), nullable=False),
        pa.field("prior_obs_days", pa.int32(), nullable=False),
        pa.field("entry_s", pa.int32(), nullable=False),
        pa.field("end_s", pa.int32(), nullable=False),
        pa.field("end_cause", pa.uint8(), nullable=False),
        pa.field("death_s", pa.int32(), nullable=False),
        pa.field("death_end_s", pa.int32(), nullable=False),
        pa.field("mask", pa.uint16(), nullable=False),
    ]
)
"""Columns of `studies.parquet`; rows are sorted by (shard, person_id, t0, study_id)."""

TIME_STEPS = (
    ("image_s", None),
    ("acquisition_s", "AcquisitionDate"),
    ("content_s", "ContentDate"),
    ("series_s", "SeriesDate"),
    ("study_s", "StudyDate"),
    ("procedure_s", "procedure_datetime"),
    ("procedure_day_s", "procedure_date"),
)
"""Where t0 comes from, in order of precedence; the first source is named by the series itself."""
SECOND, MINUTE, DAY = 0, 1, 2
_PRECISION = {"s": SECOND, "min": MINUTE, "day": DAY}


@dataclass(frozen=True, slots=True, eq=False)
class IndexRows:
    """Studies with a person and an index time, before anything is known about risk.

    `covariates` holds what came with the studies (scanner and the like), in the same order; `skipped` counts time
    sources that were passed over and why; `without_t0` studies had none left.
    """

    study_id: NDArray[np.int64]
    person_id: NDArray[np.int64]
    t0_s: NDArray[np.int64]
    t0_precision: NDArray[np.uint8]
    t0_source: list[str]
    covariates: pa.Table
    skipped: dict[str, int]
    num_linked: tuple[int, int]
    num_usable: tuple[int, int]

    def take(self, order: NDArray[np.int64]) -> IndexRows:
        """Return the rows in another order."""
        return IndexRows(
            self.study_id[order],
            self.person_id[order],
            self.t0_s[order],
            self.t0_precision[order],
            [self.t0_source[i] for i in order.tolist()],
            self.covariates.take(pa.array(order)),
            self.skipped,
            self.num_linked,
            self.num_usable,
        )


def choose_t0(linked: pa.Table, *, data_cut_s: int, num_linked: tuple[int, int]) -> IndexRows:
    """Choose each study's index time by precedence.

    A source is passed over where it is missing, after the data cut, or more than a day away from the linked procedure;
    each passing is counted. Columns of `linked`: those of `sql/linked_study.sql`.
    """
    rows = linked.num_rows
    chosen = np.full(rows, -1)
    t0 = np.zeros(rows, dtype=np.int64)
    precision = np.zeros(rows, dtype=np.uint8)
    procedure_day = _times(linked, "procedure_day_s")
    skipped: dict[str, int] = {}
    for step, (column, source) in enumerate(TIME_STEPS):
        valid, time = _times(linked, column)
        open_ = valid & (chosen < 0)
        late = open_ & (time > data_cut_s)
        far = open_ & ~late & procedure_day[0] & (np.abs(_day(time) - _day(procedure_day[1])) > 1)
        _count(skipped, source or "image time", late=late, far=far)
        use = open_ & ~late & ~far
        chosen[use], t0[use] = step, time[use]
        precision[use] = _precisions(linked, column, time)[use]
    found = np.flatnonzero(chosen >= 0)
    precision[_mostly_midnight(t0, precision, found)] = DAY
    sources = linked.column("image_dt_source").to_pylist()
    return IndexRows(
        study_id=_numbers(linked, "study_id")[found],
        person_id=_numbers(linked, "person_id")[found],
        t0_s=np.where(precision == DAY, t0 - t0 % SECONDS_PER_DAY, t0)[found],
        t0_precision=precision[found],
        t0_source=[str(TIME_STEPS[chosen[i]][1] or sources[i] or "image time") for i in found.tolist()],
        covariates=linked.take(pa.array(found)),
        skipped=skipped,
        num_linked=num_linked,
        num_usable=(rows, len(set(linked.column("person_id").to_pylist()))),
    )


def read_index_file(path: Path, *, data_cut_s: int, known_persons: NDArray[np.int64]) -> IndexRows:
    """Read an index from Parquet: study_id, person_id, t0 (timestamp, or seconds), other columns of L1 and L94.

    Raises
    ------
    InputError
        Naming the row number only: duplicate study, missing person or time, t0 after the record, unknown person.
    """
    table = _read_index_table(path)
    for name in ("study_id", "person_id", "t0"):
        _refuse(np.asarray(table.column(name).is_null()), f"{name} is missing")
    _require_types(path, table)
    study, person, t0 = _numbers(table, "study_id"), _numbers(table, "person_id"), _seconds(table.column("t0"))
    first = np.zeros(len(study), dtype=np.bool_)
    first[np.unique(study, return_index=True)[1]] = True
    _refuse(~first, "its study is listed twice, expected one row a study")
    _refuse(t0 > data_cut_s, "t0 lies in the future of the record, expected a time up to the data cut")
    _refuse(~np.isin(person, known_persons), "its person is not in the CDM")
    if len(study) == 0:
        raise InputError(f"index {path.name} has no row, expected at least one study")
    precision = np.zeros(len(study), dtype=np.uint8)
    if "t0_precision" in table.column_names:
        precision = _numbers(table, "t0_precision").astype(np.uint8)
    elif (t0 % SECONDS_PER_DAY == 0).sum() * 2 > len(t0):
        precision[t0 % SECONDS_PER_DAY == 0] = DAY
    named = table.column("t0_source").to_pylist() if "t0_source" in table.column_names else ["index file"] * len(study)
    counts = (len(study), len(np.unique(person)))
    return IndexRows(study, person, t0, precision, [str(name) for name in named], table, {}, counts, counts)


def _read_index_table(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise UsageError(f"usage: no index file {path}: name a Parquet file with study_id, person_id, t0") from None
    except (OSError, ValueError):
        raise InputError(f"index {path.name} is not Parquet, expected columns study_id, person_id, t0") from None
    missing = [name for name in ("study_id", "person_id", "t0") if name not in table.column_names]
    if missing:
        raise InputError(f"index {path.name} lacks {', '.join(missing)}, expected columns study_id, person_id, t0")
    return table


def _refuse(bad: NDArray[np.bool_], why: str) -> None:
    if bad.any():
        raise InputError(f"index row {int(np.flatnonzero(bad)[0]) + 1}: {why}")


def _seconds(column: pa.ChunkedArray) -> NDArray[np.int64]:
    if pa.types.is_timestamp(column.type):
        micros = np.asarray(column.cast(pa.timestamp("us")).cast(pa.int64()).combine_chunks())
        return micros // 1_000_000
    return np.asarray(column.combine_chunks()).astype(np.int64)


def _times(table: pa.Table, name: str) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    column = table.column(name).combine_chunks()
    return np.asarray(column.is_valid()), np.asarray(column.fill_null(0)).astype(np.int64)


def _precisions(linked: pa.Table, column: str, time: NDArray[np.int64]) -> NDArray[np.uint8]:
    if column == "image_s":
        words = linked.column("image_dt_precision").to_pylist()
        return np.array([_PRECISION.get(word, SECOND) for word in words], dtype=np.uint8)
    if column in ("procedure_day_s",):
        return np.full(len(time), DAY, dtype=np.uint8)
    # A header date without a time of day stands at midnight.
    return np.where(time % SECONDS_PER_DAY == 0, DAY, SECOND).astype(np.uint8)


def _mostly_midnight(
    t0: NDArray[np.int64], precision: NDArray[np.uint8], found: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which times are bare dates in disguise: midnights, where more than half of the timed ones are."""
    timed = np.zeros(len(t0), dtype=np.bool_)
    timed[found] = precision[found] != DAY
    midnight = timed & (t0 % SECONDS_PER_DAY == 0)
    return midnight if midnight.sum() * 2 > timed.sum() else np.zeros(len(t0), dtype=np.bool_)


def _count(skipped: dict[str, int], source: str, **reasons: NDArray[np.bool_]) -> None:
    words = {"late": "after the data cut", "far": "more than a day from the procedure"}
    for reason, rows in reasons.items():
        if rows.any():
            skipped[f"{source} {words[reason]}"] = int(rows.sum())


def _day(time_s: NDArray[np.int64]) -> NDArray[np.int64]:
    return time_s // SECONDS_PER_DAY


def _require_types(path: Path, table: pa.Table) -> None:
    """Refuse ids that are no integers and times that are neither timestamps nor whole seconds."""
    kinds = {
        name: table.column(name).type
        for name in ("study_id", "person_id", "t0", "t0_precision")
        if name in table.column_names
    }
    times = pa.types.is_timestamp(kinds["t0"])
    wrong = [name for name, kind in kinds.items() if not pa.types.is_integer(kind) and not (name == "t0" and times)]
    if wrong:
        raise InputError(
            f"index {path.name}: {', '.join(wrong)} of the wrong type, expected integers (t0: timestamps, or whole "
            "seconds since 1970): convert the column"
        )


def _numbers(table: pa.Table, name: str) -> NDArray[np.int64]:
    return np.asarray(table.column(name).combine_chunks()).astype(np.int64)
