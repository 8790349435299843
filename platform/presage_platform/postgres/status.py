"""What `platform db status` reports: server, revision, sizes; counts only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote, urlencode

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from presage_platform.postgres.connection import Database, schema_owner

SHOWN_IN_URL = ("user", "password", "host", "port", "dbname")
ROLES = ("presage_etl", "presage_reader", "presage_tasks")
HIDDEN = ("connect_timeout", "application_name")


@dataclass(frozen=True)
class DatabaseStatus:
    """A database as an operator wants to see it."""

    url: str
    embedded: bool
    server_version: str
    revision: str | None
    head: str
    roles: list[str]
    num_rows: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)

    def as_text(self) -> str:
        """Return the report as lines for people."""
        revision = self.revision or "none"
        todo = "" if self.revision == self.head else f" (newest is {self.head}: run `platform db upgrade`)"
        lines = [
            f"server    PostgreSQL {self.server_version}{', embedded' if self.embedded else ''}",
            f"url       {self.url}",
            f"schema    {revision}{todo}",
            f"roles     {', '.join(self.roles) or 'none: ask the administrator, see `platform doctor`'}",
        ]
        return "\n".join(lines + [f"{count:>12,}  {name}" for name, count in self.num_rows.items()])


def describe(database: Database) -> DatabaseStatus:
    """Read everything that the report shows, in one snapshot."""
    state = schema_owner().state(database)
    names = list(database.schemas.translation.values())
    with database.connect() as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        version = connection.execute("SHOW server_version").fetchone()
        roles = connection.execute(
            "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s) ORDER BY 1", (list(ROLES),)
        ).fetchall()
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname = ANY(%s) ORDER BY 1, 2", (names,)
        ).fetchall()
        counts = {}
        for schema, table in tables:
            row = connection.execute(
                sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))
            ).fetchone()
            counts[f"{schema}.{table}"] = int(row[0]) if row else 0
    return DatabaseStatus(
        url=masked_url(database.conninfo),
        embedded=database.embedded,
        server_version=str(version[0]).split(" ")[0] if version else "unknown",
        revision=state.revision,
        head=state.head,
        roles=[name for (name,) in roles],
        num_rows={name: count for name, count in counts.items() if count},
    )


def masked_url(conninfo: str) -> str:
    """Return a connection string as a URL, its password replaced by asterisks."""
    parts = {key: str(value) for key, value in conninfo_to_dict(conninfo).items() if key not in HIDDEN}
    user = quote(parts.get("user", ""), safe="")
    login = f"{user}:***@" if "password" in parts else f"{user}@" if user else ""
    host = parts.get("host", "")
    rest = {key: value for key, value in parts.items() if key not in SHOWN_IN_URL}
    if host.startswith("/"):
        rest["host"] = host
        host = ""
    port = f":{parts['port']}" if "port" in parts else ""
    query = f"?{urlencode(rest, safe='/')}" if rest else ""
    return f"postgresql://{login}{host}{port}/{quote(parts.get('dbname', ''), safe='')}{query}"
