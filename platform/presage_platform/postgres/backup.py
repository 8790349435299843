"""Backup and restore of the three schemas with PostgreSQL's own tools; the file is pg_dump's custom format."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from presage_platform.errors import DatabaseError, DiskFullError, InputError
from presage_platform.postgres.binaries import find_binaries
from presage_platform.postgres.connection import Database, schema_owner
from presage_platform.postgres.roles import grant_roles

MAGIC = b"PGDMP"


def write_backup(database: Database, file: Path) -> int:
    """Dump the schemas into a file (mode 0600), whole or not at all; return its size in bytes."""
    if file.exists():
        raise InputError(f"{file} exists already: name another file, a backup is never overwritten")
    if schema_owner().state(database).revision is None:
        raise DatabaseError("the database has no schema yet: there is nothing to back up")
    partial = file.with_name(f"{file.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        schemas = [f'--schema="{name}"' for name in database.schemas.translation.values()]
        _run(
            database, "pg_dump", ["--format=custom", "--no-owner", "--no-privileges", "--file", str(partial), *schemas]
        )
        partial.rename(file)
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror}): choose another place") from None
    finally:
        partial.unlink(missing_ok=True)
    return file.stat().st_size


def restore_backup(database: Database, file: Path) -> str:
    """Bring a backup back into an empty database, then upgrade its schema; return the revision that it held."""
    try:
        with file.open("rb") as opened:
            magic = opened.read(len(MAGIC))
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): name a file of `platform db backup`") from None
    if magic != MAGIC:
        raise InputError(f"{file} is no backup: expected a file that `platform db backup` wrote")
    owner = schema_owner()
    if not owner.state(database).is_empty:
        raise DatabaseError(
            "the database holds tables already: restore into an empty one (another workspace, or another database.url)"
        )
    _run(database, "pg_restore", ["--no-owner", "--exit-on-error", "--single-transaction", str(file)])
    revision = owner.state(database).revision
    if revision is None:
        raise InputError(f"{file} holds no schema of presage under the names in [database]: correct the names")
    owner.upgrade(database)
    with database.connect() as connection:
        grant_roles(connection, database.schemas)  # roles belong to the server, not to the backup
    return revision


def _run(database: Database, program: str, arguments: list[str]) -> None:
    """Run a client program; its own words may quote rows and are not shown."""
    parts = conninfo_to_dict(database.conninfo)
    password = parts.pop("password", None)
    environment = {**os.environ, **({"PGPASSWORD": str(password)} if password else {})}
    target = ["--dbname", make_conninfo("", **parts)]
    command = [find_binaries().program(program), *target, *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode == 0:
        return
    if "No space left" in run.stderr:
        raise DiskFullError(f"{program} found no disk space: free some and run the command again")
    if "version mismatch" in run.stderr:
        raise DatabaseError(f"{program} is older than the server: name newer programs with PRESAGE_PG_BIN")
    raise DatabaseError(f"{program} ended with code {run.returncode}: look into the server's log")
