"""Concepts that may not be tasks: administrative ones by list, and whatever an outcome task would leak through."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from presage_platform.errors import TaskError, UsageError
from presage_platform.labeling.ontology import Vocabulary

KINDS = ("domain", "class", "vocabulary", "code", "concept")
PACKAGED = "exclusions.csv"
Scope = Literal["full", "descendants", "none"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an exclusion list."""

    kind: str
    value: str
    source: str


def exclusion_lines(own: Path | None) -> list[Line]:
    """Return the packaged lines, then the site's own.

    Raises
    ------
    UsageError
        If the site's list is missing or has another form.
    """
    packaged = files("presage_platform.labeling").joinpath(PACKAGED).read_text(encoding="utf-8")
    lines = list(_parse(packaged, PACKAGED))
    if own is not None:
        try:
            lines += _parse(own.read_text(encoding="utf-8"), own.name)
        except OSError:
            raise UsageError(f"usage: exclusion list {own} cannot be read: mend [labeling] exclusions") from None
    return lines


def excluded(candidates: NDArray[np.int64], concepts: pa.Table, lines: list[Line]) -> dict[int, str]:
    """Return the candidates that a line removes, each with that line; a concept without a row is removed too."""
    keys: dict[tuple[str, str], str] = {}
    for line in lines:
        keys.setdefault((line.kind, line.value), line.source)
    removed = {}
    described = {row["concept_id"]: row for row in concepts.to_pylist()}
    for concept in candidates.tolist():
        row = described.get(concept)
        if row is None:
            removed[concept] = "no row in concept"
            continue
        for key in _keys_of(row):
            if key in keys:
                removed[concept] = keys[key]
                break
    return removed


def guarded(guard: Iterable[int], vocabulary: Vocabulary, scope: Scope) -> set[int]:
    """Return the concepts that would leak an outcome: its sets, what lies below, and (`full`) what lies above."""
    inside = set(guard)
    if scope == "none" or not inside:
        return set()
    above = np.asarray(vocabulary.ancestor.column("ancestor_concept_id").combine_chunks()).astype(np.int64)
    below = np.asarray(vocabulary.ancestor.column("descendant_concept_id").combine_chunks()).astype(np.int64)
    listed = np.array(sorted(inside), dtype=np.int64)
    found = inside | set(below[np.isin(above, listed)].tolist())
    if scope == "full":
        found |= set(above[np.isin(below, listed)].tolist())
    return found


def locked_concepts(folder: Path) -> dict[str, list[int]]:
    """Return the concepts of each outcome task of a folder, from its lock file `<task>.lock.json`.

    Raises
    ------
    UsageError
        If the folder does not exist.
    TaskError
        If a task that names concepts has no lock, or a lock cannot be read.
    """
    if not folder.is_dir():
        raise UsageError(f"usage: --guard {folder} is no folder, expected one with tasks and their lock files")
    locks = {}
    for path in sorted(folder.glob("*.lock.json")):
        try:
            locks[path.name.removesuffix(".lock.json")] = sorted(set(_lock_ids(json.loads(path.read_text("utf-8")))))
        except (OSError, ValueError):
            raise TaskError(f"task {path.name}: lock cannot be read: renew it with `platform tasks lock`") from None
    for path in sorted(folder.glob("*.sql")):
        if path.stem not in locks and "concept_sets:" in path.read_text(encoding="utf-8"):
            raise TaskError(f"task {path.stem}: no lock beside it, expected one to guard by: run `platform tasks lock`")
    return locks


def _lock_ids(lock: Any) -> Iterator[int]:
    """Yield the ids of every concept set of a lock: `{"concept_sets": {name: {"concept_ids": […]}}}`."""
    for concept_set in (lock.get("concept_sets") or {}).values():
        yield from (int(concept) for concept in concept_set["concept_ids"])


def _keys_of(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "concept", str(row["concept_id"])
    yield "code", f"{row['vocabulary_id']}:{row['concept_code']}"
    yield "domain", row["domain_id"]
    yield "class", row["concept_class_id"]
    yield "vocabulary", row["vocabulary_id"]


def _parse(text: str, name: str) -> Iterator[Line]:
    for number, row in enumerate(csv.DictReader(text.splitlines()), start=2):
        if row.get("kind") not in KINDS or not row.get("value"):
            raise UsageError(f"usage: {name} line {number}: expected kind (one of {', '.join(KINDS)}), value, reason")
        yield Line(str(row["kind"]), str(row["value"]), f"{name} line {number}: {row.get('reason') or 'listed'}")
