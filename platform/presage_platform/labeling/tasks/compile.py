"""From a task file to something that can run: blocks that passed the guard, with numbered parameters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Any

import sqlglot
from sqlalchemy import Table
from sqlglot.tokens import TokenType  # type: ignore[attr-defined]  # re-exported, without saying so

from presage_platform.errors import TaskError
from presage_platform.labeling.tasks.definition import Task
from presage_platform.labeling.tasks.front_matter import Parameter
from presage_platform.labeling.tasks.guard import COHORT, CONCEPT_SET, ERA, TASK_INDEX, check_query
from presage_platform.omop.tables import cdm_metadata

COHORT_BODY = """
select i.study_id, c.cohort_start_date as event_date
from   task_index i
join   cohort c on c.subject_id = i.person_id
"""
"""The body of every `kind: cohort`; the relation `cohort` holds the rows of its `cohort_definition_id` alone."""
FREE_TEXT = frozenset({"note", "note_nlp"})
POSTGRES_TYPES = {
    "integer": "integer",
    "number": "double precision",
    "date": "date",
    "interval": "interval",
    "text": "text",
}


@dataclass(frozen=True)
class Block:
    """A query ready to be sent: text with `$1, $2, …` and the values in that order."""

    sql: str
    values: tuple[int | float | str | date, ...]


@dataclass(frozen=True)
class Compiled:
    """A task that passed the static checks; a concept task has no query, so its body is empty."""

    task: Task
    body: Block
    at_risk: Block | None
    censor: Block | None


def compile_task(task: Task) -> Compiled:
    """Check every block of a task against Q1–Q11 and number its parameters.

    Raises
    ------
    TaskError
        `task NAME: Qn line:col …`
    """
    if task.front.kind == "concept":
        relations_of(task)
        return Compiled(task, Block("", ()), None, None)
    relations = relations_of(task)
    declared = set(task.front.params)
    used: set[str] = set()
    blocks: dict[str, Block] = {}
    body = COHORT_BODY if task.front.kind == "cohort" else task.body
    for name, sql in (("body", body), ("at_risk", task.at_risk), ("censor", task.censor)):
        if sql is None:
            continue
        try:
            line = task.line_of(name) if task.has_body else 1
            tree: Any = check_query(sql, block=name, relations=relations, parameters=declared, first_line=line)
            _require_values(task, name, tree.named_selects)
        except TaskError as error:
            raise TaskError(f"task {task.name}: {error}") from None
        blocks[name], names = number_parameters(sql, task.front.params)
        used |= names
    if declared - used:
        raise TaskError(f"task {task.name}: parameter `{sorted(declared - used)[0]}` is declared and never used")
    return Compiled(task, blocks["body"], blocks.get("at_risk"), blocks.get("censor"))


def _require_values(task: Task, block: str, returned: list[str]) -> None:
    """Raise when the body of a threshold task returns no value or no unit."""
    if block == "body" and task.front.threshold is not None:
        missing = sorted({"value", "unit_concept_id"} - set(returned))
        if missing:
            raise TaskError(f"Q10 1:1 returns no {', '.join(missing)}, which `threshold` compares")


def relations_of(task: Task) -> dict[str, dict[str, str]]:
    """Return every relation that a task may read, with its columns: `requires`, task_index, cs_…, era_…."""
    relations = {"task_index": dict(TASK_INDEX)}
    tables: dict[str, Table] = {table.name: table for table in cdm_metadata.tables.values()}
    for name in task.front.requires:
        if name not in tables or name in FREE_TEXT:
            raise TaskError(
                f"task {task.name}: `requires` names `{name}`, expected tables of the CDM without free text"
            )
        relations[name] = {column.name: str(column.type).lower() for column in tables[name].columns}
    if task.front.kind == "cohort":
        relations["cohort"] = dict(COHORT)
    relations |= {f"cs_{name}": dict(CONCEPT_SET) for name in task.front.concept_sets}
    relations |= {f"era_{name}": dict(ERA) for name in task.front.eras}
    return relations


def number_parameters(sql: str, params: dict[str, Parameter]) -> tuple[Block, set[str]]:
    """Return the query with `:name` as typed server-side parameters, and the names that it uses.

    Names are found as tokens, so a colon in a text or a `::` is left alone. Values never become part of the text.
    """
    order: list[str] = []
    pieces: list[str] = []
    end = 0
    tokens = sqlglot.tokenize(sql, dialect="postgres")
    for colon, name in pairwise(tokens):
        if colon.token_type != TokenType.COLON or name.text not in params or name.start != colon.end + 1:
            continue
        if name.text not in order:
            order.append(name.text)
        kind = POSTGRES_TYPES[params[name.text].type]
        pieces += [sql[end : colon.start], f"CAST(${order.index(name.text) + 1} AS {kind})"]
        end = name.end + 1
    return Block("".join([*pieces, sql[end:]]), tuple(params[name].value for name in order)), set(order)
