"""`platform doctor`: is everything here that presage needs, and if not, the command that mends it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from presage_platform.options import Json, Workspace

if TYPE_CHECKING:
    from presage_platform.settings import Settings

MIN_FREE_GB = 5.0
MIN_MEMORY_GB = 4.0
DECODERS = {"RLE": "rle", "JPEG 2000": "openjpeg", "JPEG-LS": "jpeg_ls", "JPEG": "gdcm"}
PACKAGES = ("sqlalchemy", "psycopg", "pyarrow", "pydicom", "torch", "monai", "scikit-survival", "numba")


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: what was looked at, whether it is well, what was seen, and the command that mends it."""

    what: str
    ok: bool
    seen: str
    mend: str = ""


def doctor(workspace: Workspace = None, json: Json = False) -> None:
    """Check Python, packages, disk, memory, PostgreSQL, schema, vocabulary, GPU and decoders.

    Example: platform doctor
    """
    findings = list(examine(workspace))
    if json:
        import orjson

        typer.echo(orjson.dumps([finding.__dict__ for finding in findings]).decode())
    else:
        for finding in findings:
            mend = f": {finding.mend}" if finding.mend and not finding.ok else ""
            typer.echo(f"{'ok     ' if finding.ok else 'problem'}  {finding.what:<12} {finding.seen}{mend}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(6)


def examine(workspace: Path | None) -> Iterator[Finding]:
    """Yield the findings, cheapest first; a check that fails unexpectedly is itself a finding."""
    from presage_platform.settings import find_workspace, read_settings

    yield Finding("python", sys.version_info >= (3, 11), sys.version.split()[0], "install Python 3.11 or newer")
    yield from _packages()
    yield _decoders()
    folder = find_workspace(workspace)
    yield _disk(folder)
    yield _memory()
    yield _gpu()
    if not folder.is_dir():
        yield Finding("workspace", True, f"{folder} does not exist yet; the first command that writes makes it")
        return
    settings = read_settings(workspace)
    yield Finding("workspace", os.access(folder, os.W_OK), str(settings.workspace), "make it writable")
    for what, check in (
        ("binaries", _binaries),
        ("database", _database),
        ("roles", _roles),
        ("vocabulary", _vocabulary),
    ):
        yield _guarded(what, check, settings)


def _packages() -> Iterator[Finding]:
    for package in PACKAGES:
        try:
            yield Finding(package, True, version(package))
        except PackageNotFoundError:
            yield Finding(package, False, "not installed", f"pip install {package}")


def _decoders() -> Finding:
    missing = [name for name, module in DECODERS.items() if find_spec(module) is None]
    seen = "all present" if not missing else f"missing: {', '.join(missing)}"
    return Finding("decoders", not missing, seen, "pip install presage again, with its dependencies")


def _disk(folder: Path) -> Finding:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    return Finding("disk", free_gb >= MIN_FREE_GB, f"{free_gb:.0f} GB free", f"free at least {MIN_FREE_GB:.0f} GB")


def _memory() -> Finding:
    total_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return Finding("memory", total_gb >= MIN_MEMORY_GB, f"{total_gb:.0f} GB", f"use {MIN_MEMORY_GB:.0f} GB or more")


def _gpu() -> Finding:
    devices = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    return Finding(
        "gpu", True, f"{len(devices)} NVIDIA device(s)" if devices else "none: recipe `tiny` runs on the CPU"
    )


def _guarded(what: str, check: Callable[[Settings], Finding], settings: Settings) -> Finding:
    from presage_platform.errors import PresageError

    try:
        return check(settings)
    except PresageError as error:
        return Finding(what, False, str(error))


def _binaries(settings: Settings) -> Finding:
    if settings.database.url is not None:
        return Finding("binaries", True, "not needed: database.url names a server")
    from presage_platform.postgres.binaries import find_binaries

    return Finding("binaries", True, f"PostgreSQL server in {find_binaries().folder}")


def _roles(settings: Settings) -> Finding:
    """Say whether the three roles exist; print the statements that an administrator would run where they do not."""
    from presage_platform.postgres.connection import open_database
    from presage_platform.postgres.roles import ETL, READER, TASKS, administrator_sql

    with open_database(settings, command="doctor") as database, database.connect() as connection:
        found = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'presage%'")}
        missing = [role for role in (ETL, READER, TASKS) if role not in found]
        statements = administrator_sql(connection, database.schemas) if missing else []
    seen = f"missing: {', '.join(missing)}" if missing else "all present"
    return Finding("roles", not missing, seen, "have an administrator run:\n" + "\n".join(statements))


def _database(settings: Settings) -> Finding:
    from presage_platform.postgres.connection import open_database

    with open_database(settings, command="doctor") as database, database.connect() as connection:
        row = connection.execute("SELECT current_setting('server_version')").fetchone()
    return Finding("database", row is not None, f"PostgreSQL {row[0]}, schema at head" if row else "no answer")


def _vocabulary(settings: Settings) -> Finding:
    from presage_platform.postgres.connection import open_database

    with open_database(settings, command="doctor") as database, database.connect() as connection:
        row = connection.execute("SELECT count(*) FROM concept").fetchone()
    concepts = row[0] if row else 0
    return Finding("vocabulary", concepts > 0, f"{concepts} concepts", "platform etl vocabulary PATH")
