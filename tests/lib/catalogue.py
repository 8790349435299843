"""A database's catalogue as plain values, so that two ways to the same schema can be compared whole."""

from __future__ import annotations

from typing import Any

import psycopg

Catalogue = dict[str, set[tuple[Any, ...]]]

QUERIES = {
    "columns": """
        SELECT n.nspname, c.relname, c.relkind::text, c.relpersistence::text, a.attname,
               format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text,
               pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
        FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE n.nspname = ANY(%(schemas)s) AND c.relkind IN ('r', 'p', 'v', 'm')""",
    "comments": """
        SELECT n.nspname, c.relname, obj_description(c.oid, 'pg_class')
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = ANY(%(schemas)s) AND c.relkind IN ('r', 'p', 'v', 'm')""",
    "constraints": """
        SELECT n.nspname, r.relname, c.conname, pg_get_constraintdef(c.oid)
        FROM pg_constraint AS c JOIN pg_class AS r ON r.oid = c.conrelid
        JOIN pg_namespace AS n ON n.oid = r.relnamespace
        WHERE n.nspname = ANY(%(schemas)s)""",
    "indexes": """
        SELECT schemaname, tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = ANY(%(schemas)s)""",
    "sequences": """
        SELECT schemaname, sequencename, data_type::text, start_value, increment_by
        FROM pg_sequences WHERE schemaname = ANY(%(schemas)s)""",
}


def catalogue_of(connection: psycopg.Connection[Any], schemas: list[str]) -> Catalogue:
    """Return tables, columns, constraints, indexes, sequences and comments; Alembic's own table is left out."""
    connection.execute("SET LOCAL search_path TO pg_catalog")  # else definitions leave out the schema of a table
    found: Catalogue = {}
    for kind, query in QUERIES.items():
        rows = connection.execute(query, {"schemas": schemas}).fetchall()
        found[kind] = {row for row in rows if row[1] != "alembic_version"}
    return found
