"""Merge, first half: what the staged references lead to, and which resources cannot stand (E18–E22, E43, E78)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import psycopg
from psycopg import sql

from presage_etl.fhir.partition import Load
from presage_etl.fhir.stage import ROW_TABLES, RowTable, row_table, stage_tables

SQL = files("presage_etl.fhir") / "sql"


@dataclass(slots=True)
class MergeSession:
    """The transaction of one merge: its cursor, what it is about, and which stage tables hold rows."""

    cursor: psycopg.ClientCursor[Any]
    load: Load
    filled: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        asked = [
            sql.SQL("SELECT {} WHERE EXISTS (SELECT FROM {})").format(sql.Literal(stage), sql.Identifier(stage))
            for stage in stage_tables()
        ]
        self.cursor.execute(sql.SQL(" UNION ALL ").join(asked))
        self.filled = frozenset(row[0] for row in self.cursor.fetchall())

    @property
    def source(self) -> dict[str, Any]:
        """The parameter that most statements take."""
        return {"source_no": self.load.source_no}

    def filled_tables(self, names: Iterable[str]) -> list[RowTable]:
        """Return those of the named CDM tables for which rows are staged."""
        return [row_table(name) for name in names if row_table(name).stage in self.filled]

    def run(self, name: str, **parameters: Any) -> None:
        """Run the statements of one file."""
        self.cursor.execute((SQL / f"{name}.sql").read_text(), parameters or None)

    def one(self, statement: str | sql.Composed) -> int:
        """Return the number that a statement answers."""
        self.cursor.execute(statement)
        row = self.cursor.fetchone()
        return int(row[0]) if row else 0


def find_references(session: MergeSession) -> None:
    """Rank the copies of each resource, and look up what its references name (E19)."""
    for stage in sorted(session.filled):
        session.cursor.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(stage)))
    session.run("rank_copies")
    session.run("find_candidates", **session.source)
    session.cursor.execute("ANALYZE candidate")
    _collect_wanted(session)
    session.run("read_targets", **session.source)
    session.run("follow_aliases", **session.source)
    session.run("find_targets", **session.source)
    session.cursor.execute("ANALYZE found")


def _collect_wanted(session: MergeSession) -> None:
    """Gather each distinct key that a staged row names, or that waits and may have arrived."""
    parts = [
        sql.SQL("SELECT {column} AS key FROM {stage} WHERE {column} IS NOT NULL GROUP BY {column}").format(
            column=sql.Identifier(column), stage=sql.Identifier(table.stage)
        )
        for table in map(row_table, ROW_TABLES)
        for column in (
            *table.references,
            *(c.name for c in table.values if c.name in ("medication_key", "part_of")),
        )
    ]
    arrived = sql.SQL(
        "SELECT p.wanted_key FROM pending_reference AS p JOIN candidate AS c "
        "ON p.wanted_key = c.resource_type || '/' || c.resource_id WHERE p.source_no = %(source_no)s"
    )
    replaced = sql.SQL(
        "SELECT 'Patient/' || resource_id FROM candidate WHERE resource_type = 'Patient' AND held_no IS NOT NULL"
    )
    statement = sql.SQL(
        "CREATE TEMP TABLE wanted ON COMMIT DROP AS SELECT DISTINCT key FROM ({}) AS k WHERE key IS NOT NULL"
    )
    session.cursor.execute(statement.format(sql.SQL(" UNION ALL ").join([*parts, arrived, replaced])), session.source)


def put_aside(session: MergeSession) -> None:
    """Gather in `dying` what cannot stand: circles, persons who are missing, events without a date (E20, E43)."""
    session.cursor.execute(
        "CREATE TEMP TABLE dying (stage_no bigint PRIMARY KEY, reason text, path text, wanted_key text) ON COMMIT DROP"
    )
    session.cursor.execute(
        "INSERT INTO dying SELECT stage_no, 'link-cycle', 'Patient.link', NULL FROM alias_cycle ON CONFLICT DO NOTHING"
    )
    session.run("find_cycles", **session.source)
    for table in session.filled_tables(ROW_TABLES):
        if "person_id" in table.references:
            session.cursor.execute(_PERSON_MISSING.format(stage=sql.Identifier(table.stage)))
    session.cursor.execute("DELETE FROM found WHERE stage_no IN (SELECT stage_no FROM dying)")
    session.run("encounter_starts", **session.source)
    session.run("births")
    for table in session.filled_tables(ROW_TABLES):
        _fill_dates(session, table)
    session.cursor.execute("DELETE FROM found WHERE stage_no IN (SELECT stage_no FROM dying)")


def _fill_dates(session: MergeSession, table: RowTable) -> None:
    """Date rows by the person's age or by the encounter; what stays without a date cannot stand."""
    columns = [column.name for column in table.values]
    start = next((name for name in columns if name.endswith("_date")), None)
    if start is None or "person_id" not in table.references:
        return
    names = {"stage": sql.Identifier(table.stage), "start": sql.Identifier(start)}
    if not session.one(sql.SQL("SELECT count(*) FROM {stage} WHERE {start} IS NULL").format(**names)):
        return
    session.cursor.execute(_BY_AGE.format(**names))
    if "visit_occurrence_id" in table.references:
        moment = start.replace("_date", "_datetime")
        also = sql.SQL(", {} = e.start_datetime").format(sql.Identifier(moment))
        session.cursor.execute(_BY_ENCOUNTER.format(also=also if moment in columns else sql.SQL(""), **names))
    end = start.replace("_start_", "_end_")
    if end != start and end in columns and table.name != "condition_occurrence":
        session.cursor.execute(
            sql.SQL("UPDATE {stage} SET {end} = {start} WHERE {end} IS NULL AND required_date IS NOT NULL").format(
                end=sql.Identifier(end), **names
            )
        )
    wanted = sql.SQL("s.visit_occurrence_id" if "visit_occurrence_id" in table.references else "NULL")
    session.cursor.execute(_UNDATED.format(wanted=wanted, **names))


_PERSON_MISSING = sql.SQL(
    "INSERT INTO dying SELECT DISTINCT ON (s.stage_no) s.stage_no, "
    "CASE WHEN a.key IS NULL THEN 'person-missing' ELSE 'ambiguous-reference' END, 'subject', s.person_id "
    "FROM {stage} AS s JOIN candidate AS c ON c.stage_no = s.stage_no AND c.state = 'loaded' "
    "LEFT JOIN found AS f ON f.key = s.person_id AND f.resource_type = 'Patient' "
    "LEFT JOIN ambiguous AS a ON a.key = s.person_id "
    "WHERE f.key IS NULL ON CONFLICT DO NOTHING"
)
_BY_AGE = sql.SQL(
    "UPDATE {stage} AS s SET {start} = CAST(b.birth_date + CAST(s.after_birth AS interval) AS date) FROM birth AS b "
    "WHERE s.{start} IS NULL AND s.after_birth IS NOT NULL AND b.key = s.person_id"
)
_BY_ENCOUNTER = sql.SQL(
    "UPDATE {stage} AS s SET {start} = e.start_date, date_source = 'Encounter.period.start'{also} "
    "FROM encounter_start AS e WHERE s.{start} IS NULL AND e.key = s.visit_occurrence_id"
)
_UNDATED = sql.SQL(
    "INSERT INTO dying SELECT DISTINCT ON (s.stage_no) s.stage_no, 'no-date', s.required_date, "
    "{wanted} FROM {stage} AS s "
    "JOIN candidate AS c ON c.stage_no = s.stage_no AND c.state = 'loaded' WHERE s.{start} IS NULL "
    "ON CONFLICT DO NOTHING"
)
