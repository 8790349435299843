"""Shipped outcome tasks: starting points to copy, each with the rows that test it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from presage_platform.errors import UsageError

PACKAGE = "presage_platform.labeling.tasks.library"


def shipped_tasks() -> list[str]:
    """Return the names of the shipped tasks."""
    return sorted(entry.name.removesuffix(".sql") for entry in files(PACKAGE).iterdir() if entry.name.endswith(".sql"))


def copy_tasks(name: str, folder: Path) -> list[str]:
    """Copy one shipped task (or `all`) with its fixture into `folder`; a file that is there already is kept.

    Raises
    ------
    UsageError
        When no shipped task has that name.
    """
    names = shipped_tasks() if name == "all" else [name]
    if not set(names) <= set(shipped_tasks()):
        raise UsageError(f"no shipped task `{name}`: expected all, {', '.join(shipped_tasks())}")
    (folder / "tests").mkdir(mode=0o700, parents=True, exist_ok=True)
    copied = []
    for one in names:
        for relative in (f"{one}.sql", f"tests/{one}.yaml"):
            target = folder / relative
            if not target.exists():
                target.write_bytes(files(PACKAGE).joinpath(relative).read_bytes())
                copied.append(relative)
    return copied
