"""Ledger tables of the record loads: runs, files, identities, provenance, dead letters and what was not understood.

`resource` gives every FHIR resource its number; `origin` is id map and provenance in one, a row for each CDM row.
Nothing here may be joined to by SQL tasks: the schema is closed to the reader role.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from presage_platform.ledger.metadata import ledger_metadata

TABLE_NUMBERS: dict[str, int] = {
    "person": 1,
    "observation_period": 2,
    "visit_occurrence": 3,
    "visit_detail": 4,
    "condition_occurrence": 5,
    "drug_exposure": 6,
    "procedure_occurrence": 7,
    "device_exposure": 8,
    "measurement": 9,
    "observation": 10,
    "death": 11,
    "note": 12,
    "note_nlp": 13,
    "specimen": 14,
    "fact_relationship": 15,
    "location": 16,
    "care_site": 17,
    "provider": 18,
    "payer_plan_period": 19,
    "cost": 20,
    "drug_era": 21,
    "dose_era": 22,
    "condition_era": 23,
    "episode": 24,
    "episode_event": 25,
    "metadata": 26,
    "cdm_source": 27,
    "cohort": 28,
    "cohort_definition": 29,
    "image_occurrence": 30,
}
"""`origin.table_no` of each CDM table. A number is never changed or used again."""


def _required(name: str, kind: Any, **options: Any) -> Column[Any]:
    return Column(name, kind, nullable=False, **options)


def _part_of_key(name: str, kind: Any) -> Column[Any]:
    return Column(name, kind, primary_key=True, autoincrement=False)


def _moment(name: str, required: bool = False) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=not required)


source = Table(
    "source",
    ledger_metadata,
    Column("source_no", SmallInteger, Identity(always=False), primary_key=True),
    _required("name", Text, unique=True),
    Column("extracted_on", Date, comment="extraction date that later runs take over"),
    Column("changed_by_run", BigInteger, comment="last run that changed or deleted rows of an earlier one"),
    comment="A named origin of exports; ids of two sources never collide",
)

transform = Table(
    "transform",
    ledger_metadata,
    Column("transform_no", Integer, Identity(always=False), primary_key=True),
    _required("policy_hash", Text),
    _required("mapping_version", Text),
    _required("vocabulary_release", Text),
    UniqueConstraint("policy_hash", "mapping_version", "vocabulary_release"),
    comment="Everything besides the bytes that decides what a resource becomes",
)

run = Table(
    "run",
    ledger_metadata,
    Column("run_no", BigInteger, Identity(always=False), primary_key=True),
    _required("command", Text),
    Column("source_no", SmallInteger),
    _moment("started_at", required=True),
    _moment("ended_at"),
    _required("state", Text, comment="running, finished, failed, interrupted or abandoned"),
    _required("phase", Text, comment="reading, merged, done"),
    Column("inputs_hash", Text, comment="same inputs, options and transform: the run may be continued"),
    Column("transform_no", Integer),
    Column("presage_version", Text),
    Column("fhir_version", Text),
    Column("ig_version", Text),
    Column("cdm_version", Text),
    Column("vocabulary_release", Text),
    Column("policy_hash", Text),
    Column("policies", JSONB),
    Column("mapping_version", Text),
    Column("timezone", Text),
    Column("extracted_on", Date),
    Column("host", Text),
    Column("pid", Integer),
    Column("workers", Integer),
    Column("counts", JSONB, comment="per resource type, stage and table"),
    comment="One run of a command that writes",
)

source_file = Table(
    "source_file",
    ledger_metadata,
    Column("file_no", BigInteger, Identity(always=False), primary_key=True),
    _required("run_no", BigInteger, index=True),
    _required("ordinal", Integer, comment="place in the order of paths of its run"),
    _required("path", Text),
    _required("size_bytes", BigInteger),
    _required("sha256", LargeBinary, index=True),
    _required("form", Text),
    _required("state", Text, comment="pending, finished or skipped"),
    Column("resources", BigInteger),
    Column("counts", JSONB, comment="per resource type: in, loaded, excluded, dead"),
    comment="A file that a run was given",
)

chunk = Table(
    "chunk",
    ledger_metadata,
    _part_of_key("run_no", BigInteger),
    _part_of_key("chunk_no", BigInteger),
    _required("file_no", BigInteger, comment="its only or first file"),
    _required("start_offset", BigInteger),
    _required("counts", JSONB, comment="resources read, per file and type"),
    _required("notes", JSONB, comment="losses, fallbacks and other counts of the mapping"),
    _required("seconds", JSONB, comment="time per stage"),
    comment="A finished partition of a run",
)

run_marker = Table(
    "run_marker",
    ledger_metadata,
    _part_of_key("run_no", BigInteger),
    prefixes=["UNLOGGED"],
    comment="Emptied by a crash of the server, as the stage tables are: then the chunks of the run are read again",
)

resource = Table(
    "resource",
    ledger_metadata,
    _part_of_key("resource_no", BigInteger),
    _required("source_no", SmallInteger),
    _required("resource_type", Text),
    _required("resource_id", Text),
    _required("state", Text, comment="loaded, excluded, deleted, or dead: its person went"),
    Column("reason", Text, comment="why it is excluded"),
    _required("content_hash", LargeBinary, comment="BLAKE2b-128 of the bytes"),
    _required("transform_no", Integer),
    _moment("last_updated"),
    Column("version_id", BigInteger),
    _required("run_no", BigInteger, comment="run that wrote this version"),
    _required("file_no", BigInteger),
    _required("byte_offset", BigInteger),
    Column("byte_length", Integer),
    Column("line", BigInteger),
    Column("changed_at", DateTime(timezone=True), comment="when it was deleted"),
    UniqueConstraint("source_no", "resource_type", "resource_id"),
    comment="Every resource that was loaded or excluded, with the version that counts",
)

origin = Table(
    "origin",
    ledger_metadata,
    _part_of_key("table_no", SmallInteger),
    _part_of_key("row_id", BigInteger),
    _required("resource_no", BigInteger),
    _required("slot", Text),
    _required("run_no", BigInteger),
    Column("file_no", BigInteger),
    Column("byte_offset", BigInteger),
    Column("line", BigInteger),
    Column("version_id", BigInteger),
    _required("rule", SmallInteger),
    Column("date_source", Text),
    Column("imputed", Text),
    Column("flags", Text, comment="synthetic, merged, …"),
    UniqueConstraint("resource_no", "table_no", "slot"),
    comment="Where each CDM row comes from; with the unique key also the map from resources to ids",
)

id_counter = Table(
    "id_counter",
    ledger_metadata,
    Column("name", Text, primary_key=True),
    _required("last_id", BigInteger),
    comment="A sequence for each CDM table that rolls back with its transaction, so that ids stay dense",
)

exclusion = Table(
    "exclusion",
    ledger_metadata,
    _part_of_key("run_no", BigInteger),
    Column("resource_type", Text, primary_key=True),
    Column("reason", Text, primary_key=True),
    _required("count", BigInteger),
    comment="What a run left out on purpose",
)

dead_letter = Table(
    "dead_letter",
    ledger_metadata,
    Column("letter_no", BigInteger, Identity(always=False), primary_key=True),
    _required("source_no", SmallInteger),
    _required("run_no", BigInteger, comment="first run that met it"),
    _required("last_run_no", BigInteger),
    _required("stage", Text),
    _required("reason", Text),
    Column("path", Text),
    Column("resource_type", Text),
    Column("resource_id", Text),
    Column("wanted_key", Text, comment="the resource whose arrival heals it"),
    Column("file_no", BigInteger),
    Column("byte_offset", BigInteger),
    Column("line", BigInteger),
    _required("content_hash", LargeBinary),
    Column("payload", LargeBinary, comment="zstd"),
    _required("attempts", Integer, server_default="1"),
    Column("resolved_by_run", BigInteger),
    comment="What could not be loaded, kept whole",
)
Index(None, dead_letter.c.source_no, dead_letter.c.resource_type, dead_letter.c.resource_id)
Index(
    "ix_dead_letter_wanted",
    dead_letter.c.source_no,
    dead_letter.c.wanted_key,
    postgresql_where=dead_letter.c.resolved_by_run.is_(None),
)

run_note = Table(
    "run_note",
    ledger_metadata,
    _part_of_key("run_no", BigInteger),
    Column("resource_type", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("element", Text, primary_key=True),
    Column("detail", Text, primary_key=True),
    _required("count", BigInteger),
    comment="Losses, fallbacks, unresolved references and the like, counted",
)

unmapped_code = Table(
    "unmapped_code",
    ledger_metadata,
    Column("code_no", BigInteger, Identity(always=False), primary_key=True),
    _required("system", Text, comment="empty: the coding names none"),
    _required("code", Text),
    _required("reason", Text),
    Column("display", Text),
    _required("count", BigInteger, server_default="0"),
    _required("persons", BigInteger, server_default="0"),
    Column("first_date", Date),
    Column("last_date", Date),
    Column("pointers", ARRAY(BigInteger), comment="up to three resource numbers"),
    UniqueConstraint("system", "code", "reason"),
    comment="Codes that reached no standard concept",
)

unmapped_use = Table(
    "unmapped_use",
    ledger_metadata,
    _part_of_key("resource_no", BigInteger),
    _part_of_key("code_no", BigInteger),
    _required("count", Integer),
    comment="Which resources carry which unmapped code",
)
Index(None, unmapped_use.c.code_no)

long_value = Table(
    "long_value",
    ledger_metadata,
    _part_of_key("table_no", SmallInteger),
    _part_of_key("row_id", BigInteger),
    Column("column_name", Text, primary_key=True),
    _required("value", Text),
    comment="Values longer than their column, whole",
)

pending_reference = Table(
    "pending_reference",
    ledger_metadata,
    _part_of_key("table_no", SmallInteger),
    _part_of_key("row_id", BigInteger),
    Column("column_name", Text, primary_key=True),
    _required("source_no", SmallInteger),
    _required("wanted_key", Text),
    comment="References whose target has not arrived; the row is completed when it does",
)
Index(None, pending_reference.c.source_no, pending_reference.c.wanted_key)

identifier = Table(
    "identifier",
    ledger_metadata,
    _part_of_key("resource_no", BigInteger),
    _part_of_key("ordinal", SmallInteger),
    Column("system", Text),
    _required("value_hmac", Text, comment="HMAC-SHA256 under the workspace key, hex"),
    Column("period_start", Date),
    Column("period_end", Date),
    comment="Identifiers of resources as keyed hashes; the values themselves are nowhere",
)
Index(None, identifier.c.value_hmac)

person_alias = Table(
    "person_alias",
    ledger_metadata,
    _part_of_key("resource_no", BigInteger),
    _required("target_key", Text),
    comment="Patients replaced by another one",
)

encounter = Table(
    "encounter",
    ledger_metadata,
    _part_of_key("resource_no", BigInteger),
    Column("slot", Text, primary_key=True),
    _required("source_no", SmallInteger),
    _required("person_key", Text),
    Column("part_of", Text, comment="key of the Encounter that this one is part of"),
    _required("concept_id", Integer),
    _required("start_date", Date),
    Column("start_datetime", DateTime),
    _required("end_date", Date),
    Column("end_datetime", DateTime),
    _required("type_concept_id", Integer),
    Column("source_value", Text),
    Column("source_concept_id", Integer),
    Column("admitted_from_concept_id", Integer),
    Column("admitted_from_source_value", Text),
    Column("discharged_to_concept_id", Integer),
    Column("discharged_to_source_value", Text),
    Column("provider_key", Text),
    Column("care_site_key", Text),
    _required("rule", SmallInteger),
    Column("date_source", Text),
    Column("imputed", Text),
    comment="Encounters and their stays as they came: visits and details are worked out again from them",
)
Index(None, encounter.c.source_no, encounter.c.part_of)

medication = Table(
    "medication",
    ledger_metadata,
    _part_of_key("resource_no", BigInteger),
    _part_of_key("rank", SmallInteger),
    Column("slot", Text),
    _required("target_concept_id", Integer),
    _required("source_concept_id", Integer),
    Column("source_code", Text),
    comment="What a Medication resource stands for",
)

diagnosis_role = Table(
    "diagnosis_role",
    ledger_metadata,
    _part_of_key("resource_no", BigInteger),
    _part_of_key("ordinal", SmallInteger),
    _required("condition_key", Text),
    _required("concept_id", Integer),
    Column("source_value", Text),
    comment="The role that an Encounter gives to a Condition",
)
Index(None, diagnosis_role.c.condition_key)

policy_change = Table(
    "policy_change",
    ledger_metadata,
    Column("change_no", BigInteger, Identity(always=False), primary_key=True),
    _moment("changed_at", required=True),
    _required("run_no", BigInteger),
    _required("source_no", SmallInteger),
    Column("old_hash", Text),
    _required("new_hash", Text),
    _required("policies", JSONB),
    _required("accepted", Boolean, server_default="true"),
    comment="Changes of policy while rows existed",
)

touched_person = Table(
    "touched_person",
    ledger_metadata,
    _part_of_key("run_no", BigInteger),
    _part_of_key("person_id", BigInteger),
    comment="Persons with a changed row in a run: their derived tables are computed again",
)
