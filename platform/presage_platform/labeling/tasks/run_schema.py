"""What a task may see beside the CDM, as real tables in a schema of its own: index, concept sets, eras, cohort rows.

They are filled by the owner before the snapshot is taken, since a read-only transaction cannot make temporary ones, and
dropped afterwards.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from psycopg import sql

from presage_platform.labeling.tasks.compile import Compiled
from presage_platform.labeling.tasks.definition import Task
from presage_platform.labeling.tasks.front_matter import Era
from presage_platform.labeling.tasks.locks import Lock
from presage_platform.labeling.tasks.results import TaskIndex
from presage_platform.postgres.bulk import copy_in

if TYPE_CHECKING:
    from presage_platform.postgres.connection import Database

TASKS_ROLE = "presage_tasks"
RUN_PREFIX = "task_run_"
ERA_COLUMNS = {
    "visit_occurrence": ("visit_concept_id", "visit_start", "visit_end", "visit_occurrence_id"),
    "condition_occurrence": ("condition_concept_id", "condition_start", "condition_end", "condition_occurrence_id"),
    "drug_exposure": ("drug_concept_id", "drug_exposure_start", "drug_exposure_end", "drug_exposure_id"),
}


@dataclass(frozen=True)
class RunSchema:
    """The schema of one task, and one whose `task_index` holds a few studies only (None = there are few anyhow)."""

    name: str
    rehearsal: str | None

    @property
    def path(self) -> tuple[str, ...]:
        """The schema as a search path."""
        return (self.name,)


@contextmanager
def run_schemas(
    tasks: Sequence[tuple[Compiled, Lock]], index: TaskIndex, database: Database, rehearsal_studies: int
) -> Iterator[dict[str, RunSchema]]:
    """Make, fill and analyse one schema a task (with the shared index in each); drop them at the end."""
    names = {compiled.task.name: f"{RUN_PREFIX}{secrets.token_hex(6)}" for compiled, _ in tasks}
    few = f"{RUN_PREFIX}{secrets.token_hex(6)}" if len(index.facts) > rehearsal_studies else None
    with database.connect() as connection:
        try:
            for compiled, lock in tasks:
                _fill(connection, names[compiled.task.name], compiled.task, lock, index, database)
            if few is not None:
                _make(connection, few)
                _fill_index(connection, few, index.relation().slice(0, rehearsal_studies))
                _open_to_tasks(connection, few, ["task_index"])
            connection.commit()
            yield {task: RunSchema(name, few) for task, name in names.items()}
        finally:
            connection.rollback()
            for name in (*names.values(), *([few] if few else [])):
                connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))
            connection.commit()


def _fill(connection: Any, name: str, task: Task, lock: Lock, index: TaskIndex, database: Database) -> None:
    _make(connection, name)
    _fill_index(connection, name, index.relation())
    for set_name in task.front.concept_sets:
        _fill_set(connection, name, f"cs_{set_name}", lock.concept_ids(set_name))
    for era_name, era in task.front.eras.items():
        _fill_era(connection, sql.Identifier(name), f"era_{era_name}", era)
    tables = ["task_index", *(f"cs_{n}" for n in task.front.concept_sets), *(f"era_{n}" for n in task.front.eras)]
    if task.front.kind == "cohort":
        _fill_cohort(connection, name, task, database.schemas.results)
        tables.append("cohort")
    _open_to_tasks(connection, name, tables)


def _make(connection: Any, name: str) -> None:
    connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))


def _open_to_tasks(connection: Any, name: str, tables: list[str]) -> None:
    schema, role = sql.Identifier(name), sql.Identifier(TASKS_ROLE)
    for table in tables:
        connection.execute(sql.SQL("ANALYZE {}.{}").format(schema, sql.Identifier(table)))
    connection.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, role))
    connection.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA {} TO {}").format(schema, role))


def _fill_index(connection: Any, name: str, relation: pa.Table) -> None:
    connection.execute(
        sql.SQL(
            "CREATE TABLE {}.task_index (study_id bigint PRIMARY KEY, person_id bigint NOT NULL, t0 timestamp NOT NULL,"
            " t0_date date NOT NULL, visit_occurrence_id bigint, site text)"
        ).format(sql.Identifier(name))
    )
    copy_in(connection, "task_index", relation, schema=name)
    connection.execute(sql.SQL("CREATE INDEX ON {}.task_index (person_id)").format(sql.Identifier(name)))


def _fill_set(connection: Any, name: str, table: str, concepts: list[int]) -> None:
    connection.execute(
        sql.SQL("CREATE TABLE {}.{} (concept_id bigint PRIMARY KEY)").format(
            sql.Identifier(name), sql.Identifier(table)
        )
    )
    copy_in(connection, table, pa.table({"concept_id": pa.array(concepts, pa.int64())}), schema=name)


def _fill_cohort(connection: Any, name: str, task: Task, results: str) -> None:
    """Copy one cohort of the results schema; it may have been made by any tool that writes OMOP cohorts."""
    connection.execute(
        sql.SQL(
            "CREATE TABLE {run}.cohort AS SELECT c.subject_id::bigint AS subject_id, c.cohort_start_date,"
            " c.cohort_end_date FROM {results}.cohort AS c JOIN {run}.task_index AS i ON i.person_id = c.subject_id"
            " WHERE c.cohort_definition_id = {number} GROUP BY 1, 2, 3"
        ).format(
            run=sql.Identifier(name),
            results=sql.Identifier(results),
            number=sql.Literal(task.front.cohort_definition_id),
        )
    )
    connection.execute(sql.SQL("CREATE INDEX ON {}.cohort (subject_id)").format(sql.Identifier(name)))


def _fill_era(connection: Any, schema: sql.Identifier, name: str, era: Era) -> None:
    concept, start, end, key = ERA_COLUMNS[era.table]
    statement = sql.SQL(
        """
        CREATE TABLE {schema}.{name} AS
        WITH stay AS (
            SELECT t.person_id, t.{start} AS start_date, t.{stamp} AS start_datetime, t.{key} AS id,
                   greatest(coalesce(t.{end}, t.{start}), t.{start}) AS end_date
            FROM {table} AS t JOIN {schema}.{concepts} AS c ON c.concept_id = t.{concept}
            WHERE EXISTS (SELECT FROM {schema}.task_index AS i WHERE i.person_id = t.person_id)
        ), marked AS (
            SELECT *, start_date > max(end_date) OVER (
                PARTITION BY person_id ORDER BY start_date, end_date, id
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) + {gap} AS opens
            FROM stay
        ), numbered AS (
            SELECT *, count(*) FILTER (WHERE opens) OVER (
                PARTITION BY person_id ORDER BY start_date, end_date, id
            ) AS era
            FROM marked
        )
        SELECT person_id, min(start_date) AS start_date,
               (array_agg(start_datetime ORDER BY start_date, end_date, id))[1] AS start_datetime,
               max(end_date) AS end_date, (array_agg(id ORDER BY start_date, end_date, id))[1] AS first_id
        FROM numbered GROUP BY person_id, era
        """
    ).format(
        schema=schema,
        name=sql.Identifier(name),
        table=sql.Identifier(era.table),
        concepts=sql.Identifier(f"cs_{era.concepts}"),
        concept=sql.Identifier(concept),
        start=sql.Identifier(f"{start}_date"),
        stamp=sql.Identifier(f"{start}_datetime"),
        end=sql.Identifier(f"{end}_date"),
        key=sql.Identifier(key),
        gap=sql.Literal(era.gap_days),
    )
    connection.execute(statement)
    connection.execute(sql.SQL("CREATE INDEX ON {}.{} (person_id)").format(schema, sql.Identifier(name)))
