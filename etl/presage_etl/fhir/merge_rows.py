"""The part of the merge that is the same for every CDM table: ids, rows inserted, brought up to date, removed.

A row is written only if it differs, found again by (resource, table, slot), and keeps its id for good (E75–E79).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from presage_etl.fhir.stage import RowTable, row_table
from presage_platform.ledger.identity import next_ids
from presage_platform.ledger.tables import TABLE_NUMBERS

REF_TABLES = {
    "person_id": "ref_person",
    "provider_id": "ref_provider",
    "care_site_id": "ref_care_site",
    "location_id": "ref_location",
    "procedure_occurrence_id": "ref_procedure",
}
"""Column → table (key, row_id) that holds the ids of what is named."""

SLOT_TABLES = {"location_id": "location", "procedure_occurrence_id": "procedure_occurrence"}
VISITS = ("visit_occurrence", "visit_detail")
COMPUTED = frozenset(
    {
        "preceding_visit_occurrence_id",
        "preceding_visit_detail_id",
        "cause_concept_id",
        "cause_source_value",
        "cause_source_concept_id",
    }
)
STAGE_ONLY = frozenset({"medication_key", "part_of"})
REQUIRED = {"image_occurrence": ("procedure_occurrence_id",)}


@dataclass(slots=True)
class Changes:
    """How many rows of each table a merge wrote."""

    inserted: Counter[str] = field(default_factory=Counter)
    updated: Counter[str] = field(default_factory=Counter)
    deleted: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, dict[str, int]]:
        """Return table → what happened → rows."""
        names = sorted({*self.inserted, *self.updated, *self.deleted})
        return {
            name: {
                "inserted": self.inserted[name],
                "updated": self.updated[name],
                "deleted": self.deleted[name],
            }
            for name in names
            if self.inserted[name] or self.updated[name] or self.deleted[name]
        }


@dataclass(slots=True)
class RowMerge:
    """Writes the staged rows of one run, table by table, in the caller's transaction."""

    cursor: psycopg.ClientCursor[Any]
    run_no: int
    source_no: int
    is_first: bool
    changes: Changes = field(default_factory=Changes)

    def execute(self, statement: sql.Composed, **parameters: Any) -> int:
        """Run one statement and return how many rows it wrote."""
        self.cursor.execute(statement, parameters)
        return max(self.cursor.rowcount, 0)

    # --- ids ---

    def assign_ids(self, name: str) -> None:
        """Make `ids_<table>`: the id of each staged row, that of the same slot if it exists, else the next one."""
        table = row_table(name)
        only = sql.SQL(_ONLY.get(name, ""))
        self._number(
            table,
            sql.SQL(
                "SELECT s.stage_no, s.slot, k.resource_no, k.is_new AS resource_is_new FROM {stage} AS s "
                "JOIN kept AS k ON k.stage_no = s.stage_no AND k.state = 'loaded' {only}"
            ).format(stage=sql.Identifier(table.stage), only=only),
        )

    def assign_visit_ids(self, name: str) -> None:
        """Make `ids_<table>` for visits or details, whose rows stand in `want_<table>`."""
        self._number(
            row_table(name),
            sql.SQL(
                "SELECT CAST(NULL AS bigint) AS stage_no, slot, resource_no, false AS resource_is_new FROM {want}"
            ).format(want=sql.Identifier(f"want_{name}")),
        )

    def _number(self, table: RowTable, rows: sql.Composed) -> None:
        statement = sql.SQL(
            "CREATE TEMP TABLE {ids} ON COMMIT DROP AS "
            "SELECT r.stage_no, r.slot, r.resource_no, o.row_id IS NULL AS is_new, "
            "coalesce(o.row_id, %(last)s::bigint + row_number() OVER ("
            'PARTITION BY o.row_id IS NULL ORDER BY r.resource_no, r.slot COLLATE "C")) AS row_id '
            "FROM ({rows}) AS r LEFT JOIN origin AS o "
            "ON NOT r.resource_is_new AND o.resource_no = r.resource_no AND o.table_no = %(number)s AND o.slot = r.slot"
        ).format(ids=_ids(table.name), rows=rows)
        self.execute(statement, last=self.last_id(table.name), number=table.number)
        fresh = self._count(sql.SQL("SELECT count(*) FROM {} WHERE is_new").format(_ids(table.name)))
        next_ids(self.cursor.connection, table.name, fresh)

    def last_id(self, counter: str) -> int:
        """Return the highest id that was ever given."""
        self.cursor.execute("SELECT last_id FROM id_counter WHERE name = %(name)s", {"name": counter})
        row = self.cursor.fetchone()
        return int(row[0]) if row else 0

    def _count(self, statement: sql.Composed) -> int:
        self.cursor.execute(statement)
        row = self.cursor.fetchone()
        return int(row[0]) if row else 0

    # --- rows ---

    def write(self, name: str) -> None:
        """Insert the new rows of a table and bring the others up to date; their origins too."""
        table = row_table(name)
        columns = [c.name for c in table.columns if c.name not in COMPUTED | STAGE_ONLY | {table.key}]
        rows = self._wanted_rows(table, columns) if name in VISITS else self._staged_rows(table, columns)
        if name in REQUIRED:
            self.execute(
                sql.SQL("DELETE FROM {ids} WHERE row_id NOT IN (SELECT row_id FROM ({rows}) AS r)").format(
                    ids=_ids(name), rows=rows
                )
            )
        self._insert(table, columns, rows)
        if not self.is_first:
            self._update(table, columns, rows)
        self._write_origins(table)

    def _wanted_rows(self, table: RowTable, columns: list[str]) -> sql.Composed:
        wanted = sql.Identifier(f"want_{table.name}")
        expressions = [
            sql.SQL("parent.row_id")
            if name == "parent_visit_detail_id"
            else sql.SQL("w.{}").format(sql.Identifier(name))
            for name in columns
        ]
        parent = sql.SQL(
            "LEFT JOIN ids_visit_detail AS parent ON parent.resource_no = w.parent_no AND parent.slot = 'main'"
            if table.name == "visit_detail"
            else ""
        )
        return sql.SQL(
            "SELECT i.row_id, i.is_new, {expressions} FROM {wanted} AS w "
            "JOIN {ids} AS i ON i.resource_no = w.resource_no AND i.slot = w.slot {parent}"
        ).format(expressions=_selected(expressions, columns), wanted=wanted, ids=_ids(table.name), parent=parent)

    def _staged_rows(self, table: RowTable, columns: list[str]) -> sql.Composed:
        expressions = [_expression(table, name) for name in columns]
        joins = [_join(table, name) for name in columns if name in table.references]
        return sql.SQL(
            "SELECT i.row_id, i.is_new, {expressions} FROM {ids} AS i "
            "JOIN {stage} AS s ON s.stage_no = i.stage_no AND s.slot = i.slot {joins} {required}"
        ).format(
            expressions=_selected(expressions, columns),
            ids=_ids(table.name),
            stage=sql.Identifier(table.stage),
            joins=sql.SQL(" ").join(joins),
            required=_required(table),
        )

    def _insert(self, table: RowTable, columns: list[str], rows: sql.Composed) -> None:
        listed = sql.SQL(", ").join(map(sql.Identifier, columns))
        keyed = table.key not in columns
        statement = sql.SQL(
            "INSERT INTO {table} ({key}{columns}) SELECT {row_id}{columns} FROM ({rows}) AS r WHERE is_new"
        )
        number = self.execute(
            statement.format(
                table=sql.Identifier(table.name),
                key=sql.SQL("{}, ").format(sql.Identifier(table.key)) if keyed else sql.SQL(""),
                row_id=sql.SQL("row_id, " if keyed else ""),
                columns=listed,
                rows=rows,
            )
        )
        self.changes.inserted[table.name] += number

    def _update(self, table: RowTable, columns: list[str], rows: sql.Composed) -> None:
        columns = [name for name in columns if name != table.key]
        if "person_id" in columns:
            self._touch_former_persons(table, rows)
        typed = sql.SQL(", ").join(sql.SQL("{c} = r.{c}").format(c=sql.Identifier(name)) for name in columns)
        old = sql.SQL(", ").join(sql.SQL("t.{}").format(sql.Identifier(name)) for name in columns)
        new = sql.SQL(", ").join(sql.SQL("r.{}").format(sql.Identifier(name)) for name in columns)
        statement = sql.SQL(
            "UPDATE {table} AS t SET {typed} FROM ({rows}) AS r "
            "WHERE NOT r.is_new AND t.{key} = r.row_id AND ({old}) IS DISTINCT FROM ({new})"
        ).format(
            table=sql.Identifier(table.name), typed=typed, rows=rows, key=sql.Identifier(table.key), old=old, new=new
        )
        self.changes.updated[table.name] += self.execute(statement)

    def _touch_former_persons(self, table: RowTable, rows: sql.Composed) -> None:
        """Note the persons that lose a row to another one: what is derived for them changes too (E83)."""
        statement = sql.SQL(
            "INSERT INTO touched_person SELECT DISTINCT %(run_no)s::bigint, t.person_id FROM {table} AS t "
            "JOIN ({rows}) AS r ON r.row_id = t.{key} "
            "WHERE NOT r.is_new AND t.person_id IS DISTINCT FROM r.person_id ON CONFLICT DO NOTHING"
        ).format(table=sql.Identifier(table.name), rows=rows, key=sql.Identifier(table.key))
        self.execute(statement, run_no=self.run_no)

    def _write_origins(self, table: RowTable) -> None:
        staged = table.name not in VISITS
        source = sql.SQL(
            "JOIN {stage} AS s ON s.stage_no = i.stage_no AND s.slot = i.slot"
            if staged
            else "JOIN {stage} AS s ON s.resource_no = i.resource_no AND s.slot = i.slot"
        ).format(stage=sql.Identifier(table.stage if staged else f"want_{table.name}"))
        flags = sql.SQL("CAST(NULL AS text)" if staged else "s.flags")
        held = sql.Identifier("kept" if staged else "resource")
        parameters = {"number": table.number, "run_no": self.run_no}
        self.execute(_INSERT_ORIGINS.format(ids=_ids(table.name), source=source, flags=flags, held=held), **parameters)
        if not self.is_first:
            self.execute(
                _UPDATE_ORIGINS.format(ids=_ids(table.name), source=source, flags=flags, held=held), **parameters
            )

    # --- rows that are no longer produced ---

    def delete_vanished(self, name: str) -> None:
        """Remove rows whose resource was written again, or deleted, without them (E79)."""
        if self.is_first:
            return
        table = row_table(name)
        resources = "affected" if name in VISITS else "kept"
        find = sql.SQL(
            "CREATE TEMP TABLE {gone} ON COMMIT DROP AS SELECT o.row_id, o.resource_no FROM origin AS o "
            "WHERE o.table_no = %(number)s AND o.resource_no IN (SELECT resource_no FROM {resources}) "
            "AND o.slot !~ '^address:' AND NOT EXISTS (SELECT FROM {ids} AS i WHERE i.row_id = o.row_id)"
        ).format(gone=_gone(name), ids=_ids(name), resources=sql.Identifier(resources))
        self.execute(find, number=table.number)
        if not self._count(sql.SQL("SELECT count(*) FROM {}").format(_gone(name))):
            return
        if "person_id" in table.references and name != "death":
            self.execute(
                sql.SQL(
                    "INSERT INTO touched_person SELECT DISTINCT %(run_no)s::bigint, t.person_id FROM {table} AS t "
                    "JOIN {gone} AS g ON g.row_id = t.{key} ON CONFLICT DO NOTHING"
                ).format(table=sql.Identifier(name), gone=_gone(name), key=sql.Identifier(table.key)),
                run_no=self.run_no,
            )
        self.changes.deleted[name] += self.execute(
            sql.SQL("DELETE FROM {table} AS t USING {gone} AS g WHERE t.{key} = g.row_id").format(
                table=sql.Identifier(name), gone=_gone(name), key=sql.Identifier(table.key)
            )
        )
        for ledger in ("origin", "pending_reference", "long_value"):
            self.execute(
                sql.SQL(
                    "DELETE FROM {ledger} AS t USING {gone} AS g WHERE t.table_no = %(number)s AND t.row_id = g.row_id"
                ).format(ledger=sql.Identifier(ledger), gone=_gone(name)),
                number=table.number,
            )

    # --- references that lead nowhere yet ---

    def remember_pending(self, name: str) -> None:
        """Keep which references of a table's rows wait for their target (E20)."""
        table = row_table(name)
        if not self.is_first:
            self.execute(
                sql.SQL(
                    "DELETE FROM pending_reference AS p USING {ids} AS i WHERE p.table_no = %(number)s AND p.row_id "
                    "= i.row_id"
                ).format(ids=_ids(name)),
                number=table.number,
            )
        for column in table.references:
            lookup = "ref_visit" if column == "visit_occurrence_id" else REF_TABLES.get(column)
            if lookup is None or column in ("person_id", *REQUIRED.get(name, ())):
                continue
            self.execute(
                sql.SQL(
                    "INSERT INTO pending_reference (table_no, row_id, column_name, source_no, wanted_key) "
                    "SELECT %(number)s, i.row_id, %(column)s, %(source_no)s, s.{column} FROM {ids} AS i "
                    "JOIN {stage} AS s ON s.stage_no = i.stage_no AND s.slot = i.slot "
                    "LEFT JOIN {lookup} AS f ON f.key = s.{column} "
                    "WHERE s.{column} IS NOT NULL AND f.key IS NULL AND NOT starts_with(s.{column}, 'slot:')"
                ).format(
                    column=sql.Identifier(column),
                    ids=_ids(name),
                    stage=sql.Identifier(table.stage),
                    lookup=sql.Identifier(lookup),
                ),
                number=table.number,
                column=column,
                source_no=self.source_no,
            )


_ONLY = {
    # an address of a patient is shared: addresses.sql
    "location": "AND s.rule <> 47",
    # a series has one row, whoever named it first
    "image_occurrence": (
        "AND NOT EXISTS (SELECT FROM image_occurrence AS x LEFT JOIN origin AS xo "
        "ON xo.table_no = 30 AND xo.row_id = x.image_occurrence_id "
        "WHERE x.image_series_uid = s.image_series_uid AND xo.resource_no IS DISTINCT FROM k.resource_no) "
        "AND NOT EXISTS (SELECT FROM stage_image_occurrence AS s2 JOIN kept AS k2 ON k2.stage_no = s2.stage_no "
        "WHERE s2.image_series_uid = s.image_series_uid AND k2.resource_no < k.resource_no)"
    ),
}
_INSERT_ORIGINS = sql.SQL(
    "INSERT INTO origin (table_no, row_id, resource_no, slot, run_no, file_no, byte_offset, line, version_id, rule, "
    "date_source, imputed, flags) "
    "SELECT %(number)s, i.row_id, i.resource_no, i.slot, %(run_no)s, r.file_no, r.byte_offset, r.line, r.version_id, "
    "s.rule, s.date_source, s.imputed, {flags} "
    "FROM {ids} AS i {source} JOIN {held} AS r ON r.resource_no = i.resource_no WHERE i.is_new"
)
_UPDATE_ORIGINS = sql.SQL(
    "UPDATE origin AS o SET run_no = %(run_no)s, file_no = r.file_no, byte_offset = r.byte_offset, line = r.line, "
    "version_id = r.version_id, rule = s.rule, date_source = s.date_source, imputed = s.imputed, flags = {flags} "
    "FROM {ids} AS i {source} JOIN {held} AS r ON r.resource_no = i.resource_no "
    "WHERE NOT i.is_new AND o.table_no = %(number)s AND o.row_id = i.row_id"
)


def _ids(name: str) -> sql.Identifier:
    return sql.Identifier(f"ids_{name}")


def _gone(name: str) -> sql.Identifier:
    return sql.Identifier(f"gone_{name}")


def _selected(expressions: list[Any], columns: list[str]) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(expression, sql.Identifier(name))
        for expression, name in zip(expressions, columns, strict=True)
    )


def _alias(column: str) -> sql.Identifier:
    return sql.Identifier(f"by_{column}")


def _expression(table: RowTable, column: str) -> sql.Composed:
    if column not in table.references:
        return sql.SQL("s.{}").format(sql.Identifier(column))
    if column == "visit_detail_id":
        return sql.SQL("by_visit_occurrence_id.visit_detail_id").format()
    if column == "visit_occurrence_id":
        return sql.SQL("by_visit_occurrence_id.visit_occurrence_id").format()
    if column in SLOT_TABLES:
        return sql.SQL("coalesce({}.row_id, {}.row_id)").format(_alias(column), sql.Identifier(f"own_{column}"))
    return sql.SQL("{}.row_id").format(_alias(column))


def _join(table: RowTable, column: str) -> sql.Composed:
    """Return the join that finds the id of what a column names; by slot for a row of the same resource."""
    if column == "visit_detail_id" or column in COMPUTED:
        return sql.SQL("").format()
    names = {"column": sql.Identifier(column), "alias": _alias(column)}
    if column == "visit_occurrence_id":
        return sql.SQL("LEFT JOIN ref_visit AS {alias} ON {alias}.key = s.{column}").format(**names)
    if column == "person_id":
        return sql.SQL("JOIN ref_person AS {alias} ON {alias}.key = s.{column}").format(**names)
    if column not in REF_TABLES:
        return sql.SQL(
            "LEFT JOIN slot_event AS {alias} ON {alias}.stage_no = s.stage_no AND {alias}.ref = s.{column}"
        ).format(**names)
    named = sql.SQL("LEFT JOIN {lookup} AS {alias} ON {alias}.key = s.{column}").format(
        lookup=sql.Identifier(REF_TABLES[column]), **names
    )
    if column not in SLOT_TABLES:
        return named
    own = sql.SQL(
        " LEFT JOIN slot_row AS {own} ON {own}.stage_no = s.stage_no AND {own}.ref = s.{column} AND "
        "{own}.table_no = {number}"
    ).format(own=sql.Identifier(f"own_{column}"), number=sql.Literal(TABLE_NUMBERS[SLOT_TABLES[column]]), **names)
    return sql.SQL("{}{}").format(named, own)


def _required(table: RowTable) -> sql.Composed:
    """Leave out rows that cannot stand without what they name; the merge has counted them."""
    conditions = [
        sql.SQL("{} IS NOT NULL").format(_expression(table, column)) for column in REQUIRED.get(table.name, ())
    ]
    if not conditions:
        return sql.SQL("").format()
    return sql.SQL("WHERE {}").format(sql.SQL(" AND ").join(conditions))
