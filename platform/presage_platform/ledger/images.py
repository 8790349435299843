"""Ledger tables of the images: studies, volume candidates, links to persons, and quarantine with its reasons.

Written by the DICOM ingest and by linking, read by labeling. Pixels and slices never become rows here: slices live in
the Parquet catalogue, voxels in the volume store.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Float, Identity, Index, Integer, SmallInteger, Table, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from presage_platform.ledger.metadata import ledger_metadata

image_study = Table(
    "image_study",
    ledger_metadata,
    Column("study_id", BigInteger, Identity(always=False), primary_key=True),
    Column("study_uid", Text, nullable=False, unique=True),
    Column("patient_key", Text, comment="keyed hash of PatientID"),
    Column("issuer", Text, comment="issuer of PatientID as declared or tagged"),
    Column("other_patient_keys", ARRAY(Text)),
    Column("accession_key", Text, comment="keyed hash of AccessionNumber"),
    Column("accession_issuer", Text),
    Column("sex", Text),
    Column("birth_year", SmallInteger),
    Column("study_dt", DateTime, comment="naive, declared zone"),
    Column("study_date_written", Text, comment="calendar date as written in the header, YYYY-MM-DD"),
    Column("num_patient_keys", SmallInteger, nullable=False, server_default="1"),
    Column("first_run", BigInteger),
    Column("last_run", BigInteger),
    comment="One DICOM study; study_id is what volumes, labels and embeddings join on",
)

image_series = Table(
    "image_series",
    ledger_metadata,
    Column("series_key", Text, primary_key=True, comment="first 32 hex digits of a hash over its identity"),
    Column("study_id", BigInteger, nullable=False, index=True),
    Column("study_uid", Text, nullable=False),
    Column("series_uid", Text),
    Column("modality", Text),
    Column("attributes", JSONB, nullable=False, comment="constant header attributes of the candidate"),
    Column("split_by", ARRAY(Text), nullable=False),
    Column("num_slices", Integer, nullable=False),
    Column("geometry", JSONB, comment="affine, spacing, extent, tilt, gaps"),
    Column("image_dt", DateTime, comment="naive, declared zone; earliest used slice"),
    Column("image_dt_source", Text),
    Column("image_dt_precision", Text, comment="s, min or day"),
    Column("image_dates", JSONB, comment="every header time of the earliest used slice"),
    Column("manufacturer", Text),
    Column("kernel_class", Text),
    Column("slice_thickness_mm", Float),
    Column("contrast", Boolean),
    Column("body_part", Text),
    Column("verdict", Text, nullable=False),
    Column("verdict_stage", Text, nullable=False, comment="header or pixels"),
    Column("reasons", JSONB, nullable=False),
    Column("actions", JSONB, nullable=False),
    Column("rank", Integer, comment="1 = represents the study; null = rejected"),
    Column("rank_reason", Text),
    Column("volume_id", Text),
    Column("stale", Boolean, nullable=False, server_default="false"),
    Column("run_id", BigInteger),
    comment="One volume candidate of a study with its verdict",
)

study_link = Table(
    "study_link",
    ledger_metadata,
    Column("study_id", BigInteger, primary_key=True, autoincrement=False),
    Column("person_id", BigInteger, nullable=False, index=True),
    Column("link_class", Text, nullable=False),
    Column("confidence", Text, nullable=False),
    Column("evidence", JSONB, nullable=False),
    Column("procedure_occurrence_id", BigInteger),
    Column("visit_occurrence_id", BigInteger),
    Column("run_no", BigInteger),
    comment="A study and the person it belongs to",
)

study_accession = Table(
    "study_accession",
    ledger_metadata,
    Column("study_id", BigInteger, primary_key=True, autoincrement=False),
    Column("accession_key", Text, primary_key=True),
    Column("issuer", Text),
    comment="Accession numbers (keyed hashes) of a study: many to many",
)

link_quarantine = Table(
    "link_quarantine",
    ledger_metadata,
    Column("study_id", BigInteger, primary_key=True, autoincrement=False),
    Column("reason", Text, nullable=False),
    Column("evidence", JSONB, nullable=False),
    Column("first_seen", DateTime, nullable=False),
    Column("last_seen", DateTime, nullable=False),
    Column("run_no", BigInteger),
    Column("resolved_run", BigInteger, comment="set when a later run linked the study; the row stays as history"),
    comment="Studies that belong to nobody yet, with the reason",
)

Index("image_series_rank", image_series.c.study_id, image_series.c.rank)
