"""What became of one resource: where it came from, its codes and their paths, its rows, or why it has none (E98)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
import zstandard
from psycopg.rows import dict_row

from presage_etl.fhir.again import read_again
from presage_etl.fhir.coding import CodeSystems
from presage_etl.fhir.context import open_context
from presage_etl.fhir.inputs import find_files
from presage_etl.fhir.mapping import map_resource
from presage_etl.fhir.outcome import Excluded, Loaded, Outcome
from presage_etl.fhir.reader import partitions, read
from presage_etl.policies import read_policies
from presage_platform.errors import InputError, UsageError
from presage_platform.ledger.tables import TABLE_NUMBERS
from presage_platform.omop.vocabulary import Resolver
from presage_platform.postgres.connection import open_database

if TYPE_CHECKING:
    from presage_platform.settings import Settings

SQL = files("presage_etl.fhir") / "sql"
TABLE_NAMES = {number: name for name, number in TABLE_NUMBERS.items()}


def explain(key: str, *, settings: Settings, source: str | None = None) -> dict[str, Any]:
    """Return everything the ledger knows of a resource, and its codes with their paths when its file is still there.

    Raises
    ------
    UsageError
        When `key` is not `Type/id`.
    InputError
        When no such resource was ever met.
    """
    kind, slash, resource_id = key.partition("/")
    if not (kind and slash and resource_id):
        raise UsageError("etl explain expects Type/id, for example Observation/123")
    asked = {"type": kind, "id": resource_id, "source": source or settings.etl.source}
    with open_database(settings, command="etl-explain") as database, database.connect() as connection:
        held = _rows(connection, "explain_resource", **asked)
        letters = _rows(connection, "explain_letters", **asked)
        if not held and not letters:
            raise InputError(
                f"no {kind} with this id was ever read from source {asked['source']}: check type, id, --source"
            )
        found: dict[str, Any] = {"resource": key, "source": asked["source"]}
        if held:
            found |= {name: value for name, value in held[0].items() if name != "resource_no"}
            found["rows"] = _origins(connection, held[0]["resource_no"])
            found["unmapped"] = _rows(connection, "explain_unmapped", resource_no=held[0]["resource_no"])
        found["dead_letters"] = [{n: v for n, v in letter.items() if n != "payload"} for letter in letters]
        raw = _bytes_of(held[0], settings) if held else _payload(letters)
        found["codes"] = _codes(connection, settings, raw) if raw else "the source file is gone or has changed"
        return found


def explain_file(path: Path, *, settings: Settings) -> dict[str, Any]:
    """Map the resources of one file without loading them; only the vocabulary is asked."""
    with open_database(settings, command="etl-explain") as database, database.connect() as connection:
        policies = read_policies(settings.etl.policies)
        context = open_context(connection, settings, extraction_date=date.today(), policies=policies)
        results: list[dict[str, Any]] = []
        for partition in partitions(find_files([path])):
            for entry in read(partition):
                if entry.dead or entry.excluded:
                    results.append({"outcome": entry.dead or entry.excluded})
                    continue
                kind, resource_id = _name(entry.raw)
                outcome = map_resource(kind or "", entry.raw, context)
                codes = _codes(connection, settings, entry.raw)
                results.append({"resource": f"{kind}/{resource_id}", **_outcome(outcome), "codes": codes})
        return {"file": str(path), "resources": results}


def as_text(found: dict[str, Any]) -> str:
    """Return an explanation as it is printed: one line a fact, indented by depth."""
    return "\n".join(_lines(found, 0))


def _lines(value: Any, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, item in value.items():
        if isinstance(item, list):
            yield f"{indent}{name}: {len(item) or 'none'}"
            for part in item:
                if isinstance(part, dict):
                    yield f"{indent}  -"
                    yield from _lines(part, depth + 2)
                else:
                    yield f"{indent}  {part}"
        elif isinstance(item, dict):
            yield f"{indent}{name}:"
            yield from _lines(item, depth + 1)
        elif item is not None:
            yield f"{indent}{name}: {item}"


def _rows(connection: psycopg.Connection[Any], name: str, **parameters: Any) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute((SQL / f"{name}.sql").read_text(), parameters)
        return cursor.fetchall()


def _origins(connection: psycopg.Connection[Any], resource_no: int) -> list[dict[str, Any]]:
    return [
        {"table": TABLE_NAMES[row.pop("table_no")], **row}
        for row in _rows(connection, "explain_rows", resource_no=resource_no)
    ]


def _outcome(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Loaded):
        rows = [
            {"table": row.table, "slot": row.slot, "rule": f"E{row.rule}", **_shown(row.values), **row.refs}
            for row in outcome.rows
        ]
        notes = [" ".join(filter(None, (note.kind, note.element, note.detail))) for note in outcome.notes]
        return {"outcome": "loaded", "rows": rows, "notes": notes}
    if isinstance(outcome, Excluded):
        return {"outcome": "excluded", "reason": outcome.reason}
    return {"outcome": "dead", "reason": outcome.reason, "path": outcome.path}


def _shown(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _bytes_of(held: dict[str, Any], settings: Settings) -> bytes | None:
    """Read the resource once more from its file, if it still is the same."""
    if held["path"] is None:
        return None
    bases = frozenset(base.rstrip("/") for base in settings.etl.bases)
    found = read_again([(0, held["path"], held["sha256"], held["byte_offset"])], bases)
    return zstandard.decompress(found[0]) if found else None


def _payload(letters: list[dict[str, Any]]) -> bytes | None:
    payload = letters[0]["payload"] if letters else None
    return zstandard.decompress(payload) if payload else None


def _name(raw: bytes) -> tuple[str | None, str | None]:
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None, None
    return (value.get("resourceType"), value.get("id")) if isinstance(value, dict) else (None, None)


def _codes(connection: psycopg.Connection[Any], settings: Settings, raw: bytes) -> list[dict[str, Any]]:
    """Return each coding with its path: system → vocabulary → source concept → targets (E32)."""
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return []
    systems, resolver = CodeSystems(settings.etl.code_systems), Resolver(connection)
    found: list[dict[str, Any]] = []
    for path, system, code in _codings(document, ""):
        lookup = systems.lookup(system, code)
        resolved = resolver.resolve(lookup.pairs)
        steps = []
        for pair in lookup.pairs:
            resolution = resolved[pair]
            targets = ", ".join(f"{target.concept_id} ({target.domain_id})" for target in resolution.targets)
            concept = resolution.source_concept_id or "no concept"
            steps.append(f"{pair[0]} {pair[1]} → {concept} → {targets or resolution.reason}")
        found.append(
            {"element": path, "system": system, "code": code, "path": steps or [lookup.refusal or "no vocabulary"]}
        )
    return found


def _codings(value: Any, path: str) -> Iterator[tuple[str, str | None, str]]:
    if isinstance(value, dict):
        if isinstance(value.get("code"), str) and ("system" in value or path.endswith("coding")):
            yield path, value.get("system"), value["code"]
            return
        for name, item in value.items():
            yield from _codings(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for item in value:
            yield from _codings(item, path)
