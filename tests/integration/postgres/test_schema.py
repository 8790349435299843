"""Migrations: from empty to the newest revision is exactly what is declared, and back to nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import create_engine

from presage_migrations.declared import DECLARED
from presage_migrations.schema import HEAD, Schema
from presage_platform.errors import DatabaseError
from presage_platform.omop.tables import TABLES
from presage_platform.postgres.connection import Database, Schemas, open_database
from presage_platform.postgres.roles import administrator_sql
from presage_platform.settings import Settings, parse_settings
from tests.lib.catalogue import Catalogue, catalogue_of
from tests.lib.database import TestServer, database_of, empty_database, fresh_database

SCHEMAS = ["cdm", "ledger", "results"]


@pytest.fixture
def empty(server: TestServer) -> Iterator[Database]:
    with empty_database(server) as url:
        yield database_of(url)


def test_p30_history_is_one_line_whose_end_is_head() -> None:
    config = Config()
    config.set_main_option("script_location", "presage_migrations:")
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [HEAD]
    assert all(not isinstance(script.down_revision, tuple) for script in scripts.walk_revisions())


def test_p30_empty_to_head_equals_the_declaration_both_ways(server: TestServer, empty: Database) -> None:
    Schema().upgrade(empty)
    migrated = _catalogue(empty)
    with empty_database(server) as url:
        declared = _declared_catalogue(url)
    for kind in declared:
        assert migrated[kind] - declared[kind] == set(), f"{kind} that no declaration explains"
        assert declared[kind] - migrated[kind] == set(), f"{kind} that no revision makes"
    assert len({(row[0], row[1]) for row in migrated["columns"] if row[0] == "cdm"}) == 38


def test_p30_downgrade_leaves_no_table_and_upgrade_comes_back(empty: Database) -> None:
    Schema().upgrade(empty)
    before = _catalogue(empty)
    with empty.connect() as connection:
        connection.execute("INSERT INTO location (location_id) VALUES (1)")
    Schema().downgrade(empty, "base")
    assert set().union(*_catalogue(empty).values()) == set()
    Schema().upgrade(empty)
    assert _catalogue(empty) == before


def test_p30_writing_command_creates_the_schema_in_an_empty_database(settings: Settings, server: TestServer) -> None:
    with empty_database(server) as url, open_database(_at(settings, url), command="test") as database:
        assert Schema().state(database).is_current
        with database.connect() as connection:
            assert connection.execute("SELECT count(*) FROM measurement").fetchone() == (0,)


def test_p30_lagging_schema_is_refused_with_the_command_that_mends_it(settings: Settings) -> None:
    with open_database(settings, command="test") as database, database.connect() as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'r0000'")
        connection.commit()
    with pytest.raises(DatabaseError, match=r"revision r0000, expected r\d+: run `platform db upgrade`"):
        _open(settings)


def test_p30_schema_of_a_newer_version_is_refused(empty: Database) -> None:
    Schema().upgrade(empty)
    with empty.connect() as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'r9999'")
    for action in (Schema().ensure, Schema().upgrade):
        with pytest.raises(DatabaseError, match="r9999"):
            action(empty)


def test_p30_commands_at_once_create_one_schema(empty: Database) -> None:
    failures: list[BaseException] = []

    def ensure() -> None:
        try:
            Schema().ensure(empty)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ensure) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert Schema().state(empty).is_current


def test_p32_login_that_may_not_make_roles_still_gets_its_schema(empty: Database) -> None:
    login = f"presage_app_{os.getpid()}"
    name = conninfo_to_dict(empty.conninfo)["dbname"]
    with empty.connect(autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(login)))
        grant = sql.SQL("GRANT CREATE, TEMPORARY ON DATABASE {} TO {}")
        connection.execute(grant.format(sql.Identifier(str(name)), sql.Identifier(login)))
    modest = replace(empty, conninfo=make_conninfo(empty.conninfo, user=login), tasks_conninfo=None)
    Schema().ensure(modest)
    with modest.connect() as connection:
        assert connection.execute("SELECT count(*) FROM person").fetchone() == (0,)
        statements = administrator_sql(connection, modest.schemas)
    assert any(statement.startswith("REVOKE EXECUTE ON FUNCTION") for statement in statements)
    with empty.connect(autocommit=True) as connection:
        for statement in statements:  # the administrator runs what was printed, and the wall stands
            connection.execute(statement.encode())
    replace(modest, tasks_conninfo=empty.tasks_conninfo).connect_tasks().close()
    with empty.connect(autocommit=True) as connection:
        connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(login)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(login)))


def test_p30_foreign_tables_are_refused_and_left_alone(settings: Settings, server: TestServer) -> None:
    with empty_database(server) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA cdm")
            connection.execute("CREATE TABLE cdm.person (person_id integer)")
        with pytest.raises(DatabaseError, match="hold 1 tables that presage did not make"):
            _open(_at(settings, url))
        with psycopg.connect(url) as connection:
            tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'cdm'").fetchone()
            assert tables == (1,)


def test_p30_schema_names_are_settings(settings: Settings, server: TestServer) -> None:
    named = {"cdm": "omop 54", "ledger": "book", "results": "out"}
    with empty_database(server) as url, open_database(_at(settings, url, **named), command="test") as database:
        with database.connect() as connection:
            found = connection.execute("SELECT 'person'::regclass::text, 'alembic_version'::regclass::text").fetchone()
            schemas = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname = ANY(%s)", (SCHEMAS,))
            assert (found, schemas.fetchall()) == (("person", "alembic_version"), [])
        engine = database.engine(pool_size=1)
        with engine.connect() as mapped:
            assert mapped.execute(TABLES["person"].select()).all() == []
        engine.dispose()


def test_p33_reference_to_an_absent_person_is_refused(settings: Settings) -> None:
    with open_database(settings, command="test") as database, database.connect() as connection:
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            connection.execute(
                "INSERT INTO observation_period VALUES (1, 77, date '2020-01-01', date '2020-01-02', 32817)"
            )
        connection.rollback()
        connection.execute(
            "INSERT INTO person VALUES (1, 8507, 1950, NULL, NULL, NULL, 0, 0)"
        )  # concepts are not loaded


def test_fresh_database_has_the_whole_schema(server: TestServer) -> None:
    with fresh_database(server) as url:
        assert Schema().state(database_of(url)).is_current


def _at(settings: Settings, url: str, **names: str) -> Settings:
    return parse_settings(settings.workspace, {"database": {"url": url, **names}}, environment={})


def _open(settings: Settings) -> None:
    with open_database(settings, command="test"):
        pass


def _catalogue(database: Database) -> Catalogue:
    with database.connect() as connection:
        return catalogue_of(connection, SCHEMAS)


def _declared_catalogue(url: str) -> Catalogue:
    """Create what is declared directly, without any revision."""
    with psycopg.connect(url, autocommit=True) as connection:
        for name in Schemas().translation:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url))
    with engine.begin() as connection:
        for metadata in DECLARED:
            metadata.create_all(connection, checkfirst=False)
    engine.dispose()
    with psycopg.connect(url) as plain:
        connection_any: psycopg.Connection[Any] = plain
        return catalogue_of(connection_any, SCHEMAS)
