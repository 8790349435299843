"""The medical imaging extension of the CDM (MI-CDM): one row for each DICOM series of a linked study.

Series without a UID have no row; verdicts and choices are in the ledger's `image_series`.
"""

from __future__ import annotations

from sqlalchemy import Index, UniqueConstraint

from presage_platform.omop.columns import REQUIRED, concept_id, date, key, reference, table, text

image_occurrence = table(
    "image_occurrence",
    "DICOM series of imaging studies that are linked to a person.",
    key("image_occurrence_id"),
    reference("person_id", "person.person_id", REQUIRED),
    reference("procedure_occurrence_id", "procedure_occurrence.procedure_occurrence_id", REQUIRED, index=True),
    reference("visit_occurrence_id", "visit_occurrence.visit_occurrence_id", index=True),
    concept_id("anatomic_site_concept_id"),
    text("wadors_uri", None),
    text("local_path", None),
    date("image_occurrence_date", REQUIRED),
    text("image_study_uid", 250, REQUIRED, index=True),
    text("image_series_uid", 250, REQUIRED),
    concept_id("modality_concept_id", REQUIRED),
)
image_occurrence.append_constraint(UniqueConstraint("image_series_uid"))
Index(None, image_occurrence.c.person_id, image_occurrence.c.image_occurrence_date)
