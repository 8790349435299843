"""Our declaration of the CDM against the published definition: every table, field, required flag, type and key."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from sqlalchemy import BigInteger, Column, Date, Double, Integer, String, Text
from sqlalchemy.dialects.postgresql import TIMESTAMP

from presage_platform.omop.tables import CLINICAL_TABLES, TABLES, VOCABULARY_TABLES

pytestmark = pytest.mark.real_data

Row = dict[str, str]


@pytest.fixture(scope="module")
def fields(real_data: Path) -> list[Row]:
    return _read(real_data / "cdm_5_4" / "OMOP_CDMv5.4_Field_Level.csv")


@pytest.fixture(scope="module")
def schema_of(real_data: Path) -> dict[str, str]:
    rows = _read(real_data / "cdm_5_4" / "OMOP_CDMv5.4_Table_Level.csv")
    return {row["cdmTableName"].lower(): row["schema"] for row in rows}


def test_p33_all_39_tables_are_declared(schema_of: dict[str, str]) -> None:
    assert set(TABLES) == set(schema_of)
    assert len(TABLES) == 39
    assert set(VOCABULARY_TABLES) == {name for name, schema in schema_of.items() if schema == "VOCAB"}
    assert {name for name, table in TABLES.items() if table.schema == "results"} == {"cohort", "cohort_definition"}
    assert set(CLINICAL_TABLES) <= {name for name, schema in schema_of.items() if schema == "CDM"}


def test_p33_every_field_is_declared_in_its_order(fields: list[Row]) -> None:
    published: dict[str, list[str]] = {}
    for row in fields:
        published.setdefault(row["cdmTableName"].lower(), []).append(_name(row))
    assert {name: [column.name for column in table.columns] for name, table in TABLES.items()} == published


def test_p33_required_flags_agree(fields: list[Row]) -> None:
    differing = [_where(row) for row in fields if _column(row).nullable == (row["isRequired"] == "Yes")]
    assert differing == []


def test_p33_types_agree_and_only_keys_are_wider(fields: list[Row]) -> None:
    differing = {_where(row): str(_column(row).type) for row in fields if not _type_agrees(row)}
    assert differing == {}


def test_p33_primary_keys_agree(fields: list[Row]) -> None:
    published = {_where(row) for row in fields if row["isPrimaryKey"].lower() == "yes"}
    declared = {f"{t.name}.{column.name}" for t in TABLES.values() for column in t.primary_key.columns}
    assert declared == published


def test_p33_clinical_references_are_enforced_and_none_into_the_vocabulary(
    fields: list[Row], schema_of: dict[str, str]
) -> None:
    published = {
        _where(row): f"{row['fkTableName']}.{row['fkFieldName']}".lower()
        for row in fields
        if row["isForeignKey"] == "Yes" and schema_of[row["fkTableName"].lower()] == "CDM"
    }
    declared = {
        f"{table.name}.{key.parent.name}": key.target_fullname.removeprefix("cdm.")
        for table in TABLES.values()
        for key in table.foreign_keys
    }
    assert declared == published
    assert not {target.split(".")[0] for target in declared.values()} & set(VOCABULARY_TABLES)


def test_p33_every_table_has_a_comment_of_one_line() -> None:
    comments = {name: table.comment or "" for name, table in TABLES.items()}
    assert {name for name, comment in comments.items() if not comment.endswith(".") or "\n" in comment} == set()
    assert len(set(comments.values())) == 39


def _read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def _name(row: Row) -> str:
    return row["cdmFieldName"].lower().strip('"')


def _where(row: Row) -> str:
    return f"{row['cdmTableName'].lower()}.{_name(row)}"


def _column(row: Row) -> Column[object]:
    return TABLES[row["cdmTableName"].lower()].columns[_name(row)]


def _type_agrees(row: Row) -> bool:
    declared, published = _column(row).type, row["cdmDatatype"].lower()
    if published.startswith("varchar"):
        width = published[len("varchar(") : -1]
        if width == "max":
            return type(declared) is Text
        return type(declared) is String and declared.length == int(width)
    if published == "integer":
        return type(declared) is (BigInteger if _is_key(row) else Integer)
    exact = {"float": Double, "date": Date}
    if published == "datetime":
        return isinstance(declared, TIMESTAMP) and not declared.timezone
    return type(declared) is exact[published]


def _is_key(row: Row) -> bool:
    """Keys of clinical rows and whatever points at one; concepts, years and counts are not."""
    name = _name(row)
    is_concept = "concept" in name or row["fkTableName"].lower() in VOCABULARY_TABLES
    return name.startswith("fact_id_") or (name.endswith("_id") and not is_concept)
