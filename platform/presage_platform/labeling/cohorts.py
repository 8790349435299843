"""Labels as OMOP cohorts in the schema `results`, so that ATLAS and its kin can use them; read back by `kind: cohort`.

The target cohort of an outcome holds the studies at risk, from the day of the scan to the end of follow-up; its outcome
cohort holds the events, each on its day. A cohort knows days, so seconds are lost, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from psycopg import sql

from presage_platform.errors import InputError
from presage_platform.labeling.event import SECONDS_PER_DAY, Event
from presage_platform.labeling.store import LabelStore
from presage_platform.labeling.views import TaskView
from presage_platform.postgres.bulk import copy_in

if TYPE_CHECKING:
    from presage_platform.postgres.connection import Database

PREFIX = "presage"


@dataclass
class ExportedCohorts:
    """Cohort name → its definition id and number of rows."""

    cohorts: dict[str, tuple[int, int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {name: {"cohort_definition_id": number, "rows": rows} for name, (number, rows) in self.cohorts.items()}

    def text(self) -> str:
        """Return one line a cohort."""
        return "\n".join(
            f"cohort {number:>6}  {rows:>8,} rows  {name}" for name, (number, rows) in self.cohorts.items()
        )


def export_cohorts(store: LabelStore, database: Database) -> ExportedCohorts:
    """Write a target and an outcome cohort for every outcome of a store; the same labels replace their own cohorts.

    Raises
    ------
    InputError
        If the store has no outcome.
    """
    if not store.outcomes:
        raise InputError(f"label store {store.label_hash} has no outcomes: write tasks and run `platform label` first")
    exported = ExportedCohorts()
    person = np.asarray(store.studies.column("person_id"), dtype=np.int64)
    t0 = np.asarray(store.studies.column("t0"), dtype=np.int64)
    with database.connect() as connection:
        for task in store.outcomes:
            view = store.task_view(task, risk="incident")
            for name, rows in (("at risk", at_risk(view, person, t0)), ("events", events(view, person, t0))):
                title = f"{PREFIX} {store.label_hash} {task}: {name}"
                number = _definition(connection, database.schemas.results, title)
                copy_in(connection, "cohort", with_definition(rows, number), schema=database.schemas.results)
                exported.cohorts[title] = (number, rows.num_rows)
        connection.commit()
    return exported


def at_risk(view: TaskView, person: NDArray[np.int64], t0_s: NDArray[np.int64]) -> pa.Table:
    """Return the studies at risk, from the day of the scan to the day on which follow-up or risk ends."""
    rows = np.flatnonzero(view.at_risk)
    return _cohort(person[rows], t0_s[rows], t0_s[rows] + np.asarray(view.time_s, dtype=np.int64)[rows])


def events(view: TaskView, person: NDArray[np.int64], t0_s: NDArray[np.int64]) -> pa.Table:
    """Return the events of studies at risk, each from its day to its day."""
    rows = np.flatnonzero(view.at_risk & (np.asarray(view.cause) == Event.EVENT))
    moment = t0_s[rows] + np.asarray(view.time_s, dtype=np.int64)[rows]
    return _cohort(person[rows], moment, moment)


def with_definition(rows: pa.Table, number: int) -> pa.Table:
    """Return the rows of one cohort definition."""
    column = pa.array(np.full(rows.num_rows, number, dtype=np.int64))
    return rows.add_column(0, "cohort_definition_id", column)


def _cohort(subject: NDArray[np.int64], start_s: NDArray[np.int64], end_s: NDArray[np.int64]) -> pa.Table:
    """One row a person and span; two scans of one day are one row."""
    days = np.unique(np.column_stack([subject, start_s // SECONDS_PER_DAY, end_s // SECONDS_PER_DAY]), axis=0)
    return pa.table(
        {
            "subject_id": pa.array(days[:, 0], pa.int64()),
            "cohort_start_date": pa.array(days[:, 1].astype(np.int32), pa.int32()).cast(pa.date32()),
            "cohort_end_date": pa.array(days[:, 2].astype(np.int32), pa.int32()).cast(pa.date32()),
        }
    )


def _definition(connection: Any, results: str, title: str) -> int:
    """Return the id of a definition of this name, emptied; a new one takes the next number."""
    schema = sql.Identifier(results)
    connection.execute(sql.SQL("LOCK TABLE {}.cohort_definition IN EXCLUSIVE MODE").format(schema))
    found = connection.execute(
        sql.SQL("SELECT cohort_definition_id FROM {}.cohort_definition WHERE cohort_definition_name = %s").format(
            schema
        ),
        [title],
    ).fetchone()
    if found is not None:
        connection.execute(sql.SQL("DELETE FROM {}.cohort WHERE cohort_definition_id = %s").format(schema), found)
        return int(found[0])
    number = connection.execute(
        sql.SQL(
            "INSERT INTO {}.cohort_definition (cohort_definition_id, cohort_definition_name,"
            " definition_type_concept_id, subject_concept_id)"
            " SELECT 1 + coalesce(max(cohort_definition_id), 0), %s, 0, 0 FROM {}.cohort_definition"
            " RETURNING cohort_definition_id"
        ).format(schema, schema),
        [title],
    ).fetchone()
    return int(number[0])
