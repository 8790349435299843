"""A label store of generated labels, for timing its reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from presage_platform.labeling.bins import explicit_edges, fit_bins
from presage_platform.labeling.covariates import COVARIATES_SCHEMA
from presage_platform.labeling.index import STUDIES_SCHEMA, persons_hash
from presage_platform.labeling.semantics import Policy, risk_windows
from presage_platform.labeling.store import write_label_store
from tests.lib.label_events import Generated


def store_of(
    labels_dir: Path, parts: Sequence[Generated], shards: Sequence[Any], num_tasks: int, policy: Policy
) -> Path:
    """Write the labels of some shards and return the store's folder."""
    facts = [part.facts for part in parts]
    windows = [risk_windows(fact, policy) for fact in facts]

    def joined(items: Sequence[Any], name: str) -> Any:
        return np.concatenate([getattr(item, name) for item in items])

    study = joined(facts, "study_id")
    columns: dict[str, Any] = {
        "study_id": study,
        "person_id": joined(facts, "person_id"),
        "t0": joined(facts, "t0_s"),
        **{name: joined(windows, name) for name in ("entry_s", "end_s", "end_cause", "death_s", "death_end_s", "mask")},
    }
    constants = {
        "t0_precision": 0,
        "t0_source": "generated",
        "scan_rank": 1,
        "n_scans": 1,
        "split": 0,
        "prior_obs_days": 0,
    }
    arrays = []
    for field in STUDIES_SCHEMA:
        values = columns.get(field.name, [constants.get(field.name)] * len(study))
        arrays.append(pa.array(values, field.type))
    covariates = {field.name: pa.array([None] * len(study), field.type) for field in COVARIATES_SCHEMA}
    covariates["study_id"] = pa.array(study)
    ones = np.ones(num_tasks, dtype=np.int64)
    label_hash = write_label_store(
        labels_dir,
        studies=pa.table(arrays, schema=STUDIES_SCHEMA),
        tasks=pa.table({"task": [f"concept:{number}" for number in range(num_tasks)]}),
        bins=fit_bins(explicit_edges([30, 365]), ones, ones, fitted_on=persons_hash(columns["person_id"])),
        shards=shards,
        covariates=pa.table(covariates, schema=COVARIATES_SCHEMA),
        inputs={"snapshot_id": "generated"},
    )
    return labels_dir / label_hash
