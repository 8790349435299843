"""psql on the database of a workspace: the password travels in the environment, never on the command line."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from presage_platform.errors import DatabaseError
from presage_platform.postgres.binaries import find_binaries
from presage_platform.postgres.connection import Database


def run_psql(database: Database, arguments: list[str]) -> int:
    """Run psql to its end and return its exit code; Ctrl-C belongs to psql meanwhile."""
    parts = conninfo_to_dict(database.conninfo)
    password = parts.pop("password", None)
    path = ",".join(f'"{name}"' for name in (database.schemas.cdm, database.schemas.ledger, "public"))
    environment = {**os.environ, "PGOPTIONS": f"-c search_path={path}"}
    if password is not None:
        environment["PGPASSWORD"] = str(password)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        command = [_program(), make_conninfo("", **parts), *arguments]
        return subprocess.run(command, env=environment, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, handler)


def _program() -> str:
    packaged = find_binaries().program("psql")
    found = shutil.which(packaged) or shutil.which("psql")
    if found is None:
        raise DatabaseError("psql was not found: install a PostgreSQL client, or name its folder with PRESAGE_PG_BIN")
    return found
