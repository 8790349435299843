"""From a task file to something that can run: checked blocks, numbered parameters, concept sets fixed by a lock.

A lock file holds the concepts that a set resolved to, so that the same task means the same thing tomorrow. Another
vocabulary, or another file, makes the lock stale; `platform tasks lock` renews it and says what was gained and lost.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Any

import sqlglot
from sqlalchemy import Table
from sqlglot.tokens import TokenType  # type: ignore[attr-defined]  # re-exported, without saying so

from presage_platform.errors import TaskError
from presage_platform.labeling.hashing import hash_json
from presage_platform.labeling.statements import statement
from presage_platform.labeling.tasks.definition import ConceptSet, Parameter, Task
from presage_platform.labeling.tasks.guard import CONCEPT_SET, ERA, TASK_INDEX, check_query
from presage_platform.omop.tables import cdm_metadata
from presage_platform.runs import write_atomically

LOCK_FORMAT = 1
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
    """A task that passed the static checks."""

    task: Task
    body: Block
    at_risk: Block | None
    censor: Block | None


@dataclass(frozen=True)
class Lock:
    """The concepts of each set, and what they were resolved with."""

    document: dict[str, Any]

    @property
    def lock_hash(self) -> str:
        """Hash of the whole lock: part of an outcome's identity."""
        return hash_json(self.document)

    def concept_ids(self, name: str) -> list[int]:
        """Return the sorted concept ids of a set."""
        return [int(concept) for concept in self.document["concept_sets"][name]["concept_ids"]]


def compile_task(task: Task) -> Compiled:
    """Check every block of a task against Q1–Q11 and number its parameters.

    Raises
    ------
    TaskError
        `task NAME: Qn line:col …`
    """
    relations = relations_of(task)
    declared = set(task.front.params)
    used: set[str] = set()
    blocks: dict[str, Block] = {}
    for name, sql in (("body", task.body), ("at_risk", task.at_risk), ("censor", task.censor)):
        if sql is None:
            continue
        try:
            check_query(sql, block=name, relations=relations, parameters=declared)
        except TaskError as error:
            raise TaskError(f"task {task.name}: {error}") from None
        blocks[name], names = number_parameters(sql, task.front.params)
        used |= names
    if declared - used:
        raise TaskError(f"task {task.name}: parameter `{sorted(declared - used)[0]}` is declared and never used")
    return Compiled(task, blocks["body"], blocks.get("at_risk"), blocks.get("censor"))


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


def resolve_lock(task: Task, connection: Any) -> Lock:
    """Resolve the concept sets of a task in the vocabulary of a database.

    Raises
    ------
    TaskError
        When a code is not found, is ambiguous, has no standard concept, or is not the one that was expected.
    """
    sets = {name: _resolve_set(task, name, declared, connection) for name, declared in task.front.concept_sets.items()}
    return Lock(
        {
            "format": LOCK_FORMAT,
            "task": task.name,
            "version": task.front.version,
            "body_sha256": task.body_hash,
            "vocabulary_version": vocabulary_version(connection),
            "concept_sets": sets,
        }
    )


def read_lock(task: Task, connection: Any) -> Lock:
    """Read a task's lock and refuse one that is missing, stale, or made with another vocabulary."""
    remedy = f"run `platform tasks lock {task.path}`"
    try:
        document = json.loads(task.lock_path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TaskError(f"task {task.name}: not locked: {remedy}") from None
    except ValueError:
        raise TaskError(f"task {task.name}: its lock file is damaged: {remedy}") from None
    if document.get("body_sha256") != task.body_hash:
        raise TaskError(
            f"task {task.name}: changed since it was locked: raise its version if its meaning changed, {remedy}"
        )
    found = vocabulary_version(connection)
    if document.get("vocabulary_version") != found:
        raise TaskError(
            f"task {task.name}: locked with vocabulary {document.get('vocabulary_version')}, found {found}: {remedy}"
        )
    return Lock(document)


def write_lock(task: Task, lock: Lock) -> dict[str, tuple[int, int]]:
    """Write a task's lock; return concepts gained and lost by set.

    Raises
    ------
    TaskError
        When the file's text changed and its version did not rise.
    """
    before: dict[str, Any] = {}
    if task.lock_path.is_file():
        before = json.loads(task.lock_path.read_text(encoding="utf-8"))
        if before.get("body_sha256") != task.body_hash and task.front.version <= int(before.get("version", 0)):
            raise TaskError(
                f"task {task.name}: its text changed and its version is still {task.front.version}: raise the version"
            )
    changes = {}
    for name, resolved in lock.document["concept_sets"].items():
        old = set(before.get("concept_sets", {}).get(name, {}).get("concept_ids", []))
        new = set(resolved["concept_ids"])
        changes[name] = (len(new - old), len(old - new))
    write_atomically(task.lock_path, (json.dumps(lock.document, indent=1, sort_keys=True) + "\n").encode())
    return changes


def vocabulary_version(connection: Any) -> str:
    """Return the release of the loaded vocabulary, as its own table states it."""
    row = connection.execute("SELECT vocabulary_version FROM vocabulary WHERE vocabulary_id = 'None'").fetchone()
    return str(row[0]) if row and row[0] else "unversioned"


def _resolve_set(task: Task, name: str, declared: ConceptSet, connection: Any) -> dict[str, Any]:
    roots = [_resolve_code(task, code, connection) for code in declared.include]
    if declared.expect_concept_id is not None and [root[0] for root in roots] != [declared.expect_concept_id]:
        raise TaskError(
            f"task {task.name}: concept set {name} resolves to {roots[0][0]}, expected {declared.expect_concept_id}: "
            "another vocabulary, or a wrong code"
        )
    included = {root[0] for root in roots}
    excluded = {_resolve_code(task, code, connection)[0] for code in declared.exclude}
    if declared.descendants:
        included = _with_descendants(connection, included)
        excluded = _with_descendants(connection, excluded)
    ids = sorted(included - excluded)
    return {
        "concept_ids": ids,
        "roots": [
            {"code": code, "concept_id": root[0], "name": root[1]}
            for code, root in zip(declared.include, roots, strict=True)
        ],
        "sha256": hash_json(ids),
    }


def _resolve_code(task: Task, code: str, connection: Any) -> tuple[int, str]:
    vocabulary, _, concept_code = code.partition(":")
    rows = connection.execute(
        statement("task_concept"), {"vocabulary_id": vocabulary, "concept_code": concept_code}
    ).fetchall()
    if not rows:
        raise TaskError(f"task {task.name}: {code} is not in the vocabulary, or maps to no standard concept")
    if len(rows) > 1:
        raise TaskError(f"task {task.name}: {code} maps to {len(rows)} standard concepts: name the standard ones")
    return int(rows[0][0]), str(rows[0][1])


def _with_descendants(connection: Any, concepts: set[int]) -> set[int]:
    rows = connection.execute(statement("task_descendants"), {"concept_ids": sorted(concepts)}).fetchall()
    return concepts | {int(row[0]) for row in rows}
