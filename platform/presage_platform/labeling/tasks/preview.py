"""A look at what a task labels: counts of states, and sampled rows for whoever may see patients."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from presage_platform.labeling.event import SECONDS_PER_DAY
from presage_platform.labeling.store import LabelStore, open_labels
from presage_platform.labeling.tasks.engine import prepare_in, run_ready, task_index
from presage_platform.labeling.timeline import Snapshot
from presage_platform.postgres.connection import open_database

if TYPE_CHECKING:
    from presage_platform.settings import Settings


def preview(settings: Settings, path: Path, *, number: int, show_patients: bool, seed: int) -> dict[str, Any]:
    """Run one task on the newest label store.

    Returns
    -------
    dict
        `states` (counts), `dropped` (candidates by reason), `rows`: a seeded sample of each state with study and days,
        empty unless `show_patients`.
    """
    store = open_labels(settings)
    with open_database(settings, command="tasks") as database:
        ready = prepare_in([path], database)
        snapshot = Snapshot.open(settings.timeline_dir / store.manifest["inputs"]["snapshot_id"])
        outcomes = run_ready(
            ready, task_index(store.path), data_cut_s=data_cut_s(store), snapshot=snapshot, database=database
        )
    for error in outcomes.failures.values():
        raise error
    (result,) = outcomes.results.values()
    rows = result.rows.to_pylist()
    counts = Counter(row["state"] for row in rows)
    sample: list[dict[str, Any]] = []
    if show_patients:
        generator = np.random.default_rng(seed)
        for state in sorted(counts):
            chosen = [row for row in rows if row["state"] == state]
            for place in sorted(generator.permutation(len(chosen))[:number].tolist()):
                sample.append(_shown(chosen[place]))
    return {"states": dict(sorted(counts.items())), "dropped": result.dropped, "rows": sample}


def data_cut_s(store: LabelStore) -> int:
    """Return the last second that the record of a label store covers."""
    return int(store.manifest["inputs"]["semantics"]["data_cut_s"])


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    seconds = row["time_s"] if row["time_s"] is not None else row["end_s"]
    return {"study_id": row["study_id"], "state": row["state"], "days": int(seconds) // SECONDS_PER_DAY}
