"""The default task set: the concepts whose future is least certain, chosen on train persons only; and its registry.

On the earliest unmasked study of each train person: `n` incident events and `m` studies at risk, `p = n / m`, score
`H(p) = −p ln p − (1 − p) ln(1 − p)`. Plain entropy, not the conditional form: the at-risk sets of child and parent
differ, so that their ratio is no probability.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from presage_platform.errors import IntegrityError
from presage_platform.labeling.hashing import hash_json
from presage_platform.labeling.ontology import Ancestry, Vocabulary

if TYPE_CHECKING:
    from presage_platform.settings import LabelingSettings

REGISTRY_SCHEMA = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("concept_id", pa.int64(), nullable=False),
        pa.field("vocabulary", pa.string()),
        pa.field("code", pa.string()),
        pa.field("name", pa.string()),
        pa.field("domain", pa.string()),
        pa.field("n_descendants_present", pa.int64(), nullable=False),
        pa.field("n_event", pa.int64(), nullable=False),
        pa.field("n_at_risk", pa.int64(), nullable=False),
        pa.field("n_prevalent", pa.int64(), nullable=False),
        pa.field("rate_per_year", pa.float64(), nullable=False),
        pa.field("median_days", pa.float64(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("mode", pa.string(), nullable=False),
    ]
)
"""Columns of `tasks.parquet`; counts are those of the selection, rate and median those of all train studies."""


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """Studies a candidate, on the earliest unmasked study of each train person; shape = (num_candidates,)."""

    next_event: NDArray[np.int64]
    prevalent: NDArray[np.int64]
    incident: NDArray[np.int64]
    num_studies: int

    @property
    def at_risk(self) -> NDArray[np.int64]:
        """Studies in the risk set of each candidate (incident view)."""
        return self.num_studies - self.prevalent


@dataclass(frozen=True, slots=True, eq=False)
class TaskSet:
    """The tasks, best first, and why the other candidates are none."""

    concept_id: NDArray[np.int64]
    score: NDArray[np.float64]
    counts: Counts
    removed: Mapping[str, int]
    removed_by: Mapping[int, str]
    mode: str = "default"

    @property
    def sha256(self) -> str:
        """Hash of the tasks in order."""
        return hash_json({"mode": self.mode, "concepts": self.concept_id.tolist()})


def entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `−p ln p − (1 − p) ln(1 − p)` in nats; 0 at both ends."""
    inside = (p > 0) & (p < 1)
    q = np.where(inside, p, 0.5)
    return np.where(inside, -(q * np.log(q) + (1 - q) * np.log1p(-q)), 0.0)


def select_tasks(
    candidates: NDArray[np.int64],
    counts: Counts,
    pairs: Ancestry,
    vocabulary: Vocabulary,
    settings: LabelingSettings,
    *,
    excluded: Mapping[int, str],
    guarded: set[int],
    allow_fewer: bool = False,
) -> TaskSet:
    """Choose the tasks: exclusions, leakage guard, enough events, redundancy, then the best K.

    Parameters
    ----------
    candidates
        Concepts seen and their ancestors, ascending; `counts` follows them.
    excluded
        Candidate to the line that removes it.
    guarded
        Concepts that an outcome task would leak through.

    Raises
    ------
    IntegrityError
        If fewer than K are left, unless that is allowed.
    """
    removed_by = dict(excluded)
    removed_by |= {c: "leakage guard" for c in candidates.tolist() if c in guarded and c not in removed_by}
    open_ = ~np.isin(candidates, np.array(sorted(removed_by), dtype=np.int64))
    enough = counts.incident >= settings.min_events
    kept = open_ & enough
    redundant = redundant_ancestors(candidates, kept, counts.next_event, vocabulary, settings.max_jaccard)
    removed_by |= {int(candidates[number]): "redundant with a descendant" for number in redundant}
    final = kept.copy()
    final[redundant] = False
    chosen = np.flatnonzero(final)
    score = entropy(counts.incident[chosen] / np.maximum(counts.at_risk[chosen], 1))
    best = chosen[np.lexsort((candidates[chosen], -score))][: settings.k]
    _refuse_few(len(best), settings, allow_fewer)
    return TaskSet(
        concept_id=candidates[best],
        score=entropy(counts.incident[best] / np.maximum(counts.at_risk[best], 1)),
        counts=Counts(counts.next_event[best], counts.prevalent[best], counts.incident[best], counts.num_studies),
        removed={
            "candidates": len(candidates),
            "excluded": len(excluded),
            "leakage guard": len(removed_by) - len(excluded) - len(redundant),
            "too few events": int((open_ & ~enough).sum()),
            "redundant": len(redundant),
            "beyond k": len(chosen) - len(best),
            "tasks": len(best),
        },
        removed_by=removed_by,
    )


def redundant_ancestors(
    candidates: NDArray[np.int64],
    kept: NDArray[np.bool_],
    next_event: NDArray[np.int64],
    vocabulary: Vocabulary,
    max_jaccard: float,
) -> NDArray[np.int64]:
    """Return the numbers of candidates that say the same as one of their descendants.

    A descendant's events are a subset of its ancestor's, so their Jaccard index is the ratio of their counts. Chains
    resolve from the leaves up: a descendant that is gone removes nobody.
    """
    ancestor, descendant = _kept_pairs(candidates, kept, vocabulary)
    order = np.lexsort((descendant, ancestor))
    ancestor, descendant = ancestor[order], descendant[order]
    below = np.bincount(ancestor, minlength=len(candidates))
    start = np.searchsorted(ancestor, np.arange(len(candidates) + 1))
    gone = np.zeros(len(candidates), dtype=np.bool_)
    with_below = np.flatnonzero(below)
    for number in with_below[np.argsort(below[with_below], kind="stable")].tolist():
        under = descendant[start[number] : start[number + 1]]
        largest = int(next_event[under[~gone[under]]].max(initial=0))
        gone[number] = largest > max_jaccard * next_event[number]
    return np.flatnonzero(gone)


def registry(
    chosen: TaskSet, pairs: Ancestry, vocabulary: Vocabulary, rate_per_s: NDArray[np.float64], median_s: NDArray[Any]
) -> pa.Table:
    """Return the table of tasks, in rank order; `pairs` are those of the concepts that train persons have."""
    described = {row["concept_id"]: row for row in vocabulary.concepts.to_pylist()}
    concepts = chosen.concept_id.tolist()
    rows = [described.get(concept, {}) for concept in concepts]
    seen, number = np.unique(pairs.ancestor, return_counts=True)
    present = dict(zip(seen.tolist(), number.tolist(), strict=True))
    columns = {
        "task": [f"concept:{concept}" for concept in concepts],
        "concept_id": concepts,
        "vocabulary": [row.get("vocabulary_id") for row in rows],
        "code": [row.get("concept_code") for row in rows],
        "name": [row.get("concept_name") for row in rows],
        "domain": [row.get("domain_id") for row in rows],
        "n_descendants_present": [present.get(concept, 0) for concept in concepts],
        "n_event": chosen.counts.incident,
        "n_at_risk": chosen.counts.at_risk,
        "n_prevalent": chosen.counts.prevalent,
        "rate_per_year": rate_per_s * 31_557_600,
        "median_days": median_s / 86_400,
        "score": chosen.score,
        "rank": np.arange(1, len(concepts) + 1),
        "mode": [chosen.mode] * len(concepts),
    }
    return pa.table(columns, schema=REGISTRY_SCHEMA)


def registry_csv(tasks: pa.Table, min_cell: int) -> bytes:
    """Return the registry as CSV for people; counts below `min_cell` are hidden."""
    hidden = tasks
    for name in ("n_event", "n_at_risk", "n_prevalent"):
        counts = tasks.column(name).to_pylist()
        shown = [f"<{min_cell}" if count < min_cell else str(count) for count in counts]
        hidden = hidden.set_column(hidden.column_names.index(name), name, pa.array(shown))
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(hidden, buffer)
    return buffer.getvalue()


def median_times(task: NDArray[Any], time_s: NDArray[Any], num_tasks: int) -> NDArray[np.float64]:
    """Return the median time of each task's events (lower of the two middle ones); 0 for a task without any."""
    order = np.lexsort((time_s, task))
    start = np.searchsorted(task[order], np.arange(num_tasks + 1))
    count = np.diff(start)
    if len(order) == 0:
        return np.zeros(num_tasks)
    middle = np.minimum(start[:-1] + np.maximum(count - 1, 0) // 2, len(order) - 1)
    return np.where(count > 0, time_s[order][middle], 0).astype(np.float64)


def _kept_pairs(
    candidates: NDArray[np.int64], kept: NDArray[np.bool_], vocabulary: Vocabulary
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    alive = candidates[kept]
    columns = (vocabulary.ancestor.column(f"{side}_concept_id") for side in ("ancestor", "descendant"))
    above, below = (np.asarray(column.combine_chunks()).astype(np.int64) for column in columns)
    both = np.isin(above, alive) & np.isin(below, alive) & (above != below)
    return np.searchsorted(candidates, above[both]), np.searchsorted(candidates, below[both])


def _refuse_few(found: int, settings: LabelingSettings, allow_fewer: bool) -> None:
    if found == 0:
        raise IntegrityError(
            f"labels: no concept has {settings.min_events} incident events among the train studies: load more records, "
            "or lower [labeling] min_events"
        )
    if found < settings.k and not allow_fewer:
        raise IntegrityError(
            f"labels: {found} concepts qualify as tasks, expected {settings.k}: keep these with --allow-fewer, or "
            "change [labeling] k or min_events"
        )
