"""Lock files: the concepts that a task's sets resolved to, so that the same task means the same thing tomorrow.

Another vocabulary, or another text, makes a lock stale; `platform tasks lock` renews it and says what was gained and
lost. Concepts are looked up in a database or in a folder of Parquet files, by the same rules.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from presage_platform.errors import InputError, TaskError
from presage_platform.labeling.hashing import hash_json
from presage_platform.labeling.statements import statement
from presage_platform.labeling.tasks.definition import Task
from presage_platform.labeling.tasks.front_matter import GENERALISED_EDEMA, ConceptSet
from presage_platform.runs import write_atomically

LOCK_FORMAT = 1
UNVERSIONED = "unversioned"
EDEMA_CODE = "SNOMED:267038008"
EDEMA_WARNING = (
    "the paper's released code used generalised edema (SNOMED 267038008, concept 433595); results are not comparable"
)


class Concepts(Protocol):
    """Where concepts are looked up."""

    def version(self) -> str:
        """Return the release of the vocabulary, as its own table states it."""

    def standard(self, vocabulary: str, code: str) -> list[tuple[int, str]]:
        """Return id and name of the standard concepts of a code, through valid "Maps to" where it is not standard."""

    def with_descendants(self, concepts: set[int]) -> set[int]:
        """Return some concepts and everything below them."""


@dataclass(frozen=True)
class DatabaseConcepts:
    """The vocabulary tables of a database."""

    connection: Any

    def version(self) -> str:
        """Return the release of the loaded vocabulary."""
        row = self.connection.execute(
            "SELECT vocabulary_version FROM vocabulary WHERE vocabulary_id = 'None'"
        ).fetchone()
        return str(row[0]) if row and row[0] else UNVERSIONED

    def standard(self, vocabulary: str, code: str) -> list[tuple[int, str]]:
        """Return the standard concepts of a code."""
        rows = self.connection.execute(
            statement("task_concept"), {"vocabulary_id": vocabulary, "concept_code": code}
        ).fetchall()
        return [(int(row[0]), str(row[1])) for row in rows]

    def with_descendants(self, concepts: set[int]) -> set[int]:
        """Return some concepts and everything below them."""
        rows = self.connection.execute(statement("task_descendants"), {"concept_ids": sorted(concepts)}).fetchall()
        return concepts | {int(row[0]) for row in rows}


@dataclass(frozen=True)
class FolderConcepts:
    """`concept.parquet`, `concept_ancestor.parquet` and, where they exist, `concept_relationship.parquet` (Maps to) and
    `vocabulary.parquet` (the release; where there is none, what `otherwise` says)."""

    folder: Path
    otherwise: str = UNVERSIONED

    def version(self) -> str:
        """Return the release of the vocabulary."""
        if not (self.folder / "vocabulary.parquet").is_file():
            return self.otherwise
        rows = _rows(self.folder, "vocabulary", ["vocabulary_version"], [("vocabulary_id", "==", "None")])
        return str(rows[0]["vocabulary_version"]) if rows and rows[0]["vocabulary_version"] else UNVERSIONED

    def standard(self, vocabulary: str, code: str) -> list[tuple[int, str]]:
        """Return the standard concepts of a code."""
        found = self._concepts([("vocabulary_id", "==", vocabulary), ("concept_code", "==", code)])
        ids = {int(row["concept_id"]) for row in found if row["standard_concept"] != "S"}
        if ids and (self.folder / "concept_relationship.parquet").is_file():
            kind = [("relationship_id", "==", "Maps to"), ("concept_id_1", "in", sorted(ids))]
            targets = _rows(self.folder, "concept_relationship", ["concept_id_2"], kind)
            mapped = sorted({int(row["concept_id_2"]) for row in targets})
            found += self._concepts([("concept_id", "in", mapped)]) if mapped else []
        return sorted({(int(r["concept_id"]), str(r["concept_name"])) for r in found if r["standard_concept"] == "S"})

    def with_descendants(self, concepts: set[int]) -> set[int]:
        """Return some concepts and everything below them."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        above, below = self._ancestors
        chosen = np.asarray(pc.is_in(above, value_set=pa.array(sorted(concepts), pa.int64())))
        return concepts | {int(concept) for concept in np.unique(np.asarray(below)[chosen]).tolist()}

    def _concepts(self, chosen: list[tuple[str, str, Any]]) -> list[dict[str, Any]]:
        return _rows(self.folder, "concept", ["concept_id", "concept_name", "standard_concept"], chosen)

    @cached_property
    def _ancestors(self) -> tuple[Any, Any]:
        import pyarrow as pa

        table = _table(self.folder, "concept_ancestor", ["ancestor_concept_id", "descendant_concept_id"], None)
        above, below = (table.column(name).cast(pa.int64()).combine_chunks() for name in table.column_names)
        return above, below


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

    @property
    def every_concept_id(self) -> list[int]:
        """The sorted concept ids of all sets together."""
        return sorted({concept for name in self.document["concept_sets"] for concept in self.concept_ids(name)})

    @property
    def units(self) -> dict[int, str]:
        """Concept id of each unit that a threshold declares."""
        return {int(concept): unit for unit, concept in self.document.get("units", {}).items()}


def warnings_of(task: Task, lock: Lock | None = None) -> list[str]:
    """Return the texts that every run of a task prints: its own, and that of a set with generalised edema as a root."""
    sets = task.front.concept_sets.values()
    edema = any(EDEMA_CODE in one.include or one.expect_concept_id == GENERALISED_EDEMA for one in sets)
    if lock is not None:
        roots = (root for one in lock.document["concept_sets"].values() for root in one["roots"])
        edema |= any(root["concept_id"] == GENERALISED_EDEMA for root in roots)
    found = [task.front.warn] if task.front.warn else []
    return found + ([EDEMA_WARNING] if edema and EDEMA_WARNING not in found else [])


def resolve_lock(task: Task, concepts: Concepts) -> Lock:
    """Resolve the concept sets, and the units of the threshold, of a task.

    Raises
    ------
    TaskError
        When a code is not found, is ambiguous, has no standard concept, or is not the one that was expected.
    """
    sets = {name: _resolve_set(task, name, declared, concepts) for name, declared in task.front.concept_sets.items()}
    document = {
        "format": LOCK_FORMAT,
        "task": task.name,
        "version": task.front.version,
        "body_sha256": task.body_hash,
        "vocabulary_version": concepts.version(),
        "concept_sets": sets,
    }
    if task.front.threshold is not None:
        document["units"] = {unit: _resolve_code(task, unit, concepts)[0] for unit in task.front.threshold.units}
    return Lock(document)


def read_lock(task: Task, concepts: Concepts) -> Lock:
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
    found = concepts.version()
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


def _resolve_set(task: Task, name: str, declared: ConceptSet, concepts: Concepts) -> dict[str, Any]:
    roots = [_resolve_code(task, code, concepts) for code in declared.include]
    if declared.expect_concept_id is not None and [root[0] for root in roots] != [declared.expect_concept_id]:
        raise TaskError(
            f"task {task.name}: concept set {name} resolves to {roots[0][0]}, expected {declared.expect_concept_id}: "
            "another vocabulary, or a wrong code"
        )
    included = {root[0] for root in roots}
    excluded = {_resolve_code(task, code, concepts)[0] for code in declared.exclude}
    if declared.descendants:
        included = concepts.with_descendants(included)
        excluded = concepts.with_descendants(excluded)
    ids = sorted(included - excluded)
    return {
        "concept_ids": ids,
        "roots": [
            {"code": code, "concept_id": root[0], "name": root[1]}
            for code, root in zip(declared.include, roots, strict=True)
        ],
        "sha256": hash_json(ids),
    }


def _resolve_code(task: Task, code: str, concepts: Concepts) -> tuple[int, str]:
    vocabulary, _, concept_code = code.partition(":")
    rows = concepts.standard(vocabulary, concept_code)
    if not rows:
        raise TaskError(f"task {task.name}: {code} is not in the vocabulary, or maps to no standard concept")
    if len(rows) > 1:
        raise TaskError(f"task {task.name}: {code} maps to {len(rows)} standard concepts: name the standard ones")
    return rows[0]


def _rows(folder: Path, name: str, columns: list[str], chosen: list[tuple[str, str, Any]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = _table(folder, name, columns, chosen).to_pylist()
    return rows


def _table(folder: Path, name: str, columns: list[str], chosen: list[tuple[str, str, Any]] | None) -> Any:
    import pyarrow.parquet as pq

    try:
        return pq.read_table(folder / f"{name}.parquet", columns=columns, filters=chosen)
    except (OSError, ValueError, KeyError):
        raise InputError(
            f"vocabulary: {name}.parquet cannot be read or lacks a column, expected Parquet with {', '.join(columns)}"
        ) from None
