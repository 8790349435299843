"""What every kind of task shares: the studies it runs on, the semantics it declares, the rows it gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from presage_platform.labeling.event import SECONDS_PER_DAY
from presage_platform.labeling.hashing import hash_json
from presage_platform.labeling.outcomes import age_mask, sex_mask
from presage_platform.labeling.semantics import IndexFacts, Policy
from presage_platform.labeling.tasks.definition import Task
from presage_platform.labeling.tasks.locks import Lock

OUTCOME_FORMAT = 2
"""Rises when the engine gives other rows for the same definition, so that outcomes are made again."""


@dataclass(frozen=True, eq=False)
class TaskIndex:
    """The studies that tasks run on: what the record says around each, and what a query may read of it.

    `visit_occurrence_id`, `site`, `sex` and `age_years` are in the order of `facts`; None = unknown.
    """

    facts: IndexFacts
    visit_occurrence_id: list[int | None]
    site: list[str | None]
    sex: list[str | None]
    age_years: list[int | None]

    def relation(self) -> pa.Table:
        """Return `task_index` as tasks see it."""
        t0 = self.facts.t0_s.astype("datetime64[s]")
        return pa.table(
            {
                "study_id": self.facts.study_id,
                "person_id": self.facts.person_id,
                "t0": pa.array(t0.astype("datetime64[us]")),
                "t0_date": pa.array(t0.astype("datetime64[D]")),
                "visit_occurrence_id": pa.array(self.visit_occurrence_id, pa.int64()),
                "site": pa.array(self.site, pa.string()),
            }
        )


@dataclass(frozen=True, eq=False)
class TaskResult:
    """Rows of one task (labeling L93), how many candidates were dropped and why, and the hash of its definition."""

    rows: pa.Table
    definition_hash: str
    dropped: dict[str, int] = field(default_factory=dict)


def policy_of(task: Task, data_cut_s: int) -> Policy:
    """Return the semantics that a task declares."""
    front = task.front
    return Policy(
        data_cut_s=data_cut_s,
        same_day=front.same_day,
        censor=front.censor,
        lookback_s=seconds(front.lookback_days),
        min_lag_s=task.min_lag_days * SECONDS_PER_DAY,
        min_prior_obs_days=front.min_prior_obs_days,
        visit_guard=front.visit_guard,
        fed_by_conditions=task.reads_conditions,
        follows_death=task.follows_death,
        death_competes="death" in front.competing,
    )


def definition_hash(task: Task, lock: Lock, data_cut_s: int) -> str:
    """Return the hash of all that a task's rows depend on beside index and record."""
    parts = {"body": task.body_hash, "lock": lock.lock_hash, "policy": policy_of(task, data_cut_s).to_json()}
    return hash_json({"format": OUTCOME_FORMAT, **parts})


def row_options(task: Task, index: TaskIndex) -> dict[str, Any]:
    """Return what a task's front matter says of its rows, as arguments of `rows_of_firsts` and `outcome_rows`."""
    front = task.front
    return {
        "risk": front.risk,
        "horizon_s": seconds(front.horizon_days),
        "extra_mask": sex_mask(index.sex, front.sex) | age_mask(index.age_years, front.age.min, front.age.max),
    }


def seconds(days: int | None) -> int | None:
    """Return days as seconds; None stays None."""
    return None if days is None else days * SECONDS_PER_DAY
