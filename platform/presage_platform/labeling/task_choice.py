"""Choosing the task set of a run: what train persons have and what happens to them, counted, then handed to the rules.

Both modes read train persons only, so that perturbing every other person's rows leaves the task set as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from presage_platform.errors import IntegrityError, SettingsError
from presage_platform.labeling import exclusions, paper_selection, selection
from presage_platform.labeling.event import INCIDENT_ONLY
from presage_platform.labeling.first_occurrence import count_tasks
from presage_platform.labeling.ontology import Ancestry, ConceptTasks, ancestry, concept_tasks
from presage_platform.labeling.whole_records import persons_with, select_events, train_concepts

if TYPE_CHECKING:
    from presage_platform.labeling.inputs import Inputs
    from presage_platform.labeling.preparation import Prepared
    from presage_platform.labeling.timeline import Snapshot
    from presage_platform.settings import LabelingSettings


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A task set, the map from concepts to its tasks, and which train concepts lie below each task."""

    tasks: selection.TaskSet
    ontology: ConceptTasks
    train_pairs: Ancestry


def choose_tasks(prepared: Prepared, inputs: Inputs, settings: LabelingSettings, *, allow_fewer: bool) -> Choice:
    """Choose the task set by the rules of the mode.

    Raises
    ------
    IntegrityError
        If no train study is at risk, or too few concepts qualify.
    SettingsError
        If the mode needs a snapshot that was extracted for it.
    """
    first = first_train_studies(prepared)
    if len(first) == 0:
        raise IntegrityError(
            "labels: no train study is at risk, expected at least one: check the links (`platform link`), "
            "or change [labeling] split_fractions, min_prior_obs or grace_days"
        )
    persons = np.unique(prepared.rows.person_id[prepared.part == 0])
    seen = train_concepts(inputs.snapshot, persons)
    guarded = exclusions.guarded(
        (concept for ids in inputs.guard.values() for concept in ids), inputs.vocabulary, settings.guard_scope
    )
    if settings.mode == "default":
        return _default(prepared, inputs, settings, first, seen, guarded, allow_fewer)
    return _paper(prepared, inputs, settings, first, persons, seen, guarded, allow_fewer)


def _default(
    prepared: Prepared,
    inputs: Inputs,
    settings: LabelingSettings,
    first: NDArray[np.int64],
    seen: NDArray[np.int64],
    guarded: set[int],
    allow_fewer: bool,
) -> Choice:
    present = inputs.snapshot.concepts
    pairs = ancestry(present, inputs.vocabulary).within(settings.max_levels)
    train_pairs = _of_concepts(pairs, seen)
    candidates = np.unique(train_pairs.ancestor)
    candidates = candidates[candidates > 0]
    counts = count_candidates(inputs.snapshot, prepared, first, concept_tasks(present, candidates, pairs))
    lines = exclusions.exclusion_lines(settings.exclusions)
    chosen = selection.select_tasks(
        candidates,
        counts,
        pairs,
        inputs.vocabulary,
        settings,
        excluded=exclusions.excluded(candidates, inputs.vocabulary.concepts, lines),
        guarded=guarded,
        allow_fewer=allow_fewer,
    )
    return Choice(chosen, concept_tasks(present, chosen.concept_id, pairs), train_pairs)


def _paper(
    prepared: Prepared,
    inputs: Inputs,
    settings: LabelingSettings,
    first: NDArray[np.int64],
    persons: NDArray[np.int64],
    seen: NDArray[np.int64],
    guarded: set[int],
    allow_fewer: bool,
) -> Choice:
    floor = settings.mode == "paper-floor"
    if floor and not inputs.snapshot.manifest["settings"].get("value_flag"):
        raise SettingsError(
            "settings: labeling.mode = paper-floor needs a snapshot that knows which events carry a value, found one "
            "of another mode: leave --snapshot out"
        )
    present = inputs.snapshot.concepts
    steps = paper_selection.direct_parents(inputs.vocabulary)
    parents = paper_selection.contract(steps, inputs.vocabulary, seen.tolist())
    parents |= inputs.snapshot.bin_concepts()
    pairs = paper_selection.closure(present, parents).within(settings.max_levels)
    train_pairs = _of_concepts(pairs, seen)
    candidates = np.unique(train_pairs.ancestor)
    every = concept_tasks(present, candidates, pairs)
    chosen = paper_selection.select_paper_tasks(
        candidates,
        persons_with(inputs.snapshot, persons, every, without_values=floor),
        len(persons),
        parents,
        settings,
        guarded=guarded,
        event_fraction=_event_fraction(prepared, inputs, settings, every),
        floor=floor,
        allow_fewer=allow_fewer,
    )
    ontology = concept_tasks(present, chosen.concept_id, pairs)
    tasks = selection.TaskSet(
        concept_id=chosen.concept_id,
        score=chosen.weight,
        counts=count_candidates(inputs.snapshot, prepared, first, ontology),
        removed=chosen.removed,
        removed_by=chosen.removed_by,
        mode=settings.mode,
    )
    return Choice(tasks, ontology, train_pairs)


def first_train_studies(prepared: Prepared) -> NDArray[np.int64]:
    """Return the row of the earliest unmasked study of each train person."""
    rows = np.flatnonzero((prepared.part == 0) & (prepared.windows.mask == 0))
    person = prepared.rows.person_id[rows]
    return rows[np.concatenate([[True], person[1:] != person[:-1]])] if len(rows) else rows


def count_candidates(
    snapshot: Snapshot,
    prepared: Prepared,
    rows: NDArray[np.int64],
    ontology: ConceptTasks,
    *,
    without_values: bool = False,
) -> selection.Counts:
    """Count next events, prevalent and incident studies of each candidate over some rows."""
    totals = np.zeros((3, ontology.num_tasks), dtype=np.int64)
    for number in range(snapshot.n_shards):
        here = rows[prepared.shard[rows] == number]
        if len(here):
            totals += count_tasks(
                select_events(snapshot.shard(number), without_values=without_values),
                prepared.facts.take(here),
                prepared.windows.take(here),
                ontology,
                same_day=prepared.policy.same_day,
            )
    return selection.Counts(totals[0], totals[1], totals[2], len(rows))


def _event_fraction(
    prepared: Prepared, inputs: Inputs, settings: LabelingSettings, ontology: ConceptTasks
) -> NDArray[np.float64]:
    """Return the share of anchors with a later event of each candidate; anchors are those of bins and rates."""
    floor = settings.mode == "paper-floor"
    if settings.anchor == "ct":
        rows = np.flatnonzero((prepared.part == 0) & ((prepared.windows.mask & ~np.uint16(INCIDENT_ONLY)) == 0))
        counts = count_candidates(inputs.snapshot, prepared, rows, ontology, without_values=floor)
        return counts.next_event / max(len(rows), 1)
    from presage_platform.labeling.anchors import anchor_parts

    events, num_anchors = np.zeros(ontology.num_tasks, dtype=np.int64), 0
    for part in anchor_parts(inputs.snapshot, prepared, settings):
        shard = select_events(part.events, without_values=floor)
        events += count_tasks(shard, part.facts, part.windows, ontology, same_day=prepared.policy.same_day)[0]
        num_anchors += len(part.facts)
    return events / max(num_anchors, 1)


def _of_concepts(pairs: Ancestry, concepts: NDArray[np.int64]) -> Ancestry:
    keep = np.isin(pairs.concept, concepts)
    return Ancestry(pairs.concept[keep], pairs.ancestor[keep], pairs.levels[keep])
