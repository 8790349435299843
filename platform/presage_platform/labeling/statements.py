"""The SQL of labeling: one file a statement, read from the package."""

from __future__ import annotations

from importlib.resources import files


def statement(name: str) -> str:
    """Return the text of `sql/<name>.sql`."""
    return files("presage_platform.labeling").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
