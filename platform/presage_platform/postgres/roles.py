"""The three roles: who writes, who reads, and the walled-in login as which SQL tasks run.

Statements that the login may not issue are collected instead of failing: a hospital's administrator runs them, and
commands that need the wall refuse until then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Table

from presage_platform.omop.tables import TABLES
from presage_platform.postgres.schema import Schemas

ETL, READER, TASKS = "presage_etl", "presage_reader", "presage_tasks"
NOT_GRANTED = frozenset({"01006", "01007"})  # privilege_not_revoked, privilege_not_granted
HIDDEN_TABLES = frozenset({"note", "note_nlp"})

ROLE_SETTINGS: dict[str, dict[str, str]] = {
    ETL: {"lock_timeout": "60s", "idle_in_transaction_session_timeout": "1h"},
    READER: {"default_transaction_read_only": "on", "statement_timeout": "1h", "lock_timeout": "30s"},
    TASKS: {
        "default_transaction_read_only": "on",
        "statement_timeout": "15min",
        "lock_timeout": "5s",
        "idle_in_transaction_session_timeout": "60s",
        "row_security": "on",
        "temp_file_limit": "20GB",
    },
}

# Functions that PUBLIC may run and that act beyond the rows of a query: waiting, locking, large objects, messages,
# other connections, text that is run as SQL, settings.
REVOKED_FUNCTIONS = (
    "^(pg_sleep(_for|_until)?|pg_(try_)?advisory_.*|lo_.*|lo(read|write)|dblink.*|pg_notify|pg_logical_emit_message"
    "|(query|table|schema|database|cursor)_to_xml.*|set_config|pg_export_snapshot|pg_cancel_backend"
    "|pg_terminate_backend)$"
)


def grant_roles(connection: psycopg.Connection[Any], schemas: Schemas) -> list[str]:
    """Make the roles and their rights, again if need be; return the statements that the login was refused."""
    statements = _statements(connection, schemas)
    return [statement.as_string(connection) for statement in statements if not _try(connection, statement)]


def administrator_sql(connection: psycopg.Connection[Any], schemas: Schemas) -> list[str]:
    """Return every statement of `grant_roles`, for an administrator to run where the login may not."""
    return [f"{statement.as_string(connection)};" for statement in _statements(connection, schemas)]


def database_rights(connection: psycopg.Connection[Any], schemas: Schemas) -> Iterator[sql.Composed]:
    """Yield the rights that belong to one database and are not copied with a template."""
    database = sql.Identifier(connection.info.dbname)
    yield sql.SQL("REVOKE TEMPORARY, CREATE ON DATABASE {} FROM PUBLIC").format(database)
    yield sql.SQL("GRANT TEMPORARY ON DATABASE {} TO {}").format(database, sql.Identifier(ETL))
    yield sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(
        database, sql.SQL(", ").join(map(sql.Identifier, (ETL, READER, TASKS)))
    )
    for role, path in (
        (ETL, (schemas.cdm, schemas.ledger, "public")),
        (READER, (schemas.cdm,)),
        (TASKS, ("pg_catalog", schemas.cdm, "pg_temp")),
    ):
        yield sql.SQL("ALTER ROLE {} IN DATABASE {} SET search_path = {}").format(
            sql.Identifier(role), database, sql.SQL(", ").join(map(sql.Identifier, path))
        )


def tasks_columns(table: Table) -> list[str]:
    """Return the columns of a CDM table that SQL tasks may read: all but free text."""
    if table.name in HIDDEN_TABLES:
        return []
    return [column.name for column in table.columns if not column.info.get("free_text")]


def _statements(connection: psycopg.Connection[Any], schemas: Schemas) -> list[sql.Composed]:
    return [
        *_roles(connection),
        *database_rights(connection, schemas),
        *_writer_rights(schemas),
        *_reader_rights(schemas),
        *_tasks_rights(schemas),
        *_revoked_functions(connection),
    ]


def _roles(connection: psycopg.Connection[Any]) -> Iterator[sql.Composed]:
    attributes = {
        ETL: "NOLOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS",
        READER: "NOLOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS",
        TASKS: "LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS",
    }
    present = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'presage%'")}
    for role, words in attributes.items():
        if role not in present:
            yield sql.SQL("CREATE ROLE {} {}").format(sql.Identifier(role), sql.SQL(words))
        for name, value in ROLE_SETTINGS[role].items():
            yield sql.SQL("ALTER ROLE {} SET {} = {}").format(
                sql.Identifier(role), sql.Identifier(name), sql.Literal(value)
            )


def _writer_rights(schemas: Schemas) -> Iterator[sql.Composed]:
    for name in (schemas.cdm, schemas.ledger, schemas.results):
        schema, role = sql.Identifier(name), sql.Identifier(ETL)
        yield sql.SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {}").format(schema, role)
        yield sql.SQL("GRANT ALL ON ALL TABLES IN SCHEMA {} TO {}").format(schema, role)
        yield sql.SQL("GRANT ALL ON ALL SEQUENCES IN SCHEMA {} TO {}").format(schema, role)
        yield sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA {} GRANT ALL ON TABLES TO {}").format(schema, role)
        yield sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA {} GRANT ALL ON SEQUENCES TO {}").format(schema, role)


def _reader_rights(schemas: Schemas) -> Iterator[sql.Composed]:
    schema, role = sql.Identifier(schemas.cdm), sql.Identifier(READER)
    yield sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, role)
    yield sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA {} TO {}").format(schema, role)
    # A vocabulary load swaps new tables in: they are readable from the start.
    yield sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA {} GRANT SELECT ON TABLES TO {}").format(schema, role)


def _tasks_rights(schemas: Schemas) -> Iterator[sql.Composed]:
    schema, role = sql.Identifier(schemas.cdm), sql.Identifier(TASKS)
    yield sql.SQL("REVOKE ALL ON ALL TABLES IN SCHEMA {} FROM {}").format(schema, role)
    yield sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, role)
    yield sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA {} GRANT SELECT ON TABLES TO {}").format(schema, role)
    for table in TABLES.values():
        columns = tasks_columns(table) if table.schema == "cdm" else []
        if not columns:
            continue
        name = sql.Identifier(schemas.cdm, table.name)
        if len(columns) == len(table.columns):
            yield sql.SQL("GRANT SELECT ON {} TO {}").format(name, role)
        else:
            readable = sql.SQL(", ").join(map(sql.Identifier, columns))
            yield sql.SQL("GRANT SELECT ({}) ON {} TO {}").format(readable, name, role)
    yield sql.SQL("REVOKE CREATE ON SCHEMA {} FROM PUBLIC").format(sql.Identifier("public"))


def _revoked_functions(connection: psycopg.Connection[Any]) -> Iterator[sql.Composed]:
    found = connection.execute(
        "SELECT oid::regprocedure::text FROM pg_proc WHERE proname ~ %s ORDER BY 1", (REVOKED_FUNCTIONS,)
    ).fetchall()
    functions = sql.SQL(", ").join(sql.SQL(signature) for (signature,) in found)
    yield sql.SQL("REVOKE EXECUTE ON FUNCTION {} FROM PUBLIC").format(functions)
    yield sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(functions, sql.Identifier(ETL))


def _try(connection: psycopg.Connection[Any], statement: sql.Composed) -> bool:
    """True when the statement took effect; a grant that lacks the right to grant is only a warning of the server."""
    warnings: list[str | None] = []

    def note(diagnosis: psycopg.errors.Diagnostic) -> None:
        warnings.append(diagnosis.sqlstate)

    connection.add_notice_handler(note)
    try:
        with connection.transaction():
            connection.execute(statement)
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject):
        return False
    except psycopg.errors.DuplicateObject:  # another database of this server is being made at the same time
        return True
    finally:
        connection.remove_notice_handler(note)
    return not NOT_GRANTED.intersection(warnings)
