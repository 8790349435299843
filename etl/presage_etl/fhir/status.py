"""What stands in the database and how it came there: `platform etl status` and `platform etl unmapped` (E40, E99)."""

from __future__ import annotations

import csv
import os
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from presage_etl.fhir.stage import ROW_TABLES
from presage_platform.errors import InputError
from presage_platform.postgres.connection import open_database

if TYPE_CHECKING:
    from presage_platform.settings import Settings

SQL = files("presage_etl.fhir") / "sql"
LAST_RUNS = 5
USAGI_COLUMNS = ("sourceCode", "sourceName", "sourceFrequency", "sourceAutoAssignedConceptIds", "ADD_INFO:system")


def status(*, settings: Settings) -> dict[str, Any]:
    """Return the state of all loads as plain values, without keys of resources."""
    with open_database(settings, command="etl-status") as database, database.connect() as connection:
        return {
            "runs": _rows(connection, "status_runs", limit=LAST_RUNS),
            "tables": {name: _count(connection, name) for name in (*ROW_TABLES, "observation_period")},
            "dead_letters": _pairs(connection, "status_dead"),
            "exclusions": _pairs(connection, "status_exclusions"),
            "pending_references": _pairs(connection, "status_pending"),
            "unfinished_chunks": _pairs(connection, "status_chunks"),
            "unmapped_by_system": _rows(connection, "status_unmapped"),
        }


def status_text(found: dict[str, Any]) -> str:
    """Return the status as it is printed."""
    lines = ["last runs"]
    for run in found["runs"]:
        lines.append(
            f"  {run['run_no']:>6}  {run['command']:<14}{run['state']:<12}{run['started_at']:%Y-%m-%d %H:%M}  "
            f"{run['source'] or '':<12} {run['vocabulary_release'] or ''}  policies {run['policy_hash'] or 'none'}"
        )
    lines += ["rows", *(f"  {name:<26}{number:>12}" for name, number in found["tables"].items() if number)]
    for title, name in (
        ("dead letters", "dead_letters"),
        ("exclusions of the last run", "exclusions"),
        ("references that wait", "pending_references"),
        ("chunks of unfinished runs", "unfinished_chunks"),
    ):
        lines += [title, *(f"  {reason:<40}{number:>12}" for reason, number in found[name].items())]
        lines += [] if found[name] else ["  none"]
    lines.append("codes without a standard concept, by system")
    for row in found["unmapped_by_system"]:
        lines.append(f"  {row['system'] or '(none)':<60}{row['codes']:>8} codes{row['uses']:>10} uses")
    return "\n".join(lines)


def unmapped(*, settings: Settings, limit: int | None = None) -> list[dict[str, Any]]:
    """Return the codes that reached no standard concept, the most frequent first (E40)."""
    with open_database(settings, command="etl-unmapped") as database, database.connect() as connection:
        return _rows(connection, "unmapped_codes", limit=limit)


def unmapped_text(found: list[dict[str, Any]]) -> str:
    """Return the list as it is printed."""
    if not found:
        return "every code that was read reached a standard concept"
    lines = [f"{'count':>9}{'share':>8}{'persons':>9}  {'reason':<18}{'code':<24}system"]
    for row in found:
        lines.append(
            f"{row['count']:>9}{row['share']:>8.2%}{row['persons']:>9}  "
            f"{row['reason']:<18}{row['code'][:22]:<24}{row['system']}"
        )
    return "\n".join(lines)


def export_usagi(path: Path, *, settings: Settings) -> int:
    """Write all unmapped codes as Usagi reads them and return their number."""
    found = unmapped(settings=settings)
    partial = path.with_name(path.name + ".part")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): choose another place") from None
    with os.fdopen(descriptor, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(USAGI_COLUMNS)
        for row in found:
            writer.writerow([row["code"], row["display"] or "", row["count"], "", row["system"]])
    partial.replace(path)
    return len(found)


def _rows(connection: psycopg.Connection[Any], name: str, **parameters: Any) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute((SQL / f"{name}.sql").read_text(), parameters or None)
        return cursor.fetchall()


def _pairs(connection: psycopg.Connection[Any], name: str) -> dict[str, int]:
    return dict(connection.execute((SQL / f"{name}.sql").read_text()).fetchall())


def _count(connection: psycopg.Connection[Any], table: str) -> int:
    row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
    return int(row[0]) if row else 0
