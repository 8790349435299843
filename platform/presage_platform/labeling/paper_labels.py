"""Labels as the paper made them: the next event, censored at the last event's raw time; no death, no guard.

Where upstream dropped a study (its last event falls on the index date, or no task happens to it) it is *masked* here:
every study stays a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from presage_platform.labeling.event import Mask
from presage_platform.labeling.semantics import NEVER, IndexFacts, Policy, RiskWindows, day_start, risk_windows
from presage_platform.labeling.store_writer import ShardLabels

PAPER_MODES = ("paper", "paper-floor")


def paper_policy(policy: Policy) -> Policy:
    """Return a policy with everything that the paper's labels do without switched off."""
    return replace(
        policy,
        censor="last_event",
        death_competes=False,
        visit_guard="none",
        min_lag_s=0,
        min_prior_obs_days=0,
    )


def paper_facts(facts: IndexFacts, raw_last_s: NDArray[np.int64]) -> IndexFacts:
    """Return facts without death and observation periods, whose last event keeps its raw time.

    Elsewhere a date-only event lasts to the end of its day; here it stands at its start, as upstream reads it.
    """
    return replace(
        facts,
        last_event_s=raw_last_s,
        death_at_s=np.full(len(facts), NEVER, dtype=np.int64),
        in_period=np.ones(len(facts), dtype=np.bool_),
    )


def paper_windows(facts: IndexFacts, policy: Policy, raw_last_s: NDArray[np.int64]) -> RiskWindows:
    """Return risk windows of the paper's labels; a record that ends on the index date is masked."""
    windows = risk_windows(paper_facts(facts, raw_last_s), policy)
    mask = windows.mask.copy()
    mask[day_start(raw_last_s) == day_start(facts.t0_s)] |= np.uint16(Mask.PAPER_SAME_DAY)
    return replace(windows, mask=mask)


def mask_without_events(windows: RiskWindows, shards: Sequence[ShardLabels]) -> RiskWindows:
    """Mask the studies to which no task happens; rows of `windows` follow those of the shards."""
    num_events = np.concatenate([np.diff(shard.indptr) for shard in shards])
    mask = windows.mask.copy()
    mask[num_events == 0] |= np.uint16(Mask.PAPER_NO_TASK_EVENT)
    return replace(windows, mask=mask)
