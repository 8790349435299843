"""What is known of a study besides its image and its codes: the only source of baselines and strata."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from presage_platform.labeling.index import IndexRows
    from presage_platform.labeling.timeline import Snapshot

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

SEX = {8507: "M", 8532: "F"}
SETTING = {
    9201: "inpatient",
    262: "inpatient",
    8717: "inpatient",
    9203: "emergency",
    8870: "emergency",
    9202: "outpatient",
    5083: "outpatient",
    581476: "outpatient",
    581477: "outpatient",
    38004207: "outpatient",
}
"""OMOP visit concepts by setting; others are unknown."""


def covariates(
    rows: IndexRows, visit_id: NDArray[np.int64], snapshot: Snapshot, concept_name: Mapping[int, str]
) -> pa.Table:
    """Return what is known of each study at t0, in row order.

    Parameters
    ----------
    visit_id
        The visit that holds t0, -1 = none.
    concept_name
        Names of race and ethnicity concepts.
    """
    person, visit = snapshot.person_and_visit(rows.person_id, visit_id)
    moments = rows.t0_s.astype("datetime64[s]")
    columns: dict[str, Any] = {
        "study_id": rows.study_id,
        "age_years": _ages(person.column("birth_date").to_pylist(), rows.t0_s),
        "sex": [SEX.get(concept) for concept in person.column("gender_concept_id").to_pylist()],
        "race": [concept_name.get(concept) for concept in person.column("race_concept_id").to_pylist()],
        "ethnicity": [concept_name.get(concept) for concept in person.column("ethnicity_concept_id").to_pylist()],
        "year": moments.astype("datetime64[Y]").astype(np.int64) + 1970,
        "site": sites(person, visit),
        "setting": [SETTING.get(concept) for concept in visit.column("concept").to_pylist()],
    }
    for name in COVARIATES_SCHEMA.names:
        if name in rows.covariates.column_names and name not in ("study_id", "year"):
            given = rows.covariates.column(name).to_pylist()
            known = list(columns.get(name, [None] * len(given)))
            columns[name] = [own if own is not None else other for own, other in zip(given, known, strict=True)]
        columns.setdefault(name, [None] * len(rows.study_id))
    return pa.table(
        {name: pa.array(columns[name], COVARIATES_SCHEMA.field(name).type) for name in COVARIATES_SCHEMA.names},
        schema=COVARIATES_SCHEMA,
    )


def sites(person: pa.Table, visit: pa.Table) -> list[str | None]:
    """Return the care site of the visit that holds t0, else of the person."""
    pairs = zip(visit.column("site").to_pylist(), person.column("site").to_pylist(), strict=True)
    return [here if here is not None else home for here, home in pairs]


def _ages(birth: list[date | None], t0_s: NDArray[np.int64]) -> list[int | None]:
    days = t0_s.astype("datetime64[s]").astype("datetime64[D]").astype(object).tolist()
    return [None if born is None else years_between(born, day) for born, day in zip(birth, days, strict=True)]


def years_between(born: date, day: date) -> int:
    """Return whole years, at least 0: a birthday counts from the day itself."""
    return max(day.year - born.year - ((day.month, day.day) < (born.month, born.day)), 0)
