"""Concepts and their ancestors: which tasks an event of a concept belongs to.

`concept_ancestor` is taken as it stands (transitive, with self, standard concepts); a non-standard concept goes through
its valid "Maps to" first, and counts once for a task however many standard concepts it maps to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from presage_platform.errors import VocabularyError
from presage_platform.labeling.hashing import hash_arrays

MAX_REPLACEMENTS = 5


@dataclass(frozen=True, slots=True, eq=False)
class ConceptTasks:
    """CSR from dense concept numbers to tasks. C = concepts present, K = tasks.

    Attributes
    ----------
    indptr : int32, shape = (C + 1,)
    task : int32, shape = (nnz,)
        Ascending within a concept, each once.
    num_tasks : int
    """

    indptr: NDArray[np.int32]
    task: NDArray[np.int32]
    num_tasks: int

    @property
    def sha256(self) -> str:
        """Hash of the map, part of the label hash."""
        return hash_arrays(self.indptr, self.task, np.array([self.num_tasks]))


@dataclass(frozen=True, slots=True, eq=False)
class Ancestry:
    """Pairs (concept present, ancestor), self included, non-standard concepts through their mappings.

    Attributes
    ----------
    concept : int64
        Ids of concepts present in the snapshot.
    ancestor : int64
        Standard concepts at or above; pairs are distinct, sorted by (concept, ancestor).
    levels : int32
        `min_levels_of_separation`, the smallest over mappings.
    """

    concept: NDArray[np.int64]
    ancestor: NDArray[np.int64]
    levels: NDArray[np.int32]

    def within(self, max_levels: int | None) -> Ancestry:
        """Return the pairs at most so many levels apart."""
        if max_levels is None:
            return self
        keep = self.levels <= max_levels
        return Ancestry(self.concept[keep], self.ancestor[keep], self.levels[keep])


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """What labeling reads of the vocabulary, restricted to concepts present and what lies above them.

    Attributes
    ----------
    concepts : Table
        concept_id, concept_name, domain_id, vocabulary_id, concept_class_id, standard_concept, concept_code.
    ancestor : Table
        ancestor_concept_id, descendant_concept_id, min_levels_of_separation.
    maps_to, replaced_by : Table
        concept_id_1, concept_id_2: valid relationships of non-standard concepts.
    version : str
        `vocabulary_version` of the row whose vocabulary_id is `None`.
    parent : Table, optional
        ancestor_concept_id, descendant_concept_id one step apart, up to the roots; read in the paper's modes only.
    """

    concepts: pa.Table
    ancestor: pa.Table
    maps_to: pa.Table
    replaced_by: pa.Table
    version: str
    parent: pa.Table | None = None


def standard_targets(present: NDArray[np.int64], vocabulary: Vocabulary) -> dict[int, tuple[int, ...]]:
    """Return the standard concepts of each present concept that is not itself standard.

    Raises
    ------
    VocabularyError
        If "Concept replaced by" runs in a circle.
    """
    standard = _standard_ids(vocabulary.concepts)
    maps_to = _edges(vocabulary.maps_to)
    replaced_by = _edges(vocabulary.replaced_by)
    targets = {}
    for concept in present.tolist():
        if concept in standard:
            continue
        found = _follow(concept, maps_to, replaced_by, standard)
        if found:
            targets[concept] = found
    return targets


def ancestry(present: NDArray[np.int64], vocabulary: Vocabulary) -> Ancestry:
    """Return every (present concept, ancestor) pair, through the mapping of non-standard concepts."""
    targets = standard_targets(present, vocabulary)
    source = [concept for concept, mapped in targets.items() for _ in mapped]
    mapped_to = [target for mapped in targets.values() for target in mapped]
    plain = np.setdiff1d(present, np.array(sorted(targets), dtype=np.int64))
    concept = np.concatenate([plain, np.array(source, dtype=np.int64)])
    standard = np.concatenate([plain, np.array(mapped_to, dtype=np.int64)])
    above, below, levels = _closure(vocabulary.ancestor)
    low, high = np.searchsorted(below, standard, side="left"), np.searchsorted(below, standard, side="right")
    counts = high - low
    at = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)
    # Every concept is its own ancestor, also where the vocabulary lacks the row.
    pairs = (
        np.concatenate([np.repeat(concept, counts), concept]),
        np.concatenate([above[at], standard]),
        np.concatenate([levels[at], np.zeros(len(concept), dtype=np.int32)]),
    )
    order = np.lexsort((pairs[2], pairs[1], pairs[0]))
    concept, ancestor, levels = (column[order] for column in pairs)
    first = np.ones(len(concept), dtype=np.bool_)
    first[1:] = (np.diff(concept) != 0) | (np.diff(ancestor) != 0)
    return Ancestry(concept[first], ancestor[first], levels[first])


def concept_tasks(present: NDArray[np.int64], task_concept: NDArray[np.int64], pairs: Ancestry) -> ConceptTasks:
    """Return the map from dense concept numbers (positions in `present`) to tasks (positions in `task_concept`)."""
    order = np.argsort(task_concept, kind="stable")
    ranked = task_concept[order]
    at = np.minimum(np.searchsorted(ranked, pairs.ancestor), max(len(ranked) - 1, 0))
    keep = ranked[at] == pairs.ancestor if len(ranked) else np.zeros(len(pairs.ancestor), dtype=np.bool_)
    number = np.searchsorted(present, pairs.concept[keep])
    task = order[at[keep]]
    by_concept = np.lexsort((task, number))
    counts = np.bincount(number, minlength=len(present))
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return ConceptTasks(indptr, task[by_concept].astype(np.int32), len(task_concept))


def _follow(
    concept: int, maps_to: dict[int, list[int]], replaced_by: dict[int, list[int]], standard: set[int]
) -> tuple[int, ...]:
    passed = {concept}
    current = [concept]
    for _ in range(MAX_REPLACEMENTS + 1):
        mapped = {target for c in current for target in maps_to.get(c, ()) if target in standard}
        mapped |= {c for c in current if c in standard}
        if mapped:
            return tuple(sorted(mapped))
        current = sorted({target for c in current for target in replaced_by.get(c, ())})
        if not current:
            return ()
        if passed & set(current):
            raise VocabularyError(
                f"vocabulary: `Concept replaced by` of concept {concept} runs in a circle, expected a chain: load a "
                "consistent vocabulary with `platform etl vocabulary`"
            )
        passed |= set(current)
    return ()


def _standard_ids(concepts: pa.Table) -> set[int]:
    ids, flags = concepts.column("concept_id").to_pylist(), concepts.column("standard_concept").to_pylist()
    return {concept for concept, flag in zip(ids, flags, strict=True) if flag == "S"}


def _edges(relationship: pa.Table) -> dict[int, list[int]]:
    edges: dict[int, list[int]] = {}
    for source, target in zip(*(relationship.column(i).to_pylist() for i in range(2)), strict=True):
        if source != target:
            edges.setdefault(source, []).append(target)
    return edges


def _closure(table: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    def column(name: str, dtype: Any) -> NDArray[Any]:
        return np.asarray(table.column(name)).astype(dtype)

    above, below = column("ancestor_concept_id", np.int64), column("descendant_concept_id", np.int64)
    order = np.argsort(below, kind="stable")
    return above[order], below[order], column("min_levels_of_separation", np.int32)[order]
