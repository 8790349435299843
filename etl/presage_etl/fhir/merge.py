"""The merge: staged rows become CDM rows, in one transaction (E19, E20, E75–E79, E88).

Set based from end to end: copies of a resource are ranked, references looked up, what cannot stand is put aside with a
reason, resources and rows are numbered in the order of their keys, and rows are written in the order of the foreign
keys. A kill at any moment leaves the state before or the state after.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from presage_etl.fhir.again import read_again
from presage_etl.fhir.bulk_load import WORTH_IT_ROWS, without_indexes
from presage_etl.fhir.merge_keys import MergeSession, find_references, put_aside
from presage_etl.fhir.merge_letters import Payloads, write_letters
from presage_etl.fhir.merge_rows import REF_TABLES, VISITS, Changes, RowMerge
from presage_etl.fhir.partition import Load
from presage_etl.fhir.stage import ROW_TABLES, RowTable, row_table
from presage_platform.ledger.identity import RESOURCE_COUNTER, next_ids
from presage_platform.ledger.tables import TABLE_NUMBERS

STAGED = tuple(name for name in ROW_TABLES if name not in VISITS)
SITES = ("location", "care_site", "provider", "person")
EVENTS = tuple(name for name in STAGED if name not in (*SITES, "death"))
WITH_VISITS = tuple(name for name in EVENTS if "visit_occurrence_id" in row_table(name).references)

VISIT_TABLES = frozenset(VISITS)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many resources of one file and type ended in one way."""

    file_no: int
    resource_type: str
    outcome: str
    reason: str | None
    count: int


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did."""

    outcomes: list[Outcome]
    changes: Changes


def merge(connection: psycopg.Connection[Any], load: Load, payloads: Payloads) -> Merged:
    """Merge what is staged, in the caller's transaction."""
    return _Merge(connection, load, payloads).run()


class _Merge:
    def __init__(self, connection: psycopg.Connection[Any], load: Load, payloads: Payloads) -> None:
        self.connection, self.load, self.payloads = connection, load, payloads
        self.cursor = psycopg.ClientCursor(connection)
        self.rows = RowMerge(self.cursor, load.run_no, load.source_no, load.is_first)
        self.session = MergeSession(self.cursor, load)
        self.active: frozenset[str] = frozenset()

    def run(self) -> Merged:
        # tables of one merge are wide and short-lived: a small sample tells the planner enough
        self.cursor.execute("SET LOCAL default_statistics_target = 10")
        if not self.load.is_first:
            self.cursor.execute("SET CONSTRAINTS ALL DEFERRED")
        find_references(self.session)
        put_aside(self.session)
        with self._indexes_aside():
            self._number_resources()
            self._write_sites_and_persons()
            self._write_visits()
            self._write_events()
        self._remove_persons()
        self._finish_references()
        outcomes = self._outcomes()
        write_letters(self.session, self.connection, self.payloads)
        return Merged(outcomes, self.rows.changes)

    def _indexes_aside(self) -> AbstractContextManager[None]:
        """Build indexes after the rows when there are many, and none before (E91)."""
        if not self.load.is_first or self.session.one("SELECT count(*) FROM candidate") < WORTH_IT_ROWS:
            return nullcontext()
        tables = [name for name in EVENTS if self._is_empty(name)]
        ledger = [name for name in ("resource", "origin") if self._is_empty(name)]
        return without_indexes(self.connection, [*tables, *ledger])

    def _is_empty(self, table: str) -> bool:
        some = sql.SQL("SELECT count(*) FROM (SELECT FROM {} LIMIT 1) AS t").format(sql.Identifier(table))
        return not self.session.one(some)

    # --- resources ---

    def _number_resources(self) -> None:
        self.session.run("number_resources", last_no=self.rows.last_id(RESOURCE_COUNTER))
        self.cursor.execute("ANALYZE kept")
        next_ids(self.connection, RESOURCE_COUNTER, self.session.one("SELECT count(*) FROM kept WHERE is_new"))
        load = self.load
        self.session.run(
            "write_resources", source_no=load.source_no, transform_no=load.transform_no, run_no=load.run_no
        )
        self.cursor.execute(
            "CREATE TEMP TABLE located ON COMMIT DROP AS "
            "SELECT f.key, f.resource_type, coalesce(k.resource_no, f.held_no) AS resource_no "
            "FROM found AS f LEFT JOIN kept AS k ON k.stage_no = f.stage_no"
        )

        self._find_active()

    def _find_active(self) -> None:
        """Find the tables that this run may write: rows are staged, or a resource that is written again has some."""
        names = {number: name for name, number in TABLE_NUMBERS.items()}
        self.cursor.execute(
            "SELECT DISTINCT o.table_no FROM kept AS k JOIN origin AS o ON o.resource_no = k.resource_no "
            "WHERE NOT k.is_new"
        )
        held = {names[row[0]] for row in self.cursor.fetchall()}
        self.active = frozenset({table.name for table in self.session.filled_tables(ROW_TABLES)} | held)

    # --- rows ---

    def _write_sites_and_persons(self) -> None:
        self._fan_out_medications()
        for name in self._active(STAGED):
            if name != "death":
                self.rows.assign_ids(name)
        self.session.run("addresses", last_id=self.rows.last_id("location"))
        self._write_addresses()
        self._find_own_rows()
        for name in SITES:
            if name in self.active:
                self.rows.write(name)
            self._look_up(name)
        self._write_deaths()

    def _active(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name in self.active]

    def _look_up(self, name: str) -> None:
        """Make `ref_<table>`: the id of each named row of a table that is now complete."""
        lookup = "ref_procedure" if name == "procedure_occurrence" else f"ref_{name}"
        self._count_origins()
        self.cursor.execute(
            sql.SQL(
                "CREATE TEMP TABLE {lookup} ON COMMIT DROP AS SELECT l.key, o.row_id FROM located AS l "
                "JOIN origin AS o ON o.resource_no = l.resource_no AND o.table_no = {number} AND o.slot IN "
                "('main', 'site')"
            ).format(lookup=sql.Identifier(lookup), number=sql.Literal(TABLE_NUMBERS[name]))
        )
        self.cursor.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(lookup)))

    def _count_origins(self) -> None:
        """Tell the planner how many origins there are: in a first load they are new, and have no index yet."""
        if self.load.is_first:
            self.cursor.execute("ANALYZE origin; ANALYZE located")

    def _write_addresses(self) -> None:
        names = [sql.Identifier(column.name) for column in row_table("location").columns]
        staged = sql.SQL(", ").join(sql.SQL("s.{}").format(name) for name in names)
        number = self.rows.execute(_ADDRESS_ROWS.format(columns=sql.SQL(", ").join(names), staged=staged))
        self.rows.changes.inserted["location"] += number
        next_ids(self.connection, "location", number)
        self.rows.execute(_ADDRESS_ORIGINS.format(), run_no=self.load.run_no)

    def _find_own_rows(self) -> None:
        """Find the rows of the same resource that staged rows name by slot."""
        tables = [row_table(name) for name in self._active((*SITES, *EVENTS))]
        wanted = [
            sql.SQL("SELECT stage_no, {c} AS ref FROM {stage} WHERE starts_with({c}, 'slot:')").format(
                c=sql.Identifier(column), stage=sql.Identifier(table.stage)
            )
            for table in tables
            for column in table.references
            if column != "person_id"
        ]
        wanted.insert(0, sql.SQL("SELECT NULL::bigint AS stage_no, NULL::text AS ref WHERE false").format())
        self.cursor.execute(
            sql.SQL(
                "CREATE TEMP TABLE slot_wanted ON COMMIT DROP AS SELECT DISTINCT stage_no, ref FROM ({}) AS w"
            ).format(sql.SQL(" UNION ALL ").join(wanted))
        )
        self.cursor.execute("ANALYZE slot_wanted")
        owned = [
            sql.SQL(
                "SELECT w.stage_no, w.ref, {number} AS table_no, i.row_id FROM slot_wanted AS w "
                "JOIN {ids} AS i ON i.stage_no = w.stage_no AND i.slot = substr(w.ref, 6)"
            ).format(number=sql.Literal(table.number), ids=sql.Identifier(f"ids_{table.name}"))
            for table in tables
        ]
        statement = sql.SQL("CREATE TEMP TABLE slot_row ON COMMIT DROP AS {}")
        self.cursor.execute(statement.format(sql.SQL(" UNION ALL ").join([*owned, _OWN_ADDRESSES.format()])))
        self.cursor.execute(
            "CREATE TEMP TABLE slot_event ON COMMIT DROP AS SELECT DISTINCT ON (stage_no, ref) stage_no, ref, row_id "
            "FROM slot_row ORDER BY stage_no, ref, table_no; ANALYZE slot_row; ANALYZE slot_event"
        )

    def _fan_out_medications(self) -> None:
        if not {"stage_drug_exposure", "stage_medication"} & self.session.filled:
            return
        self.session.run("medications")
        table = row_table("drug_exposure")
        replaced = {
            "slot": "p.slot",
            "drug_concept_id": "p.target_concept_id",
            "drug_source_concept_id": "p.source_concept_id",
            "drug_source_value": "left(p.source_code, 50)",
            "quantity": "NULL",
            "refills": "NULL",
            "days_supply": "NULL",
        }
        extras = ("stage_no", "slot", "rule", "required_date", "after_birth", "date_source", "imputed")
        names = [*extras, *(column.name for column in table.columns)]
        statement = sql.SQL(
            "INSERT INTO stage_drug_exposure ({names}) SELECT {values} FROM prescribed AS p "
            "JOIN stage_drug_exposure AS s ON s.stage_no = p.stage_no AND s.medication_key IS NOT NULL "
            "JOIN prescribed AS one ON one.stage_no = p.stage_no AND one.rank = 1 AND one.slot = s.slot "
            "WHERE p.rank > 1"
        )
        values = [
            sql.SQL(replaced[name]) if name in replaced else sql.SQL("s.{}").format(sql.Identifier(name))
            for name in names
        ]
        self.cursor.execute(
            statement.format(names=sql.SQL(", ").join(map(sql.Identifier, names)), values=sql.SQL(", ").join(values))
        )

    def _write_deaths(self) -> None:
        """One death a person: the source that came first stays (E48)."""
        if "death" in self.active:
            self.session.run("deaths")
            self.rows.write("death")

    def _write_visits(self) -> None:
        """Work out visits and details of the Encounters of this run, and of those they hang together with."""
        if VISIT_TABLES & self.active:
            self._place_encounters()
        self._count_origins()
        self.session.run("ref_visits")
        self.cursor.execute("ANALYZE ref_visit")
        if VISIT_TABLES & self.active:
            self._move_events()
            self.session.run("pending_visits", **self.session.source)

    def _place_encounters(self) -> None:
        self.session.run("old_places", **self.session.source)
        self.session.run("write_encounters", **self.session.source)
        merge_emergency = self.load.policies["ed_to_inpatient"] == "merge"
        self.session.run("place_encounters", merge_emergency=merge_emergency, **self.session.source)
        self.cursor.execute("ANALYZE place")
        if not self.load.is_first:
            self.session.run("widen_references", **self.session.source)
        self.session.run("want_visits")
        self.rows.assign_visit_ids("visit_occurrence")
        self.rows.write("visit_occurrence")
        self.session.run("want_details")
        self.rows.assign_visit_ids("visit_detail")
        self.rows.write("visit_detail")
        for name in reversed(VISITS):
            self.rows.delete_vanished(name)

    def _move_events(self) -> None:
        """Let events follow an Encounter that stands elsewhere now (E20, E52)."""
        if self.load.is_first:
            return
        self.session.run("moves")
        if not self.session.one("SELECT count(*) FROM move"):
            return
        for name in WITH_VISITS:
            has_detail = "visit_detail_id" in row_table(name).references
            statement = _MOVE if has_detail else _MOVE_WITHOUT_DETAIL
            number = self.rows.execute(statement.format(table=sql.Identifier(name)))
            self.rows.changes.updated[name] += number

    def _write_events(self) -> None:
        for name in EVENTS:
            if name in self.active:
                self.rows.write(name)
            if name == "procedure_occurrence":
                self._look_up(name)
        for name in self._active(("care_site", "provider", "person", *EVENTS)):
            self.rows.remember_pending(name)
        for name in reversed(self._active((*SITES, "death", *EVENTS))):
            if name != "person":
                self.rows.delete_vanished(name)

    def _remove_persons(self) -> None:
        """Take away persons whose Patient went; who was replaced leaves the events to the other (E22, E80)."""
        if self.load.is_first or "person" not in self.active:
            return
        self.session.run("gone_persons")
        if not self.session.one("SELECT count(*) FROM gone_person"):
            return
        tables = [row_table(name) for name in ROW_TABLES if "person_id" in row_table(name).references]
        for table in tables:
            if table.name != "death":
                number = self.rows.execute(_HAND_OVER.format(table=sql.Identifier(table.name)))
                self.rows.changes.updated[table.name] += number
        parts = [
            sql.SQL(
                "SELECT o.resource_no, g.wanted_key FROM {table} AS t JOIN gone_person AS g ON g.person_id = "
                "t.person_id "
                "JOIN origin AS o ON o.table_no = {number} AND o.row_id = t.{key} WHERE o.resource_no <> g.resource_no"
            ).format(table=sql.Identifier(table.name), number=sql.Literal(table.number), key=sql.Identifier(table.key))
            for table in tables
        ]
        orphans = sql.SQL("CREATE TEMP TABLE orphan ON COMMIT DROP AS SELECT DISTINCT * FROM ({}) AS o")
        self.cursor.execute(orphans.format(sql.SQL(" UNION ALL ").join(parts)))
        for table in tables:
            number = self.rows.execute(
                sql.SQL("DELETE FROM {} AS t USING gone_person AS g WHERE t.person_id = g.person_id").format(
                    sql.Identifier(table.name)
                )
            )
            self.rows.changes.deleted[table.name] += number
        self._write_orphans()
        self.session.run("remove_persons")
        self.rows.changes.deleted["person"] += self.cursor.rowcount

    def _write_orphans(self) -> None:
        """Keep what lost its person as dead letters: it returns with the Patient."""
        self.cursor.execute(
            "CREATE TEMP TABLE orphan_payload (resource_no bigint PRIMARY KEY, payload bytea) ON COMMIT DROP"
        )
        if self.load.keep_payload:
            self.cursor.execute(
                "SELECT r.resource_no, f.path, f.sha256, r.byte_offset FROM orphan AS o JOIN resource AS r "
                "USING (resource_no) "
                "JOIN source_file AS f ON f.file_no = r.file_no"
            )
            found = read_again(self.cursor.fetchall())
            self.cursor.executemany("INSERT INTO orphan_payload VALUES (%s, %s)", list(found.items()))
        self.session.run("orphans", source_no=self.load.source_no, run_no=self.load.run_no)

    # --- what depends on everything ---

    def _finish_references(self) -> None:
        self._complete_pending()
        if {"condition_occurrence", *VISITS} & self.active:
            self.session.run("diagnosis_roles", **self.session.source)
        self.session.run("identifiers")
        self.session.run("long_values")
        if "stage_unmapped" in self.session.filled or not self.load.is_first:
            self.session.run("unmapped")
        self.session.run("touch_persons", run_no=self.load.run_no)
        self.session.run("preceding_visits", run_no=self.load.run_no)
        self.session.run("borrowed_dates", run_no=self.load.run_no)

    def _complete_pending(self) -> None:
        """Complete rows whose target has come (E20)."""
        if self.load.is_first:
            return
        self.cursor.execute(
            "SELECT DISTINCT p.table_no, p.column_name FROM pending_reference AS p JOIN located AS l ON "
            "l.key = p.wanted_key "
            "WHERE p.source_no = %(source_no)s ORDER BY 1, 2",
            self.session.source,
        )
        names = {number: name for name, number in TABLE_NUMBERS.items()}
        for table_no, column in self.cursor.fetchall():
            self._complete(row_table(names[table_no]), column)

    def _complete(self, table: RowTable, column: str) -> None:
        if column == "visit_occurrence_id":
            lookup, assignment = "ref_visit", sql.SQL("visit_occurrence_id = f.visit_occurrence_id").format()
            if "visit_detail_id" in table.references:
                assignment += sql.SQL(", visit_detail_id = f.visit_detail_id")
        else:
            lookup = REF_TABLES[column]
            assignment = sql.SQL("{} = f.row_id").format(sql.Identifier(column))
        parameters = {"number": table.number, "column": column, "source_no": self.load.source_no}
        names = {
            "table": sql.Identifier(table.name),
            "key": sql.Identifier(table.key),
            "lookup": sql.Identifier(lookup),
            "assignment": assignment,
        }
        self.rows.changes.updated[table.name] += self.rows.execute(_COMPLETE.format(**names), **parameters)
        self.rows.execute(_COMPLETED.format(**names), **parameters)

    # --- accounts ---

    def _outcomes(self) -> list[Outcome]:
        self.session.run("outcomes")
        return [Outcome(*row) for row in self.cursor.fetchall()]


_HAND_OVER = sql.SQL(
    "UPDATE {table} AS t SET person_id = g.heir_id FROM gone_person AS g "
    "WHERE t.person_id = g.person_id AND g.heir_id IS NOT NULL"
)
_ADDRESS_ROWS = sql.SQL(
    "INSERT INTO location (location_id, {columns}) SELECT a.row_id, {staged} FROM address AS a "
    "JOIN kept AS k ON k.resource_no = a.resource_no "
    "JOIN stage_location AS s ON s.stage_no = k.stage_no AND s.rule = 47 WHERE a.is_new"
)
_ADDRESS_ORIGINS = sql.SQL(
    "INSERT INTO origin (table_no, row_id, resource_no, slot, run_no, file_no, byte_offset, line, version_id, rule) "
    "SELECT 16, a.row_id, a.resource_no, a.content, %(run_no)s, k.file_no, k.byte_offset, k.line, k.version_id, 47 "
    "FROM address AS a JOIN kept AS k ON k.resource_no = a.resource_no WHERE a.is_new"
)
_OWN_ADDRESSES = sql.SQL(
    "SELECT s.stage_no, 'slot:address' AS ref, 16 AS table_no, a.row_id FROM stage_location AS s "
    "JOIN address AS a ON a.content = "
    "'address:' || concat_ws('|', coalesce(s.state, ''), coalesce(s.zip, ''), coalesce(s.country_source_value, '')) "
    "WHERE s.rule = 47"
)
_MOVE = sql.SQL(
    "UPDATE {table} AS t SET visit_occurrence_id = m.new_visit, visit_detail_id = m.new_detail FROM move AS m "
    "WHERE t.visit_occurrence_id = m.old_visit AND t.visit_detail_id IS NOT DISTINCT FROM m.old_detail"
)
_MOVE_WITHOUT_DETAIL = sql.SQL(
    "UPDATE {table} AS t SET visit_occurrence_id = m.new_visit FROM move AS m "
    "WHERE t.visit_occurrence_id = m.old_visit AND m.old_detail IS NULL AND m.new_visit IS DISTINCT FROM m.old_visit"
)
_COMPLETE = sql.SQL(
    "UPDATE {table} AS t SET {assignment} FROM pending_reference AS p JOIN {lookup} AS f ON f.key = p.wanted_key "
    "WHERE p.table_no = %(number)s AND p.column_name = %(column)s AND p.source_no = %(source_no)s "
    "AND t.{key} = p.row_id"
)
_COMPLETED = sql.SQL(
    "DELETE FROM pending_reference AS p USING {lookup} AS f "
    "WHERE f.key = p.wanted_key AND p.table_no = %(number)s AND p.column_name = %(column)s AND "
    "p.source_no = %(source_no)s"
)
