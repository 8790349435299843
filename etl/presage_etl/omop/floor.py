"""The concept floor: OMOP-made concepts that the mappings name, given to a subset that lacks them (E16)."""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from psycopg import sql

from presage_etl.omop.swap import LOADING
from presage_platform.errors import VocabularyError

if TYPE_CHECKING:
    import psycopg

FULL_VOCABULARY = 100_000
"""A vocabulary with fewer concepts than this is a subset."""


def read_floor() -> list[dict[str, str]]:
    """Return the rows of concept_floor.csv."""
    text = files("presage_platform.omop").joinpath("concept_floor.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def apply_floor(connection: psycopg.Connection[Any], remarks: list[str]) -> int:
    """Check the concepts being loaded against the floor and add to a subset what it lacks; return how many.

    Raises
    ------
    VocabularyError
        When a full vocabulary lacks a floor concept, or one that is present is of another vocabulary or standing.
    """
    concept = sql.Identifier(f"{LOADING}concept")
    floor = {int(row["concept_id"]): row for row in read_floor()}
    found = connection.execute(
        sql.SQL(
            """
            SELECT concept_id, concept_name, vocabulary_id, coalesce(standard_concept, ''), count(*) OVER ()
            FROM {} WHERE concept_id = ANY(%s)
            """
        ).format(concept),
        [list(floor)],
    ).fetchall()
    for concept_id, name, vocabulary_id, standard, _ in found:
        _compare(floor[concept_id], str(name), str(vocabulary_id), str(standard), remarks)
    missing = [row for concept_id, row in floor.items() if concept_id not in {known[0] for known in found}]
    if not missing:
        return 0
    counted = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(concept)).fetchone()
    if counted and counted[0] >= FULL_VOCABULARY:
        names = ", ".join(f"{row['concept_id']} {row['concept_name']}" for row in missing)
        raise VocabularyError(
            f"the vocabulary lacks {len(missing)} concepts that every release has: {names}; "
            "download it again with the OMOP-generated vocabularies selected"
        )
    _add(connection, concept, missing)
    remarks.append(f"{len(missing)} OMOP concepts that this subset lacks were added from the concept floor")
    return len(missing)


def _compare(expected: dict[str, str], name: str, vocabulary_id: str, standard: str, remarks: list[str]) -> None:
    if (vocabulary_id, standard) != (expected["vocabulary_id"], expected["standard_concept"]):
        raise VocabularyError(
            f"concept {expected['concept_id']} is of vocabulary {vocabulary_id}, standard '{standard}'; expected "
            f"{expected['vocabulary_id']}, standard '{expected['standard_concept']}': not an OMOP vocabulary"
        )
    if name.lower() != expected["concept_name"].lower():
        remarks.append(f"concept {expected['concept_id']} is named '{name}' here, '{expected['concept_name']}' before")


def _add(connection: psycopg.Connection[Any], concept: sql.Identifier, rows: list[dict[str, str]]) -> None:
    """Add rows whose code says where they come from: no lookup by code should ever hit them."""
    statement = sql.SQL(
        """
        INSERT INTO {} (concept_id, concept_name, domain_id, vocabulary_id, concept_class_id, standard_concept,
                        concept_code, valid_start_date, valid_end_date)
        VALUES (%(concept_id)s, %(concept_name)s, %(domain_id)s, %(vocabulary_id)s, %(concept_class_id)s,
                %(standard_concept)s, %(concept_code)s, '1970-01-01', '2099-12-31')
        """
    ).format(concept)
    with connection.cursor() as cursor:
        cursor.executemany(statement, [row | {"concept_code": f"floor-{row['concept_id']}"} for row in rows])
