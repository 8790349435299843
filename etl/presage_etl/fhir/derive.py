"""What is computed from the merged rows: observation periods of touched persons, and cdm_source (E83, E84, E87)."""

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
    _observation_periods(cursor, derivation)
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


def _observation_periods(cursor: psycopg.ClientCursor[Any], derivation: Derivation) -> None:
    cursor.execute("SELECT last_id FROM id_counter WHERE name = 'observation_period'")
    row = cursor.fetchone()
    gap = derivation.observation_period.partition("=")[2]
    cursor.execute(
        (SQL / "observation_period.sql").read_text(),
        {
            "run_no": derivation.run_no,
            "extracted_on": derivation.extraction_date,
            "gap_days": int(gap) if gap else None,
            "last_id": int(row[0]) if row else 0,
        },
    )
    next_ids(cursor.connection, "observation_period", max(cursor.rowcount, 0))


def analyze(connection: psycopg.Connection[Any], tables: list[str]) -> None:
    """Refresh the planner's statistics of the tables that a run wrote."""
    for name in tables:
        connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(name)))
