"""README.md of the truth: every table with its columns, their types and what they mean, read from the files."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq

from presage_etl.synthetic.answers.truth import MEANINGS

HEAD = """# Truth of a synthetic hospital

Only synthetic, test and demonstration code reads this folder; every other command refuses it. Times ending in `_s` are
seconds since 1970 on the hospital's wall clock (in `true_labels` since the scan). No row comes from a real person.
synthetic: true
"""

# By the column's name, or by table and column where one name has two meanings; `#` stands for a number.
COLUMNS = {
    "person": "key of a person, FHIR id of the Patient",
    "study": "key of a study",
    "condition": "name of a leaf condition, or death",
    "concept_id": "standard OMOP concept",
    "task": "outcome task, or `concept:<id>`",
    "z#": "score of a visible latent: mean 0, sd 1 in the cohort",
    "u#": "invisible latent: frailty, metabolic, immune, care-seeking",
    "coefficients.z#": "log hazard ratio a sd of the score",
    "coefficients.u#": "log hazard ratio a sd",
    "coefficients.age": "log hazard ratio a decade above 60 at the first scan",
    "coefficients.male": "log hazard ratio of men",
    "natural#": "the biomarker that the picture shows, in its unit",
    "kind": "what the row is about",
    "coefficients.kind": "visible, mixed, clinical or null",
    "visits.kind": "AMB, EMER or IMP",
    "log_rate": "log of the base rate a year (to the power kappa)",
    "kappa": "Weibull shape",
    "risk_1y": "one-year risk after the scan on which the base rate was set",
    "family": "family of the ontology",
    "onset_s": "when it began",
    "first_recorded_s": "first time that a reader of the record sees it; null when never",
    "prevalent": "began (onsets) or was recorded (labels) by the scan",
    "origin_s": "start of the record, where the hazards of conditions begin",
    "index_s": "first scan, or a drawn time without one; the clock of death begins here",
    "origin_years": "years from the start of the record to the scan",
    "t0_s": "index time of the study",
    "other_day_in_utc": "an evening: the date in UTC is another one",
    "end_s": "end of what is known",
    "death_s": "death, where the record knows it",
    "death_day_only": "the record knows the day alone",
    "first_day": "first day of the observation period",
    "last_day": "last day of the observation period",
    "state": "event, censored, competing, prevalent or masked",
    "view": "incident or next",
    "time_s": "seconds from the scan to the event",
    "horizon_days": "horizon of the probability",
    "probability": "that the onset comes within the horizon and before death",
    "linear_predictor": "log of the mean rate: ranks persons",
    "arm": "which oracle",
    "metric": "harrell_c, auc_<days> (censoring weighted), auroc_365, ibs (30 to 365 days) on recorded labels; "
    "harrell_c_onset on the onsets themselves",
    "value": "mean over blocks of persons",
    "se": "standard error over the blocks",
    "num_persons": "persons at risk that were scored",
    "event_share": "share of persons at risk with a recorded event",
    "affine_ras": "4 x 4, row by row: voxel (column, row, slice) to RAS+ mm",
    "shape_zyx": "slices, rows, columns",
    "volume_sha256": "sha256 of the int16 Hounsfield volume, C order",
    "sharp_kernel": "noise of 30 to 60 HU and little blur, else 12 to 20 HU",
    "noise_hu": "sd of the noise in uniform tissue",
    "contrast_phase": "none, pulmonary, arterial or portal",
    "feet_first": "rows run to the right, slices to the feet",
    "confound": "the shortcut that was planted, as scanner=latent:correlation; null when none was",
    "transfer_syntax": "in which the series is written",
    "encoder_missing": "another syntax was drawn, whose encoder was not installed",
    "padded": "PixelPaddingValue -2000 outside the circle; a right reader makes it -1024",
    "character_set": "SpecificCharacterSet",
    "study_uid": "StudyInstanceUID",
    "series_uid": "SeriesInstanceUID",
    "patient": "FHIR reference; null where the EHR does not know the person",
    "imaging_study": "FHIR reference; null where the EHR does not know the study",
    "service_request": "FHIR reference of the order",
    "diagnostic_report": "FHIR reference",
    "patient_id": "PatientID of the images, medical record number of the Patient",
    "accession_number": "AccessionNumber of the images and of the order",
    "stage": "etl, images or link: after which step",
    "name": "table, verdict, reason",
    "expected": "how many",
    "class": "how the study is linked",
    "confidence": "of the link",
    "reason": "why it rests in quarantine, or was chosen",
    "first_sop_uid": "smallest SOPInstanceUID of the candidate: tells two of one series apart",
    "planted_dicom.kind": "name of the case; a study of several candidates has as many rows",
    "group": "slices, geometry, series choice, pixels, files or identity",
    "fixture": "of the table of thirty cases, where it is one",
    "sop_uids": "SOPInstanceUIDs of the candidate",
    "touched": "those that the defect changed, doubled or took away",
    "planted_dicom.reasons": "words of its reasons, sorted",
    "actions": "words of what must be done to it, sorted",
    "used": "SOPInstanceUIDs of its volume in order of place, `/frame` behind those of many frames; none when rejected",
    "planted_dicom.chosen": "whether it must represent the study",
    "beside": "status of each file beside the images that is none",
    "date_shift_days": "between the images' dates and the record's",
}


def write_readme(folder: Path) -> None:
    """Describe every table that lies in the folder."""
    parts = [HEAD]
    for path in sorted(folder.glob("*.parquet")):
        file = pq.ParquetFile(path)
        parts.append(f"\n## `{path.name}`\n\n{MEANINGS.get(path.stem, '')} ({file.metadata.num_rows:,} rows)\n")
        parts.append("| column | type | meaning |\n|---|---|---|")
        parts += [f"| {field.name} | {field.type} | {meaning(path.stem, field.name)} |" for field in file.schema_arrow]
    (folder / "README.md").write_text("\n".join(parts) + "\n", encoding="utf-8")


def meaning(table: str, column: str) -> str:
    """What a column means; empty where its name says it."""
    general = re.sub(r"\d+$", "#", column)
    names = (f"{table}.{column}", f"{table}.{general}", column, general)
    return next((COLUMNS[name] for name in names if name in COLUMNS), "")
