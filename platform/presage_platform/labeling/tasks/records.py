"""Which concept sets of a task have no record in this database: a sign of a wrong code, or of data not loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from presage_platform.labeling.tasks.definition import Task
from presage_platform.labeling.tasks.locks import Lock
from presage_platform.omop.tables import cdm_metadata

if TYPE_CHECKING:
    from presage_platform.postgres.connection import Database

SUFFIX = "_concept_id"
NOT_MEANING = ("_type_concept_id", "_source_concept_id", "unit_concept_id")
CLINICAL = (
    "condition_occurrence",
    "procedure_occurrence",
    "drug_exposure",
    "device_exposure",
    "measurement",
    "observation",
    "visit_occurrence",
)


def sets_without_records(task: Task, lock: Lock, database: Database) -> list[str]:
    """Return the names of the concept sets that no row of the tables the task reads refers to."""
    tables = [name for name in task.front.requires if name in CLINICAL] or list(CLINICAL)
    empty = []
    with database.connect() as connection:
        for name in task.front.concept_sets:
            ids = lock.concept_ids(name)
            found = (
                connection.execute(
                    sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {} = ANY(%s))").format(
                        sql.Identifier(table), sql.Identifier(concept_column(table))
                    ),
                    [ids],
                ).fetchone()
                for table in tables
            )
            if not any(row is not None and row[0] for row in found):
                empty.append(name)
    return empty


def concept_column(table: str) -> str:
    """Return the column of a clinical table that says what happened."""
    names = [
        column.name
        for declared in cdm_metadata.tables.values()
        if declared.name == table
        for column in declared.columns
    ]
    return next(name for name in names if name.endswith(SUFFIX) and not name.endswith(NOT_MEANING))
