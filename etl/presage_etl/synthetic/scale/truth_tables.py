"""The truth of a cohort in the stores: what its parts staged, gathered and keyed by study id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from presage_etl.synthetic.answers import ceilings, oracle, truth
from presage_etl.synthetic.answers.truth_readme import write_readme
from presage_etl.synthetic.identifiers import study_key
from presage_etl.synthetic.lives.hazards import Model
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.scale.first_occurrences import SCHEMA as SAMPLE_SCHEMA
from presage_etl.synthetic.scale.lives import part_file
from presage_etl.synthetic.scale.strength import Strength, write_strength

# Tables that parts may stage, and what orders their rows.
KEYS = {
    "persons": ("person",),
    "scans": ("study",),
    "joins": ("study",),
    "onsets": ("person", "condition"),
    "death_censor": ("person",),
    "visits": ("person", "visit"),
    "true_labels": ("study", "task", "view"),
}
WITH_STUDY_ID = ("scans", "joins")


def write_truth(
    folder: Path,
    staging: Path,
    parameters: Parameters,
    model: Model,
    places: Sequence[tuple[int, int]],
    studies: pa.Table,
) -> None:
    """Gather the staged tables, and the sample of first occurrences."""
    ids = _study_ids(studies)
    for name, keys in KEYS.items():
        paths = [part_file(staging, shard, part, f"truth.{name}") for shard, part in places]
        tables = [pq.read_table(path) for path in paths if path.is_file()]
        if tables:
            table = pa.concat_tables(tables, promote_options="permissive")
            table = table.sort_by([(key, "ascending") for key in keys])
            if name in WITH_STUDY_ID:
                numbers = [ids[key] for key in table.column("study").to_pylist()]
                table = table.append_column("study_id", pa.array(numbers, pa.int64()))
            truth.write_table(folder, name, table)
    truth.write_table(folder, "coefficients", truth.coefficient_rows(model))
    samples = [pq.read_table(path) for path in sorted(staging.glob("sample-*.parquet"))]
    sample = pa.concat_tables([SAMPLE_SCHEMA.empty_table(), *samples])
    order = [("study_id", "ascending"), ("concept_id", "ascending")]
    truth.write_table(folder, "first_occurrence_sample", sample.sort_by(order))
    write_readme(folder)


def write_full_truth(folder: Path, parameters: Parameters, model: Model, workers: int | None) -> Strength:
    """Write both oracles, their ceilings, and how strong the planted signal is."""
    scans = pq.read_table(folder / "scans.parquet").to_pylist()
    persons = pq.read_table(folder / "persons.parquet").to_pylist()
    oracle.write_oracles(folder, parameters, model, scans, persons)
    ceilings.write_ceilings(folder, parameters, model, workers=workers)
    strength = write_strength(folder, parameters, model, workers)
    write_readme(folder)
    return strength


def _study_ids(studies: pa.Table) -> dict[str, int]:
    columns = (studies.column(name).to_pylist() for name in ("person_id", "number", "study_id"))
    return {study_key(person - 1, number): study for person, number, study in zip(*columns, strict=True)}
