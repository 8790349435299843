"""FHIR resources and the rows they become, as data: one folder a case, `in.json`, `out.csv`, `README.md`.

`out.csv` names the columns that matter to the case; they are compared exactly, and so is the number of rows. A column
`<x>_key` is what the id column `<x>_id` points at. The line `excluded` or `dead` stands for a resource without rows,
`used` for one that is loaded without a row; lines `note` and `identifier` are compared when there are any.
"""

from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from presage_etl.fhir.mapping import map_resource
from presage_etl.fhir.outcome import Dead, Excluded, Loaded, Outcome, Row
from tests.lib.vocabulary import tiny_context

CASES = sorted(path.parent for path in (Path(__file__).parent / "fhir_to_omop").glob("*/*/in.json"))
MARKS = ("note", "identifier")


def case_name(case: Path) -> str:
    return f"{case.parent.name}/{case.name}"


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_e42_a_resource_becomes_the_rows_beside_it(case: Path) -> None:
    """E42–E74, one case a rule's edge: the README beside it names the rule."""
    expected = read_rows(case / "out.csv")
    columns = expected[0].keys()
    found = [{column: line.get(column, "") for column in columns} for line in map_case(case)]
    for mark in MARKS:
        if not any(line["table"] == mark for line in expected):
            found = [line for line in found if line["table"] != mark]
    assert sorted(map(_flat, found)) == sorted(map(_flat, expected))


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_a_case_says_which_rule_it_shows(case: Path) -> None:
    text = (case / "README.md").read_text(encoding="utf-8")
    assert text.startswith("E") and text.partition(":")[0][1:].replace(", E", "").isdigit()


def test_e44_every_mapped_type_has_a_case() -> None:
    from presage_etl.fhir.mapping import MAPPERS

    shown = {case.parent.name.replace("_", "") for case in CASES}
    assert {name.lower() for name in MAPPERS} <= shown


def map_case(case: Path) -> list[dict[str, str]]:
    """Map the resources of a case and write their outcomes as lines."""
    policies = case / "policies.toml"
    context = tiny_context(tomllib.loads(policies.read_text()) if policies.exists() else None)
    document = json.loads((case / "in.json").read_text(encoding="utf-8"))
    lines: list[dict[str, str]] = []
    for resource in document if isinstance(document, list) else [document]:
        raw = json.dumps(resource).encode()
        lines += _lines(map_resource(resource.get("resourceType", ""), raw, context))
    return lines


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _flat(line: dict[str, str]) -> tuple[str, ...]:
    return tuple(line.values())


def _lines(outcome: Outcome) -> list[dict[str, str]]:
    if isinstance(outcome, Excluded):
        return [{"table": "excluded", "reason": outcome.reason}]
    if isinstance(outcome, Dead):
        return [{"table": "dead", "reason": outcome.reason, "path": outcome.path or ""}]
    return [*map(_row_line, outcome.rows), *_extra_lines(outcome)] or [{"table": "used"}]


def _row_line(row: Row) -> dict[str, str]:
    line = {
        "table": row.table,
        "slot": row.slot,
        "rule": str(row.rule),
        "date_source": row.date_source or "",
        "imputed": row.imputed or "",
        "after_birth": row.after_birth or "",
    }
    line |= {column: _text(value) for column, value in row.values.items()}
    return line | {f"{column.removesuffix('_id')}_key": target for column, target in row.refs.items()}


def _extra_lines(outcome: Loaded) -> list[dict[str, str]]:
    lines = [
        {"table": "note", "kind": note.kind, "element": note.element, "detail": note.detail} for note in outcome.notes
    ]
    for known in outcome.identifiers:
        lines.append({"table": "identifier", "system": known.system or "", "value": known.value})
    return ([] if outcome.rows else [{"table": "used"}]) + lines


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def test_e42_a_mapping_has_no_clock_no_chance_and_no_database() -> None:
    """What a mapping knows is in its arguments: its imports show it."""
    import ast
    import importlib

    from presage_etl.fhir.mapping import MAPPERS

    for mapper in MAPPERS.values():
        source = importlib.import_module(mapper.rows.__module__).__file__
        assert source is not None
        text = Path(source).read_text(encoding="utf-8")
        names = {
            alias.name if isinstance(node, ast.Import) else node.module or ""
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert {name.partition(".")[0] for name in names} <= {
            "__future__", "collections", "datetime", "typing", "msgspec", "presage_etl", "presage_platform",
        }  # fmt: skip
        assert not any(name.startswith(("presage_platform.postgres", "presage_platform.ledger")) for name in names)
        assert "now(" not in text and "today(" not in text
