"""The one way to the database: start or join the server, check the schema, hand out connections.

A command opens the database once, and everything below it receives the `Database`, which is plain data: it can be
pickled to worker processes, whose connections then belong to the same command.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from presage_platform.errors import DatabaseError, SettingsError
from presage_platform.logs import get_logger, new_run_id
from presage_platform.postgres.binaries import MINIMUM_MAJOR
from presage_platform.postgres.failures import is_passing, translate_errors
from presage_platform.postgres.schema import Schemas, schema_owner

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from presage_platform.settings import DatabaseSettings, Settings

__all__ = ["Database", "Schemas", "embedded_server", "open_database", "schema_owner", "translate_errors"]

log = get_logger(__name__)

Result = TypeVar("Result")

TASKS_ROLE = "presage_tasks"
CONNECT_TIMEOUT_S = 30


@dataclass(frozen=True)
class Database:
    """An open database: where it is, what its schemas are called, and which run is using it."""

    conninfo: str = field(repr=False)  # may hold a password: never printed
    tasks_conninfo: str | None = field(repr=False)
    schemas: Schemas
    run_name: str
    embedded: bool = False

    def connect(self, *, autocommit: bool = False) -> psycopg.Connection[Any]:
        """Return a new connection whose search path is the CDM, then the ledger; times are UTC."""
        with translate_errors():
            connection = psycopg.connect(self.conninfo, autocommit=autocommit)
            try:
                _prepare(connection, [self.schemas.cdm, self.schemas.ledger, "public"])
            except BaseException:
                connection.close()
                raise
            return connection

    def connect_tasks(self) -> psycopg.Connection[Any]:
        """Return a new connection that logged in as the role of SQL tasks.

        Raises
        ------
        SettingsError
            When the server is not the embedded one and `database.tasks_url` is unset, or its login may do more than
            read the CDM.
        """
        if self.tasks_conninfo is None:
            raise SettingsError(
                "database.tasks_url is unset, so there is no login of the role presage_tasks: "
                "set it (PRESAGE_DATABASE__TASKS_URL); SQL tasks run as that role only"
            )
        with translate_errors():
            connection = psycopg.connect(self.tasks_conninfo)
            try:
                _refuse_without_wall(connection, self.schemas)
                connection.rollback()
            except BaseException:
                connection.close()
                raise
            return connection

    def transact(self, unit: Callable[[psycopg.Connection[Any]], Result], *, attempts: int = 5) -> Result:
        """Run one idempotent unit in a transaction of its own, and again when the fault was not its own.

        That is: the connection was lost, or another transaction got in the way (serialisation failure, deadlock).
        Everything else is raised at once. The unit may run several times, so it must be safe to repeat.
        """
        with translate_errors():
            for attempt in range(1, attempts + 1):
                try:
                    with psycopg.connect(self.conninfo) as connection:
                        _prepare(connection, [self.schemas.cdm, self.schemas.ledger, "public"])
                        return unit(connection)
                except psycopg.OperationalError as error:
                    if attempt == attempts or not is_passing(error):
                        raise
                    log.warning("transaction repeated", extra={"fields": {"attempt": attempt}})
                    time.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def engine(self, *, pool_size: int = 5) -> Engine:
        """Return a pooled SQLAlchemy engine that translates the declared schema names to those of this database."""
        from sqlalchemy import create_engine

        return create_engine(
            "postgresql+psycopg://",
            creator=self.connect,
            pool_size=pool_size,
            execution_options={"schema_translate_map": self.schemas.translation},
        )

    def renamed(self, run_name: str) -> Database:
        """Return the same database for another run."""
        return replace(
            self,
            run_name=run_name,
            conninfo=make_conninfo(self.conninfo, application_name=run_name),
            tasks_conninfo=self.tasks_conninfo and make_conninfo(self.tasks_conninfo, application_name=run_name),
        )


@contextmanager
def open_database(settings: Settings, *, command: str, check_schema: bool = True) -> Iterator[Database]:
    """Open the database of a workspace for one command.

    Parameters
    ----------
    settings
        `database.url` names a server; unset means the embedded server, which is started, or joined, and used until
        the context ends.
    command
        Name of the command, as it appears in `pg_stat_activity`.
    check_schema
        Create the schema when the database is empty, refuse another revision. Off only for `platform db`.

    Raises
    ------
    DatabaseError
        When the server cannot be started or reached, is too old, or its schema is another one. Errors of the driver
        that leave the context are translated as well.
    """
    run_name = f"presage/{command}/{new_run_id()}"
    with embedded_server(settings) as (conninfo, tasks_conninfo), translate_errors():
        database = Database(
            conninfo=make_conninfo(conninfo, connect_timeout=CONNECT_TIMEOUT_S),
            tasks_conninfo=tasks_conninfo,
            schemas=_schemas(settings.database),
            run_name=run_name,
            embedded=settings.database.url is None,
        ).renamed(run_name)
        _refuse_old_server(database)
        if check_schema:
            schema_owner().ensure(database)
        yield database


@contextmanager
def embedded_server(settings: Settings) -> Iterator[tuple[str, str | None]]:
    """Yield the connection strings of the login and of the tasks role, with the embedded server up if it is ours."""
    declared = settings.database
    if declared.url is not None:
        conninfo = _parsed(declared.url.get_secret_value(), "database.url")
        tasks = _parsed(declared.tasks_url.get_secret_value(), "database.tasks_url") if declared.tasks_url else None
        yield conninfo, tasks or _socket_login(conninfo)
        return
    from presage_platform.postgres.embedded import use_server

    workspace: Path = settings.workspace
    with use_server(workspace, data_home=declared.data_home) as server:
        _remember_home(settings, server.placement.home)
        yield server.conninfo(), server.conninfo(user=TASKS_ROLE)


def _prepare(connection: psycopg.Connection[Any], search_path: list[str]) -> None:
    """Set what each session needs; committed, so that a rollback of the caller does not undo it."""
    path = sql.SQL(", ").join(sql.Identifier(name) for name in search_path)
    connection.execute(
        sql.SQL("SET search_path TO {}; SET timezone TO 'UTC'; SET client_encoding TO 'UTF8'").format(path)
    )
    if not connection.autocommit:
        connection.commit()


def _refuse_without_wall(connection: psycopg.Connection[Any], schemas: Schemas) -> None:
    """Ask the server, not the name of the login, what SQL tasks could do."""
    may = connection.execute(
        "SELECT rolsuper, has_database_privilege(current_database(), 'TEMPORARY, CREATE'),"
        " has_schema_privilege(%(ledger)s, 'USAGE'), has_schema_privilege(%(cdm)s, 'CREATE'),"
        " EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = %(cdm)s"
        " AND c.relkind IN ('r', 'p') AND has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE'))"
        " FROM pg_roles WHERE rolname = session_user",
        {"cdm": schemas.cdm, "ledger": schemas.ledger},
    ).fetchone()
    rights = ("be superuser", "make temporary tables", "use the ledger", "create tables", "write to the CDM")
    breaches = [right for right, is_given in zip(rights, may or [True] * len(rights), strict=True) if is_given]
    if breaches:
        raise SettingsError(
            f"the login for SQL tasks may {', '.join(breaches)}: expected the role {TASKS_ROLE} as the migration makes "
            "it; run the SQL that `platform doctor` prints, or correct database.tasks_url"
        )


def _schemas(declared: DatabaseSettings) -> Schemas:
    return Schemas(cdm=declared.cdm, ledger=declared.ledger, results=declared.results)


def _parsed(url: str, name: str) -> str:
    try:
        return make_conninfo("", **conninfo_to_dict(url))
    except psycopg.ProgrammingError:
        raise SettingsError(f"{name} is no connection string: expected postgresql://user@host:port/database") from None


def _socket_login(conninfo: str) -> str | None:
    """Over the socket of a server that trusts it, the tasks role needs no secret; elsewhere `tasks_url` holds it."""
    parts = conninfo_to_dict(conninfo)
    host = str(parts.get("host") or "")
    if not host.startswith("/") or not (Path(host).parent / "users.lock").exists():
        return None
    return make_conninfo(conninfo, user=TASKS_ROLE)


def _refuse_old_server(database: Database) -> None:
    with psycopg.connect(database.conninfo) as connection:
        version = connection.info.server_version
    if version < MINIMUM_MAJOR * 10_000:
        raise DatabaseError(
            f"the server is PostgreSQL {version // 10_000}, expected {MINIMUM_MAJOR} or later: upgrade it"
        )


def _remember_home(settings: Settings, home: Path) -> None:
    """Name a data folder outside the workspace in platform.toml: a workspace that is moved still finds its data."""
    if home.parent == settings.workspace or settings.database.data_home is not None:
        return
    path = settings.workspace / "platform.toml"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    entry = f'data_home = "{home}"  # the account of the embedded server cannot reach the workspace'
    if "[database]" in (line.strip() for line in lines):
        at = next(number for number, line in enumerate(lines) if line.strip() == "[database]")
        lines.insert(at + 1, entry)
    else:
        lines += ["", "[database]", entry]
    partial = path.with_suffix(".toml.new")
    partial.touch(mode=0o600)
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(path)
