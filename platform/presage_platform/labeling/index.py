"""The index: one row a study, its person and the instant from which every label's clock starts.

`t0` is when the image was acquired: never an order date, never a file name. It is wall-clock time of the declared zone,
in whole seconds since 1970-01-01; no zone arithmetic happens here.
"""

from __future__ import annotations

import pyarrow as pa

from presage_platform.labeling.splits import persons_hash

__all__ = ["STUDIES_SCHEMA", "Precision", "TimeChoice", "choose_t0", "persons_hash"]

WORDS = pa.dictionary(pa.int32(), pa.string())
STUDIES_SCHEMA = pa.schema(
    [
        pa.field("study_id", pa.int64(), nullable=False),
        pa.field("person_id", pa.int64(), nullable=False),
        pa.field("t0", pa.int64(), nullable=False),
        pa.field("t0_precision", pa.uint8(), nullable=False),
        pa.field("t0_source", WORDS, nullable=False),
        pa.field("visit_occurrence_id", pa.int64()),
        pa.field("site", WORDS),
        pa.field("scan_rank", pa.int16(), nullable=False),
        pa.field("n_scans", pa.int16(), nullable=False),
        pa.field("split", pa.uint8(), nullable=False),
        pa.field("prior_obs_days", pa.int32(), nullable=False),
        pa.field("entry_s", pa.int32(), nullable=False),
        pa.field("end_s", pa.int32(), nullable=False),
        pa.field("end_cause", pa.uint8(), nullable=False),
        pa.field("death_s", pa.int32(), nullable=False),
        pa.field("death_end_s", pa.int32(), nullable=False),
        pa.field("mask", pa.uint16(), nullable=False),
    ]
)
"""Columns of `studies.parquet`; rows are sorted by (shard, person_id, t0, study_id)."""
