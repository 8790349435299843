"""What is known of a study besides its image and its codes: the only source of baselines and strata."""

from __future__ import annotations

import pyarrow as pa

COVARIATES_SCHEMA = pa.schema(
    [
        pa.field("study_id", pa.int64(), nullable=False),
        pa.field("age_years", pa.int32()),
        pa.field("sex", pa.string()),
        pa.field("race", pa.string()),
        pa.field("ethnicity", pa.string()),
        pa.field("manufacturer", pa.string()),
        pa.field("kernel_class", pa.string()),
        pa.field("slice_thickness_mm", pa.float64()),
        pa.field("contrast", pa.bool_()),
        pa.field("year", pa.int32()),
        pa.field("site", pa.string()),
        pa.field("setting", pa.string()),
    ]
)
"""Columns of `covariates.parquet`, one row a study in row order; null = unknown."""
