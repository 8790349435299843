"""A vocabulary with the concepts that the shipped tasks name, and one descendant."""

from __future__ import annotations

from typing import Any

CONCEPTS = (
    *((concept, "Condition", "SNOMED", code) for code, concept in (
        ("70995007", 4322024), ("59282003", 440417), ("60046008", 254061), ("46621007", 261880),
        ("95436008", 4318404), ("19242006", 4078925), ("8186001", 314658), ("267038008", 433595),
        ("36118008", 253796), ("84114007", 316139),
    )),
    (9201, "Visit", "Visit", "IP"),
    (262, "Visit", "Visit", "ERIP"),
    (3000963, "Measurement", "LOINC", "718-7"),
    (3029187, "Measurement", "LOINC", "33762-6"),
    (3023103, "Measurement", "LOINC", "2823-3"),
    (8753, "Unit", "UCUM", "mmol/L"),
    (8713, "Unit", "UCUM", "g/dL"),
    (8636, "Unit", "UCUM", "g/L"),
    (8845, "Unit", "UCUM", "pg/mL"),
    (8725, "Unit", "UCUM", "ng/L"),
)  # fmt: skip
DESCENDANT = 2000000001
"""A concept below pleural effusion."""


def fill_task_vocabulary(connection: Any) -> None:
    """Put the concepts into an empty CDM and commit."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO concept (concept_id, concept_name, domain_id, vocabulary_id, concept_class_id,"
            " standard_concept, concept_code, valid_start_date, valid_end_date)"
            " VALUES (%s, 'made up', %s, %s, 'x', 'S', %s, '1970-01-01', '2099-12-31')",
            CONCEPTS,
        )
        cursor.executemany("INSERT INTO concept_ancestor VALUES (%s, %s, 0, 0)", [(c[0], c[0]) for c in CONCEPTS])
    connection.execute("INSERT INTO concept_ancestor VALUES (254061, %s, 1, 1)", [DESCENDANT])
    connection.execute(
        "INSERT INTO vocabulary (vocabulary_id, vocabulary_name, vocabulary_reference, vocabulary_version,"
        " vocabulary_concept_id) VALUES ('None', 'x', 'x', 'test 1', 0)"
    )
    connection.commit()
