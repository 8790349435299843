"""A real PostgreSQL for tests: one embedded server a session, a database from a template each.

`PRESAGE_TEST_DSN` names a server to use instead (its login must be a superuser).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from presage_platform.postgres.connection import Database, Schemas, schema_owner
from presage_platform.postgres.embedded import use_server
from presage_platform.postgres.roles import database_rights


@dataclass
class TestServer:
    """A running server; `template` holds the schema and nothing else."""

    __test__ = False
    conninfo: str
    template: str
    _numbers: Iterator[int] = field(default_factory=count)

    def url(self, database: str) -> str:
        """Return a `database.url` for one database of this server."""
        parts = {**conninfo_to_dict(self.conninfo), "dbname": database}
        user, name = quote(str(parts.pop("user"))), quote(str(parts.pop("dbname")))
        return f"postgresql://{user}@/{name}?{urlencode({key: str(value) for key, value in parts.items()})}"

    def new_name(self, purpose: str = "test") -> str:
        """Return a database name that no other process of this test run uses."""
        return f"{purpose}_{os.getpid()}_{next(self._numbers)}"


@contextmanager
def session_server() -> Iterator[TestServer]:
    """Start a server in a folder of its own and build the template; everything is gone afterwards."""
    named = os.environ.get("PRESAGE_TEST_DSN")
    if named:
        with _with_template(named) as server:
            yield server
        return
    folder = Path(tempfile.mkdtemp(prefix="presage-test-"))
    try:
        with use_server(folder) as running:
            _be_quick(running.conninfo())
            with _with_template(running.conninfo()) as server:
                yield server
    finally:
        from presage_platform.postgres.embedded import stop_server

        stop_server(folder)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def fresh_database(server: TestServer) -> Iterator[str]:
    """Create a database that has the schema and no rows; yield its URL; drop it."""
    with empty_database(server, template=server.template) as url:
        with psycopg.connect(make_conninfo(url), autocommit=True) as connection:
            for statement in database_rights(connection, Schemas()):  # these are not copied with a template
                connection.execute(statement)
        yield url


@contextmanager
def empty_database(server: TestServer, template: str = "template1") -> Iterator[str]:
    """Create a database without our schema; yield its URL; drop it."""
    name = sql.Identifier(server.new_name())
    with psycopg.connect(server.conninfo, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(name, sql.Identifier(template))
        )
    try:
        yield server.url(name.as_string()[1:-1])
    finally:
        with psycopg.connect(server.conninfo, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))


def database_of(url: str, command: str = "test") -> Database:
    """Return the `Database` of a URL, for tests that need no settings."""
    conninfo = make_conninfo(url)
    return Database(conninfo, make_conninfo(conninfo, user="presage_tasks"), Schemas(), run_name=f"presage/{command}/0")


@contextmanager
def _with_template(conninfo: str) -> Iterator[TestServer]:
    server = TestServer(conninfo, template="")
    server.template = server.new_name("template")
    name = sql.Identifier(server.template)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
    schema_owner().ensure(database_of(server.url(server.template)))
    try:
        yield server
    finally:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))


def _be_quick(conninfo: str) -> None:
    """A test server may lose its data: no waiting for the disk."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(setting)))
        connection.execute("SELECT pg_reload_conf()")
