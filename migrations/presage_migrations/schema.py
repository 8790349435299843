"""The schema of a database: which revision it has, and how it gets to another one.

`schema` is what the entry point `presage.schema` names: the ground floor calls `ensure` before a command reads or
writes, without importing this package.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from presage_platform.errors import DatabaseError
from presage_platform.logs import get_logger

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Engine

    from presage_platform.postgres.connection import Database

log = get_logger(__name__)

HEAD = "r0001"  # the newest revision; a test compares it with the revisions themselves
UPGRADE_LOCK = 5_077_244_131  # advisory lock: one command creates or upgrades at a time


@dataclass(frozen=True)
class SchemaState:
    """What a database holds: `revision` is None without a version table; `num_tables` counts those of all schemas."""

    revision: str | None
    head: str
    num_tables: int

    @property
    def is_current(self) -> bool:
        """True when the database has the newest revision."""
        return self.revision == self.head

    @property
    def is_empty(self) -> bool:
        """True when there is nothing in the schemas that presage would use."""
        return self.revision is None and self.num_tables == 0


class Schema:
    """The revisions, applied to one database at a time."""

    def ensure(self, database: Database) -> None:
        """Create the schema in an empty database; refuse a lagging or foreign one."""
        state = self.state(database)
        if state.is_current:
            return
        if state.is_empty:
            self.upgrade(database)
            return
        _refuse_foreign(state, database)
        raise DatabaseError(
            f"the database has schema revision {state.revision}, expected {state.head}: run `platform db upgrade`"
        )

    def state(self, database: Database) -> SchemaState:
        """Read the revision and count the tables."""
        with database.connect() as connection:
            names = list(database.schemas.translation.values())
            counted = connection.execute(
                "SELECT count(*) FROM pg_tables WHERE schemaname = ANY(%s) AND tablename <> 'alembic_version'", (names,)
            ).fetchone()
            return SchemaState(_revision(connection, database.schemas.ledger), HEAD, counted[0] if counted else 0)

    def upgrade(self, database: Database, revision: str = HEAD) -> None:
        """Apply every revision up to `revision`; safe when several commands do it at once."""
        from alembic import command

        _refuse_foreign(self.state(database), database)
        with _configured(database) as config:
            command.upgrade(config, revision)
        log.info("schema upgraded", extra={"fields": {"revision": revision}})

    def downgrade(self, database: Database, revision: str) -> None:
        """Undo every revision above `revision` (`base`: all of them)."""
        from alembic import command

        with _configured(database) as config:
            command.downgrade(config, revision)


schema = Schema()


def _refuse_foreign(state: SchemaState, database: Database) -> None:
    """Refuse tables that others made, and revisions that this version does not know."""
    if state.revision is None and not state.is_empty:
        raise DatabaseError(
            f"the schemas {', '.join(database.schemas.translation.values())} hold {state.num_tables} tables that "
            "presage did not make: name other schemas in [database], or an empty database in database.url"
        )
    if state.revision is not None and state.revision > HEAD:
        raise DatabaseError(
            f"the database has schema revision {state.revision}, this version knows {HEAD}: install a newer presage"
        )


@contextmanager
def _configured(database: Database) -> Iterator[Config]:
    """Yield Alembic's configuration around one transaction, under the lock of upgrades."""
    from alembic.config import Config

    engine = database.engine(pool_size=1)
    with closing_pool(engine), engine.begin() as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({UPGRADE_LOCK})")
        driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
        # Alembic keeps its version table in the ledger, so that schema comes before every revision.
        driver.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(database.schemas.ledger)))
        config = Config()
        config.set_main_option("script_location", "presage_migrations:")
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        config.attributes["schemas"] = database.schemas
        config.attributes["version_schema"] = database.schemas.ledger
        yield config


@contextmanager
def closing_pool(engine: Engine) -> Iterator[None]:
    """Close the connections of an engine at the end: a database in use cannot serve as a template or be dropped."""
    try:
        yield
    finally:
        engine.dispose()


def _revision(connection: psycopg.Connection[Any], ledger: str) -> str | None:
    table = sql.Identifier(ledger, "alembic_version")
    known = connection.execute("SELECT to_regclass(%s)", (table.as_string(connection),)).fetchone()
    if known is None or known[0] is None:
        return None
    row = connection.execute(sql.SQL("SELECT version_num FROM {}").format(table)).fetchone()
    return str(row[0]) if row else None
