"""The task set of the paper: the released femr/MOTOR selection, by conditional entropy over whole records.

For each train person take the *set* of concepts of the whole record, before and after the scan, closed under direct
parents. `p(c)` is the share of persons with c or a descendant. A concept is worth what it adds to its rarest parent:

    h(q) = q ln q + (1 − q) ln(1 − q)
    base(c) = min({1} ∪ {p(parent)})      q = min(1, p(c) / base(c))      weight(c) = base(c) · h(q) <= 0

Concepts with q = 0 or 1 add nothing and go; the others are sorted by (weight ascending, concept_id) and the first K are
the tasks. Upstream leaves ties open. `paper-floor` adds the later upstream filters. Everything here is pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from presage_platform.errors import IntegrityError
from presage_platform.labeling.ontology import Ancestry, Vocabulary

if TYPE_CHECKING:
    from presage_platform.settings import LabelingSettings

Parents = Mapping[int, tuple[int, ...]]

CONTRACTED = frozenset({"SPL", "ATC", "HemOnc", "LOINC"})
"""Vocabularies whose nodes are passed over where they do not occur as data: their parents take their place."""
BIRTH_CONCEPT = 4216316
VOCABULARY_ENTRIES = 65_536
"""Upstream's vocabulary holds so many concepts and value bins together; without bins the cap is never reached."""
FLOOR = 0.001
TIE_DIGITS = 12
"""Weights that agree so far are equal: q and 1 − q weigh the same, but their logarithms may round apart."""


@dataclass(frozen=True, slots=True, eq=False)
class PaperTasks:
    """Concepts chosen, best first, with their weights; why the other candidates are none."""

    concept_id: NDArray[np.int64]
    weight: NDArray[np.float64]
    removed: Mapping[str, int]
    removed_by: Mapping[int, str]


def negative_entropy(q: float) -> float:
    """Return `q ln q + (1 − q) ln(1 − q)` in nats, at most 0; 0 at both ends."""
    return q * math.log(q) + (1 - q) * math.log1p(-q) if 0 < q < 1 else 0.0


def direct_parents(vocabulary: Vocabulary) -> dict[int, tuple[int, ...]]:
    """Return the direct parents of each concept, and for one that is not standard its "Maps to" targets too."""
    flags = zip(*(vocabulary.concepts.column(n).to_pylist() for n in ("concept_id", "standard_concept")), strict=True)
    standard = {concept for concept, flag in flags if flag == "S"}
    found: dict[int, set[int]] = {}
    if vocabulary.parent is not None:
        names = ("descendant_concept_id", "ancestor_concept_id")
        for below, above in zip(*(vocabulary.parent.column(name).to_pylist() for name in names), strict=True):
            if below != above:
                found.setdefault(below, set()).add(above)
    for source, target in zip(*(vocabulary.maps_to.column(i).to_pylist() for i in range(2)), strict=True):
        if source != target and source not in standard:
            found.setdefault(source, set()).add(target)
    return {concept: tuple(sorted(above)) for concept, above in found.items()}


def contract(parents: Parents, vocabulary: Vocabulary, occurring: Iterable[int]) -> dict[int, tuple[int, ...]]:
    """Return parents with the nodes of `CONTRACTED` that do not occur as data replaced by their own parents."""
    names = zip(*(vocabulary.concepts.column(n).to_pylist() for n in ("concept_id", "vocabulary_id")), strict=True)
    passed_over = {concept for concept, name in names if name in CONTRACTED} - set(occurring)
    return {concept: _kept_above(concept, parents, passed_over) for concept in parents}


def closure(present: NDArray[np.int64], parents: Parents) -> Ancestry:
    """Return every (present concept, concept at or above it) pair along direct parents; levels are steps."""
    concept, ancestor, levels = [], [], []
    for start in present.tolist():
        for above, steps in sorted(_climb(start, parents).items()):
            concept.append(start)
            ancestor.append(above)
            levels.append(steps)
    return Ancestry(
        np.array(concept, dtype=np.int64), np.array(ancestor, dtype=np.int64), np.array(levels, dtype=np.int32)
    )


def weights(
    candidates: NDArray[np.int64],
    num_with: NDArray[np.int64],
    num_persons: int,
    parents: Parents,
    *,
    forced: Mapping[int, float] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weight and q of each candidate.

    Parameters
    ----------
    num_with : shape = (num_candidates,)
        Persons with the candidate or a concept below it, of `num_persons`.
    forced
        Concepts whose q is given.
    """
    p = dict(zip(candidates.tolist(), (num_with / max(num_persons, 1)).tolist(), strict=True))
    weight, shares = [], []
    for concept, share in p.items():
        base = min([1.0, *(p[parent] for parent in parents.get(concept, ()) if parent in p)])
        q = (forced or {}).get(concept, min(1.0, share / base) if base > 0 else 0.0)
        shares.append(q)
        weight.append(base * negative_entropy(q))
    return np.array(weight, dtype=np.float64), np.array(shares, dtype=np.float64)


def select_paper_tasks(
    candidates: NDArray[np.int64],
    num_with: NDArray[np.int64],
    num_persons: int,
    parents: Parents,
    settings: LabelingSettings,
    *,
    guarded: set[int],
    event_fraction: NDArray[np.float64],
    floor: bool = False,
    allow_fewer: bool = False,
) -> PaperTasks:
    """Choose the tasks of the paper's mode, or with `floor` those of `paper-floor`.

    Parameters
    ----------
    candidates
        Concepts of train persons and what lies above, ascending. Negative ids are value bins: they compete for places
        in the vocabulary and are never tasks.
    guarded
        Concepts that an outcome task would leak through (labeling L40 holds in every mode).
    event_fraction
        Share of anchors with a later event of each candidate: one without any has no rate and is no task (labeling
        L55), and `paper-floor` asks for one in a thousand.
    floor
        Also ask for a weight of at most `h(0.001)`, and count birth as if half of all persons had it.

    Raises
    ------
    IntegrityError
        If fewer than K are left, unless that is allowed.
    """
    weight, q = weights(candidates, num_with, num_persons, parents, forced={BIRTH_CONCEPT: 0.5} if floor else None)
    certain = (q <= 0) | (q >= 1)
    leaking = np.isin(candidates, np.array(sorted(guarded), dtype=np.int64)) & ~certain
    open_ = ~certain & ~leaking
    eventless = (event_fraction <= 0) & (candidates > 0)
    faint = (weight > negative_entropy(FLOOR)) | ((event_fraction < FLOOR) & (candidates > 0)) if floor else eventless
    kept = np.flatnonzero(open_ & ~eventless & ~faint)
    ranked = kept[np.lexsort((candidates[kept], np.round(weight[kept], TIE_DIGITS)))]
    if (candidates < 0).any():
        ranked = ranked[:VOCABULARY_ENTRIES]
    tasks = ranked[candidates[ranked] > 0]
    best = tasks[: settings.k]
    refuse_few(len(best), settings, allow_fewer)
    return PaperTasks(
        concept_id=candidates[best],
        weight=weight[best],
        removed={
            "candidates": len(candidates),
            "every or no person": int(certain.sum()),
            "leakage guard": int(leaking.sum()),
            "without a later event": int((open_ & eventless).sum()),
            "below the floor": int((open_ & ~eventless & faint).sum()),
            "value bins and vocabulary cap": len(kept) - len(tasks),
            "beyond k": len(tasks) - len(best),
            "tasks": len(best),
        },
        removed_by={int(concept): "leakage guard" for concept in candidates[leaking]},
    )


def refuse_few(found: int, settings: LabelingSettings, allow_fewer: bool) -> None:
    """Refuse a task set that is empty, or smaller than K unless that is allowed."""
    if found == 0:
        raise IntegrityError(
            "labels: no concept distinguishes the train persons, expected some: load more records or more persons"
        )
    if found < settings.k and not allow_fewer:
        raise IntegrityError(
            f"labels: {found} concepts qualify as tasks, expected {settings.k}: keep these with --allow-fewer, or "
            "lower [labeling] k"
        )


def _kept_above(concept: int, parents: Parents, passed_over: set[int]) -> tuple[int, ...]:
    found, seen, open_ = set(), {concept}, list(parents.get(concept, ()))
    while open_:
        above = open_.pop()
        if above in seen:
            continue
        seen.add(above)
        if above in passed_over:
            open_ += parents.get(above, ())
        else:
            found.add(above)
    return tuple(sorted(found))


def _climb(start: int, parents: Parents) -> dict[int, int]:
    steps, level = {start: 0}, [start]
    while level:
        above = {parent for concept in level for parent in parents.get(concept, ())} - steps.keys()
        depth = steps[level[0]] + 1
        steps |= dict.fromkeys(above, depth)
        level = sorted(above)
    return steps
