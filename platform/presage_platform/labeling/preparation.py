"""Studies in row order, with everything that the kernel needs to know of them, and the index as it is stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from presage_platform.labeling.covariates import sites
from presage_platform.labeling.facts import index_facts
from presage_platform.labeling.index import STUDIES_SCHEMA, IndexRows
from presage_platform.labeling.paper_labels import PAPER_MODES, paper_policy, paper_windows
from presage_platform.labeling.semantics import (
    BEFORE_ALL,
    IndexFacts,
    Policy,
    RiskWindows,
    prior_observation_days,
    risk_windows,
)
from presage_platform.labeling.splits import Split, split_persons

if TYPE_CHECKING:
    from presage_platform.labeling.timeline import Snapshot
    from presage_platform.settings import LabelingSettings


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Studies in row order with everything that the kernel needs to know of them."""

    rows: IndexRows
    shard: NDArray[np.int64]
    facts: IndexFacts
    visit_id: NDArray[np.int64]
    windows: RiskWindows
    policy: Policy
    split: Split
    site: list[str | None]

    @property
    def part(self) -> NDArray[np.uint8]:
        """Split of each study."""
        return self.split.of(self.rows.person_id)


def prepare(rows: IndexRows, snapshot: Snapshot, settings: LabelingSettings) -> Prepared:
    """Put studies in row order and find out when each is at risk."""
    shard = snapshot.shards_of(rows.person_id)
    order = np.lexsort((rows.study_id, rows.t0_s, rows.person_id, shard))
    rows, shard = rows.take(order), shard[order]
    histories = snapshot.histories()
    facts, visit_id = index_facts(
        rows.study_id,
        rows.person_id,
        rows.t0_s,
        rows.t0_precision == 2,
        histories,
        bridge_days=settings.bridge_days,
        grace_days=settings.grace_days,
    )
    tables = np.asarray(snapshot.table("concept_counts").column("tables"))
    policy = Policy.of_task_set(settings, data_cut_s=snapshot.data_cut_s)
    # A store has one risk start a study: one task fed by conditions moves it for all.
    policy = replace(policy, fed_by_conditions=bool((tables & 1).any()))
    site = sites(*snapshot.person_and_visit(rows.person_id, visit_id))
    split = _split(rows, site, settings)
    if settings.mode in PAPER_MODES:
        policy = paper_policy(policy)
        windows = paper_windows(facts, policy, last_event_s(snapshot, rows.person_id))
    else:
        windows = risk_windows(facts, policy)
    return Prepared(rows, shard, facts, visit_id, windows, policy, split, site)


def last_event_s(snapshot: Snapshot, person_id: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the raw time of each person's last event, `BEFORE_ALL` where there is none."""
    persons, last_s = snapshot.last_events(raw=True)
    at = np.minimum(np.searchsorted(persons, person_id), len(persons) - 1)
    return np.where(persons[at] == person_id, last_s[at], BEFORE_ALL)


def studies_table(prepared: Prepared) -> pa.Table:
    """Return the index as it is stored (columns of labeling L1)."""
    rows, windows = prepared.rows, prepared.windows
    _, number, count = np.unique(rows.person_id, return_inverse=True, return_counts=True)
    start = np.concatenate([[True], rows.person_id[1:] != rows.person_id[:-1]])
    position = np.arange(len(rows.person_id))
    columns = {
        "study_id": rows.study_id,
        "person_id": rows.person_id,
        "t0": rows.t0_s,
        "t0_precision": rows.t0_precision,
        "t0_source": rows.t0_source,
        "visit_occurrence_id": pa.array(prepared.visit_id, pa.int64(), mask=prepared.visit_id < 0),
        "site": prepared.site,
        "scan_rank": position - np.maximum.accumulate(np.where(start, position, 0)) + 1,
        "n_scans": count[number],
        "split": prepared.part,
        "prior_obs_days": prior_observation_days(prepared.facts),
        "entry_s": windows.entry_s,
        "end_s": windows.end_s,
        "end_cause": windows.end_cause,
        "death_s": windows.death_s,
        "death_end_s": windows.death_end_s,
        "mask": windows.mask,
    }
    arrays = [
        values if isinstance(values, pa.Array) else pa.array(values, STUDIES_SCHEMA.field(name).type)
        for name, values in columns.items()
    ]
    return pa.table(arrays, schema=STUDIES_SCHEMA)


def _split(rows: IndexRows, site: list[str | None], settings: LabelingSettings) -> Split:
    persons, first = np.unique(rows.person_id, return_index=True)
    group: list[Any] | None = None
    if settings.split_method == "site":
        group = [site[i] for i in first.tolist()]
    elif settings.split_method == "date":
        group = [int(rows.t0_s[i]) // 86_400 for i in first.tolist()]
    return split_persons(
        persons,
        seed=settings.split_seed,
        fractions=settings.split_fractions,
        method=settings.split_method,
        group=group,
    )
