"""The small tables of a snapshot: persons, periods, visits, deaths, and how far the record reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from presage_platform.errors import InputError
from presage_platform.labeling.event import SECONDS_PER_DAY
from presage_platform.labeling.facts import Intervals
from presage_platform.labeling.semantics import LAST_SECOND
from presage_platform.labeling.statements import statement
from presage_platform.postgres.bulk import copy_out


@dataclass(frozen=True, slots=True, eq=False)
class SideTables:
    """Side tables of a snapshot, as they are written.

    Attributes
    ----------
    tables
        `person`, `observation_period`, `visit`, `death`.
    data_cut_s
        Last second that the record covers.
    death_rows
        person_id, time_s, is_date of every death row: each is also an event of the timeline.
    counts
        Faults found on the way.
    """

    tables: dict[str, pa.Table]
    data_cut_s: int
    vocabulary_version: str
    death_rows: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]
    counts: dict[str, int]

    @property
    def person_id(self) -> NDArray[np.int64]:
        """All persons, ascending."""
        return numbers(self.tables["person"], "person_id")


def read(connection: Any, *, data_cut_s: int | None) -> SideTables:
    """Read the side tables in the caller's transaction.

    Raises
    ------
    InputError
        If there is no person, no observation period, or nothing says how far the record reaches.
    """
    source = copy_out(connection, statement("source")).to_pylist()[0]
    cut = data_cut_s if data_cut_s is not None else _release_cut(source["release_day_s"])
    person = copy_out(connection, statement("person"))
    period = copy_out(connection, statement("observation_period"))
    if person.num_rows == 0:
        raise InputError("cdm: table person is empty, expected persons: load records with `platform etl fhir`")
    if period.num_rows == 0:
        raise InputError(
            "cdm: table observation_period is empty, expected a period for each person with events: load records with "
            "`platform etl fhir`, or derive the periods of a foreign database"
        )
    counts: dict[str, int] = {}
    death, rows = deaths(copy_out(connection, statement("death")), cut, counts)
    visit = visits(copy_out(connection, statement("visit")), counts)
    tables = {"person": person, "observation_period": period, "visit": visit, "death": death}
    return SideTables(tables, cut, source["vocabulary_version"] or "", rows, counts)


def deaths(
    raw: pa.Table, data_cut_s: int, counts: dict[str, int]
) -> tuple[pa.Table, tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]]:
    """Return one death a person (the earliest; a bare date stands at its day's end), and every death row.

    Columns of `raw`: person_id, day_s, moment_s (null = only the date is known).
    """
    person, day = numbers(raw, "person_id"), numbers(raw, "day_s")
    has_moment, moment = _moments(raw, "moment_s")
    death_s = np.where(has_moment, moment, day + LAST_SECOND)
    counts["death rows after the data cut"] = int((day > data_cut_s).sum())
    keep = day <= data_cut_s
    person, day, death_s, moment = (x[keep] for x in (person, day, death_s, moment))
    has_moment = has_moment[keep]
    order = np.lexsort((death_s, person))
    person, death_s, is_date = person[order], death_s[order], ~has_moment[order]
    first = np.ones(len(person), dtype=np.bool_)
    first[1:] = np.diff(person) != 0
    differs = ~first & (death_s // SECONDS_PER_DAY != np.roll(death_s, 1) // SECONDS_PER_DAY)
    counts["persons with conflicting deaths"] = len(np.unique(person[differs]))
    table = pa.table({"person_id": person[first], "death_s": death_s[first], "is_date": is_date[first]})
    rows = np.where(has_moment, moment, day)[order]
    return table, (person, rows, is_date)


def visits(raw: pa.Table, counts: dict[str, int]) -> pa.Table:
    """Return visits in order of (person, start, end, id), bare dates covering whole days.

    Columns of `raw`: visit_occurrence_id, person_id, concept, start_day_s, end_day_s, start_moment_s, end_moment_s,
    site.
    """
    has_start, start_moment = _moments(raw, "start_moment_s")
    has_end, end_moment = _moments(raw, "end_moment_s")
    start = np.where(has_start, start_moment, numbers(raw, "start_day_s"))
    end = np.where(has_end, end_moment, numbers(raw, "end_day_s") + LAST_SECOND)
    counts["visits that end before they start"] = int((end < start).sum())
    person, visit_id = numbers(raw, "person_id"), numbers(raw, "visit_occurrence_id")
    clipped = Intervals.clip(start, end)
    order = np.lexsort((visit_id, clipped[1], clipped[0], person))
    return pa.table(
        {
            "visit_occurrence_id": visit_id[order],
            "person_id": person[order],
            "concept": numbers(raw, "concept")[order],
            "start_s": clipped[0][order],
            "end_s": clipped[1][order],
            "site": raw.column("site").combine_chunks().take(pa.array(order)),
        }
    )


def numbers(table: pa.Table, name: str) -> NDArray[np.int64]:
    """Return a column without nulls as int64."""
    return np.asarray(table.column(name).combine_chunks()).astype(np.int64)


def _moments(raw: pa.Table, name: str) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which rows have a time of day, and the times; midnights of a mostly-midnight column are bare dates."""
    column = raw.column(name).combine_chunks()
    has = np.asarray(column.is_valid())
    moment = np.asarray(column.fill_null(0)).astype(np.int64)
    midnight = has & (moment % SECONDS_PER_DAY == 0)
    if midnight.sum() * 2 > has.sum():
        has = has & ~midnight
    return has, moment


def _release_cut(release_day_s: int | None) -> int:
    if release_day_s is None:
        raise InputError(
            "cdm: cdm_source has no source_release_date, expected the day up to which the record is complete: set "
            "[labeling] data_cut, or load records with `platform etl fhir`"
        )
    return release_day_s + LAST_SECOND
