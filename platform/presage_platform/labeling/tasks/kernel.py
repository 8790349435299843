"""Concept tasks: an outcome that is a set of concepts goes through the kernel of the task set, without a query.

All tasks with the same semantics are one pass over the events, however many they are. Nothing but the snapshot is read,
so they also run where there is no database.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from presage_platform.labeling.event_rows import DEATH_CONCEPT
from presage_platform.labeling.first_occurrence import label_shard
from presage_platform.labeling.hashing import hash_json
from presage_platform.labeling.ontology import ConceptTasks
from presage_platform.labeling.outcomes import Firsts, rows_of_firsts
from presage_platform.labeling.semantics import NEVER, Policy, RiskWindows, risk_windows
from presage_platform.labeling.tasks.definition import Task
from presage_platform.labeling.tasks.locks import Lock
from presage_platform.labeling.tasks.results import TaskIndex, TaskResult, definition_hash, policy_of, row_options

if TYPE_CHECKING:
    from presage_platform.labeling.store_writer import ShardLabels
    from presage_platform.labeling.timeline import Snapshot


def run_concept_tasks(
    tasks: Sequence[tuple[Task, Lock]], index: TaskIndex, *, snapshot: Snapshot, data_cut_s: int
) -> Iterator[tuple[str, TaskResult]]:
    """Yield name and rows of locked concept tasks: one pass over the snapshot for each distinct semantics."""
    for policy, group in _by_policy(tasks, data_cut_s):
        windows = risk_windows(index.facts, policy)
        ontology = tasks_of_concepts(snapshot.concepts, [_members(policy, lock) for _, lock in group])
        found = _Pass(index, snapshot, windows, ontology, policy)
        for number, (task, lock) in enumerate(group):
            firsts = found.firsts(number)
            if policy.follows_death and DEATH_CONCEPT in lock.every_concept_id:
                firsts = _with_death(firsts, index, windows)
            rows = rows_of_firsts(index.facts, windows, firsts, **row_options(task, index))
            yield task.name, TaskResult(rows, definition_hash(task, lock, data_cut_s))


def _members(policy: Policy, lock: Lock) -> list[int]:
    """Return what the kernel looks for: not death where it is the event, since its own conventions decide its time."""
    return [concept for concept in lock.every_concept_id if not (policy.follows_death and concept == DEATH_CONCEPT)]


def _with_death(firsts: Firsts, index: TaskIndex, windows: RiskWindows) -> Firsts:
    death = index.facts.death_at_s
    outcome = (death > windows.risk_start_s) & (death <= windows.follow_up_end_s)
    return replace(firsts, event=np.minimum(firsts.event, np.where(outcome, death, NEVER)))


def tasks_of_concepts(present: NDArray[np.int64], sets: Sequence[Sequence[int]]) -> ConceptTasks:
    """Return the map from the concepts of a snapshot to the tasks whose set holds them."""
    wanted = np.array([concept for members in sets for concept in members], dtype=np.int64)
    task = np.repeat(np.arange(len(sets)), [len(members) for members in sets])
    at = np.minimum(np.searchsorted(present, wanted), max(len(present) - 1, 0))
    known = present[at] == wanted if len(present) else np.zeros(len(wanted), dtype=np.bool_)
    at, task = at[known], task[known]
    order = np.lexsort((task, at))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(at, minlength=len(present)))])
    return ConceptTasks(indptr.astype(np.int32), task[order].astype(np.int32), len(sets))


class _Pass:
    """First occurrences of every task of a group, ordered by task. n = studies."""

    def __init__(
        self, index: TaskIndex, snapshot: Snapshot, windows: RiskWindows, ontology: ConceptTasks, policy: Policy
    ) -> None:
        facts = index.facts
        self.num_studies = len(facts)
        self.t0_s = facts.t0_s
        shard = snapshot.shards_of(facts.person_id)
        rows, tasks, times, self.parts = [], [], [], []
        for number in range(snapshot.n_shards):
            here = np.flatnonzero(shard == number)
            labels = label_shard(
                snapshot.shard(number), facts.take(here), windows.take(here), ontology, same_day=policy.same_day
            )
            rows.append(here[np.repeat(np.arange(len(here)), np.diff(labels.indptr))])
            tasks.append(labels.task.astype(np.int64))
            times.append(labels.time.astype(np.int64))
            self.parts.append((here, labels))
        row, task, time = np.concatenate(rows), np.concatenate(tasks), np.concatenate(times)
        order = np.argsort(task, kind="stable")
        self.row, self.time = row[order], time[order]
        self.bounds = np.concatenate([[0], np.cumsum(np.bincount(task, minlength=ontology.num_tasks))])

    def firsts(self, task: int) -> Firsts:
        """Return first event and history of one task."""
        chosen = slice(self.bounds[task], self.bounds[task + 1])
        event = np.full(self.num_studies, NEVER, dtype=np.int64)
        event[self.row[chosen]] = self.t0_s[self.row[chosen]] + self.time[chosen]
        prevalent = np.zeros(self.num_studies, dtype=np.bool_)
        for here, labels in self.parts:
            prevalent[here] = _bit(labels, task)
        return Firsts(event, np.full(self.num_studies, NEVER, dtype=np.int64), prevalent)


def _bit(labels: ShardLabels, task: int) -> NDArray[np.bool_]:
    return ((labels.prevalent[:, task >> 3] >> (task & 7)) & 1).astype(np.bool_)


def _by_policy(tasks: Sequence[tuple[Task, Lock]], data_cut_s: int) -> Iterator[tuple[Policy, list[tuple[Task, Lock]]]]:
    groups: dict[str, tuple[Policy, list[tuple[Task, Lock]]]] = {}
    for task, lock in tasks:
        # `fed_by_conditions` only says whether the guard applies; what it decides is in the policy that is compared.
        policy = policy_of(task, data_cut_s)
        if policy.visit_guard == "condition" and not policy.fed_by_conditions:
            policy = replace(policy, visit_guard="none", fed_by_conditions=True)
        key = hash_json(policy.to_json())
        groups.setdefault(key, (policy, []))[1].append((task, lock))
    yield from groups.values()
