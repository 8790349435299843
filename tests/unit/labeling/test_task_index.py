"""What outcome tasks are given of each study: absolute times, also where the label store holds relative ones."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from presage_platform.labeling.semantics import NEVER, IndexFacts
from presage_platform.labeling.tasks.engine import task_index

T0_S, DEATH_S = 1_500_000_000, 1_600_000_000


def test_l93_a_death_is_given_on_the_clock_not_from_the_scan(tmp_path: Path) -> None:
    facts = {name: [T0_S, T0_S] for name in IndexFacts.__slots__} | {"death_at_s": [DEATH_S, NEVER]}
    studies = {
        "study_id": [1, 2],
        "death_s": [DEATH_S - T0_S, -1],
        "visit_occurrence_id": [5, None],
        "site": ["a", None],
    }
    covariates = {"study_id": [1, 2], "sex": ["F", "M"], "age_years": [61, 47]}
    for name, columns in (("facts", facts), ("studies", studies), ("covariates", covariates)):
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    index = task_index(tmp_path)
    assert index.facts.death_at_s.tolist() == [DEATH_S, NEVER]
    assert index.visit_occurrence_id == [5, None]
    assert index.age_years == [61, 47]
