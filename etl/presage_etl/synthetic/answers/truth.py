"""The truth beside the hospital: one Parquet file a question, and a README that names their columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from presage_etl.synthetic.lives.hazards import Model
from presage_etl.synthetic.records.record_counts import RecordCounts
from presage_etl.synthetic.shards import Rows

STAGES = ("etl", "link")
MEANINGS = {
    "first_occurrence_sample": "first time after some scans, and history, of every concept: by a plain walk (S47)",
    "strength": "per visible condition: C of oracle_image and share of events on recorded labels of a simulation",
    "volumes": "one row a volume of the store: whose scan it shows, latents shown, scanner; derived ones are marked",
    "volume_labels": "outcome labels of the person that each volume shows (a derived volume: that of its base)",
    "persons": "demography, record start (origin_s), first scan or pseudo-index (index_s), scores z1…z8, u1…u4",
    "scans": "one row a study: t0_s, latents shown (scores, natural units), affine_ras, shape_zyx, volume_sha256",
    "coefficients": "one row a leaf condition (and `death`): base rate, shape, log hazard ratios a sd, kind, concept",
    "onsets": "onset_s, first_recorded_s (as a reader of the record sees it), prevalent at the first scan",
    "death_censor": "end of the record, death, first and last day of the record",
    "visits": "every encounter",
    "true_labels": "state and time_s of each study, outcome task and view; of each leaf, `concept:<id>`, the next view",
    "oracle_risk": "P(onset before horizon and before death | at risk, z, u, age, sex) and the linear predictor",
    "oracle_image": "the same given z, age and sex only: the ceiling of any image model",
    "ceilings": "how well both oracles foretell recorded labels of a large simulation of the same law",
    "planted_dicom": "defects planted in images: one row a volume candidate of each study that bears one",
    "planted_fhir": "every planted line: kind, file, line, resource, what becomes of it, reason, number of CDM rows",
    "links": "per study the person, the class and confidence of the link, or the reason of its quarantine",
    "chosen": "the series that must represent each study, and why",
    "joins": "keys of each study beside FHIR ids and DICOM UIDs",
    "join_persons": "keys of each person beside FHIR ids and record numbers, scanned or not",
    "omop_keys": "mode omop: which resource (and slot of it) each numbered row of omop/ came from",
    "expected_counts": "rows of each table after `etl fhir` (stage etl; after the first of two exports: etl-1) and "
    "`link` (stage link), excluded and dead resources, condition rows without concept (unmapped), verdicts, quarantine",
}


def write_table(folder: Path, name: str, rows: Rows | pa.Table) -> None:
    """Write one table; rows keep their order."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    pq.write_table(table, folder / f"{name}.parquet", compression="zstd", store_schema=False)


def coefficient_rows(model: Model) -> Rows:
    """One row a leaf condition, and one for death."""
    rows: Rows = []
    for place, leaf in enumerate(model.leaves):
        row: dict[str, Any] = {
            "condition": leaf.name,
            "concept_id": leaf.concept_id,
            "kind": leaf.kind,
            "family": leaf.family,
            "risk_1y": leaf.risk,
            "log_rate": float(model.log_rate[place]),
            "kappa": model.kappa,
            "age": float(model.age[place]),
            "male": float(model.male[place]),
        }
        row |= {f"z{n + 1}": float(value) for n, value in enumerate(model.beta[place])}
        rows.append(row | {f"u{n + 1}": float(value) for n, value in enumerate(model.gamma[place])})
    death: dict[str, Any] = dict.fromkeys(rows[0], None) | {
        "condition": "death",
        "kind": "mixed",
        "log_rate": model.death_log_rate,
        "kappa": 1.0,
        "age": model.death_age,
        "male": 0.0,
    }
    death |= {f"z{n + 1}": float(value) for n, value in enumerate(model.death_beta)}
    rows.append(death | {f"u{n + 1}": float(value) for n, value in enumerate(model.death_gamma)})
    return rows


def expected_rows(records: RecordCounts, images: list[tuple[str, str, str, int]]) -> Rows:
    """Counts that each stage of a right pipeline must show; `images` are those of `etl dicom` and `link`."""
    found = []
    for stage, kind, name, number in images:
        adds_to = records.tables()[name] if (kind, name) == ("table", "procedure_occurrence") else 0
        found.append((stage, kind, name, number + adds_to))
    return records.rows() + _counted(found)


def _counted(found: list[tuple[str, str, str, int]]) -> Rows:
    return [
        {"stage": stage, "kind": kind, "name": name, "expected": int(number)}
        for stage, kind, name, number in sorted(found)
    ]
