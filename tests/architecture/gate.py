"""The layout guard: what must never lie at a source root, and what every SQL file must say. Run by `make check`.

One stray `platform/__init__.py` would hide Python's own `platform` module from every process started at the root of
the repository, hence a guard that needs nothing but the standard library.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = {
    "platform": "presage_platform",
    "etl": "presage_etl",
    "modeling": "presage_modeling",
    "migrations": "presage_migrations",
}
MAX_LINES = 450
TYPES = "integer|bigint|text|date|smallint|boolean|timestamp|jsonb|bytea|numeric|interval"
FORBIDDEN_NAMES = {"utils", "helpers", "common", "manager", "util", "helper", "misc"}


def problems(root: Path = ROOT) -> list[str]:
    """Return one line for everything that is out of place."""
    return [*_source_roots(root), *_modules(root), *_statements(root)]


def _source_roots(root: Path) -> list[str]:
    found = []
    for name, package in SOURCE_ROOTS.items():
        for path in sorted((root / name).iterdir()):
            if path.name not in (package, "__pycache__") and not path.name.endswith(".egg-info"):
                found.append(f"{path.relative_to(root)}: a source root holds its one package and nothing else")
    return found


def _modules(root: Path) -> list[str]:
    found = []
    for source in SOURCE_ROOTS:
        for path in sorted((root / source).rglob("*.py")):
            relative = path.relative_to(root)
            if path.stem in FORBIDDEN_NAMES:
                found.append(f"{relative}: a function lives with the noun that it serves, not in `{path.stem}`")
            text = path.read_text(encoding="utf-8")
            if text.count("\n") > MAX_LINES and "tables" not in path.stem and "versions" not in path.parts:
                found.append(f"{relative}: {text.count(chr(10))} lines, expected at most {MAX_LINES}")
            if text.strip() and not text.lstrip().startswith(('"""', 'r"""')):
                found.append(f"{relative}: expected a docstring that says why the file exists")
    return found


def _statements(root: Path) -> list[str]:
    found = []
    for source in SOURCE_ROOTS:
        for path in sorted((root / source).rglob("*.sql")):
            text = path.read_text(encoding="utf-8")
            relative = path.relative_to(root)
            if text.startswith("/*---"):
                continue  # an outcome task: its front matter is checked by `platform tasks check`
            if not re.match(r"-- \S+\.sql: \S", text):
                found.append(f"{relative}: expected a first line `-- name.sql: what it finds`")
            declared, used = declared_parameters(text), used_parameters(text)
            for name in sorted(used ^ declared):
                found.append(f"{relative}: parameter `{name}` is {'used' if name in used else 'declared'} only")
    return found


def declared_parameters(text: str) -> set[str]:
    """Return the names that the header's `-- params:` paragraph gives a type: `a, b text; c bigint[]`."""
    match = re.search(r"^-- params:(.*?)(?=^-- [a-z]+:|^(?!--))", text, re.MULTILINE | re.DOTALL)
    paragraph = match[1].replace("\n--", "\n") if match else ""
    groups = re.findall(rf"(?:^|[;,\n])\s*((?:[a-z_]+, )*[a-z_]+) (?:{TYPES})\b", paragraph)
    return {name for group in groups for name in group.split(", ")}


def used_parameters(text: str) -> set[str]:
    """Return the names that the statement binds."""
    body = "\n".join(line.partition("--")[0] for line in text.splitlines())
    return set(re.findall(r"%\(([a-z_]+)\)s", body)) | set(re.findall(r"(?<![:\w]):([a-z_]+)", body))


if __name__ == "__main__":
    lines = problems()
    print("\n".join(lines) or "layout: nothing out of place")
    sys.exit(1 if lines else 0)
