"""The wall around SQL tasks: what the role presage_tasks is, and what the server refuses it with every guard off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from presage_platform.errors import SettingsError
from presage_platform.omop.tables import TABLES
from presage_platform.postgres.connection import Database, open_database
from presage_platform.postgres.roles import HIDDEN_TABLES, TASKS, database_rights, grant_roles
from presage_platform.settings import Settings
from tests.lib.database import TestServer, database_of, fresh_database

Connection = psycopg.Connection[Any]


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    with open_database(settings, command="test") as opened:
        yield opened


@pytest.fixture(scope="module")
def tasks(server: TestServer) -> Iterator[Connection]:
    """A login of the tasks role, whose defaults that guard against writing are switched off on purpose."""
    with fresh_database(server) as url, database_of(url).connect_tasks() as connection:
        connection.autocommit = True
        connection.execute("SET default_transaction_read_only TO off")
        yield connection


def test_l65_settings_apply_because_the_engine_logs_in_as_the_role(database: Database) -> None:
    expected = {
        "default_transaction_read_only": "on",
        "statement_timeout": "15min",
        "lock_timeout": "5s",
        "idle_in_transaction_session_timeout": "1min",
        "temp_file_limit": "20GB",
        "row_security": "on",
        "search_path": "pg_catalog, cdm, pg_temp",
    }
    with database.connect_tasks() as connection:
        assert {name: _setting(connection, name) for name in expected} == expected
    with database.connect() as connection:
        connection.execute("SET ROLE presage_tasks")
        assert _setting(connection, "statement_timeout") != "15min"  # settings of a role do not follow SET ROLE
        connection.rollback()


def test_l65_role_owns_nothing_and_has_no_attribute(database: Database) -> None:
    with database.connect() as connection:
        attributes = connection.execute(
            "SELECT rolcanlogin, rolinherit, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls"
            " FROM pg_roles WHERE rolname = 'presage_tasks'"
        ).fetchone()
        assert attributes == (True, False, False, False, False, False, False)
        owned = connection.execute(
            "SELECT count(*) FROM pg_shdepend WHERE deptype = 'o' AND refobjid = %s::regrole", (TASKS,)
        )
        member = connection.execute("SELECT count(*) FROM pg_auth_members WHERE member = %s::regrole", (TASKS,))
        assert (owned.fetchone(), member.fetchone()) == ((0,), (0,))


def test_l65_role_reads_the_cdm_but_no_note_and_no_free_text(tasks: Connection) -> None:
    for name, table in TABLES.items():
        if table.schema != "cdm" or name in HIDDEN_TABLES:
            continue
        readable = [c.name for c in table.columns if not c.info.get("free_text")]
        assert tasks.execute(f"SELECT {', '.join(readable)} FROM {name}").fetchall() == []
        for column in table.columns:
            if column.info.get("free_text"):
                _refused(tasks, f"SELECT {column.name} FROM {name}")
    for name in ("cdm.note", "cdm.note_nlp", "ledger.image_study", "ledger.alembic_version", "results.cohort"):
        _refused(tasks, f"SELECT count(*) FROM {name}")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO person VALUES (1, 0, 1950, NULL, NULL, NULL, 0, 0)",
        "UPDATE person SET year_of_birth = 1900",
        "DELETE FROM person",
        "TRUNCATE person CASCADE",
        "CREATE TABLE cdm.mine (n int)",
        "CREATE TABLE public.mine (n int)",
        "CREATE TEMP TABLE mine (n int)",
        "CREATE SCHEMA mine",
        "CREATE FUNCTION cdm.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "COPY person TO '/tmp/never'",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_sleep(1)",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_xact_lock(1)",
        "SELECT lo_create(0)",
        "SELECT lo_from_bytea(0, 'x')",
        "SELECT set_config('statement_timeout', '0', false)",
        "SELECT query_to_xml('select 1', true, false, '')",
        "SELECT pg_notify('a', 'b')",
        "SELECT pg_logical_emit_message(true, 'a', 'b')",
        "SELECT pg_terminate_backend(1)",
        "SET SESSION AUTHORIZATION presage",
        "SET ROLE presage_etl",
        "ALTER ROLE presage_tasks SUPERUSER",
        "SET temp_file_limit TO -1",
        "SET session_replication_role TO replica",
    ],
)
def test_l65_server_refuses_what_a_task_must_not_do(tasks: Connection, statement: str) -> None:
    _refused(tasks, statement)


def test_l65_read_only_is_the_default_of_a_login(database: Database) -> None:
    with database.connect_tasks() as connection, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.execute("CREATE TABLE public.mine (n int)")


def test_p32_writer_writes_and_reader_reads(database: Database) -> None:
    with database.connect() as connection:
        connection.execute("SET ROLE presage_etl")
        connection.execute("INSERT INTO cdm.location (location_id) VALUES (1)")
        connection.execute("SELECT count(*) FROM ledger.image_study")
        connection.execute("CREATE UNLOGGED TABLE ledger.stage (n int)")
        connection.execute("SET ROLE presage_reader")
        assert connection.execute("SELECT location_id FROM cdm.location").fetchall() == [(1,)]
        for statement in ("DELETE FROM cdm.location", "SELECT count(*) FROM ledger.image_study"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute(statement)
        connection.rollback()


def test_e15_vocabulary_table_that_is_swapped_in_is_readable(database: Database) -> None:
    with database.connect() as connection:
        connection.execute("CREATE TABLE cdm.concept_new (LIKE cdm.concept INCLUDING ALL)")
        connection.execute("DROP TABLE cdm.concept")
        connection.execute("ALTER TABLE cdm.concept_new RENAME TO concept")
        connection.commit()
    with database.connect_tasks() as connection:
        assert connection.execute("SELECT count(*) FROM concept").fetchone() == (0,)


def test_p32_rights_may_be_granted_again_and_nothing_is_refused(database: Database) -> None:
    with database.connect() as connection:
        assert grant_roles(connection, database.schemas) == []
        statements = [part.as_string(connection) for part in database_rights(connection, database.schemas)]
        assert any("REVOKE TEMPORARY" in statement for statement in statements)


def test_p32_login_without_rights_learns_what_the_administrator_must_run(database: Database) -> None:
    with database.connect() as connection:
        connection.execute("CREATE ROLE presage_nobody_special")
        connection.execute("GRANT USAGE ON SCHEMA cdm TO presage_nobody_special")
        connection.execute("SET LOCAL ROLE presage_nobody_special")
        refused = grant_roles(connection, database.schemas)
        connection.rollback()
    assert any("GRANT USAGE ON SCHEMA" in statement for statement in refused)


def test_p32_login_that_could_write_is_refused_as_a_wall(database: Database) -> None:
    too_strong = replace(database, tasks_conninfo=database.conninfo)
    with pytest.raises(SettingsError, match="may be superuser, make temporary tables, use the ledger"):
        too_strong.connect_tasks()


def test_p32_without_a_tasks_login_there_is_no_wall(database: Database) -> None:
    with pytest.raises(SettingsError, match=r"database\.tasks_url is unset"):
        replace(database, tasks_conninfo=None).connect_tasks()


def _setting(connection: Connection, name: str) -> str:
    row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    return str(row[0]) if row else ""


def _refused(connection: Connection, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())
