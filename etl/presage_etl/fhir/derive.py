"""What is computed from the merged rows of touched persons: observation periods, eras; and cdm_source (E83–E87)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from presage_platform.ledger.identity import next_ids

if TYPE_CHECKING:
    from presage_platform.settings import CdmSourceSettings

SQL = files("presage_etl") / "derive"
STANDARD_ALGORITHM = 32882


@dataclass(frozen=True, slots=True)
class Derivation:
    """What the derived tables are computed with."""

    run_no: int
    extraction_date: date
    run_date: date
    observation_period: str
    """`first-to-last`, or `gap=N`."""
    vocabulary_release: str
    reference: str


def derive(connection: psycopg.Connection[Any], derivation: Derivation, declared: CdmSourceSettings) -> None:
    """Bring the derived tables up to date for the persons that the run touched, in the caller's transaction."""
    cursor = psycopg.ClientCursor(connection)
    gap = derivation.observation_period.partition("=")[2]
    period = {"extracted_on": derivation.extraction_date, "gap_days": int(gap) if gap else None}
    _numbered(cursor, "observation_period", {"run_no": derivation.run_no, **period})
    for table in ("condition_era", "drug_era"):
        _numbered(cursor, table, {"run_no": derivation.run_no})
    cursor.execute((SQL / "cause_of_death.sql").read_text(), {"run_no": derivation.run_no})
    cursor.execute(
        (SQL / "cdm_source.sql").read_text(),
        {
            "name": declared.name,
            "abbreviation": declared.abbreviation,
            "holder": declared.holder,
            "reference": derivation.reference,
            "extracted_on": derivation.extraction_date,
            "released_on": derivation.run_date,
            "vocabulary": derivation.vocabulary_release,
        },
    )


def _numbered(cursor: psycopg.ClientCursor[Any], table: str, parameters: dict[str, Any]) -> None:
    """Run one file whose last statement inserts rows under the ids that follow the highest in use."""
    cursor.execute("SELECT last_id FROM id_counter WHERE name = %(name)s", {"name": table})
    row = cursor.fetchone()
    cursor.execute((SQL / f"{table}.sql").read_text(), {**parameters, "last_id": int(row[0]) if row else 0})
    while cursor.nextset():
        pass
    next_ids(cursor.connection, table, max(cursor.rowcount, 0))


def analyze(connection: psycopg.Connection[Any], tables: list[str]) -> None:
    """Refresh the planner's statistics of the tables that a run wrote."""
    for name in tables:
        connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(name)))
