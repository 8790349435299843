"""A health record and an archive in a real database, row by row: what linking reads, without loading files."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import count
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from presage_platform.ledger.identity import keyed_hash, next_ids

MRN = "http://hospital.example/mrn"
ACSN = "http://hospital.example/accession"
UID_SYSTEM = "urn:dicom:uid"
MALE, FEMALE = 8507, 8532


@dataclass
class HealthRecordBuilder:
    """Inserts persons, their resources and imaging studies; identifiers are hashed with `secret`."""

    connection: psycopg.Connection[Any]
    secret: bytes
    _numbers: Any = field(default_factory=lambda: count(1))
    _source_no: int = 0
    _transform_no: int = 0

    def __post_init__(self) -> None:
        row = self.connection.execute("INSERT INTO source (name) VALUES ('hospital') RETURNING source_no").fetchone()
        assert row is not None
        self._source_no = row[0]
        row = self.connection.execute(
            "INSERT INTO transform (policy_hash, mapping_version, vocabulary_release) VALUES ('p', 'm', 'v')"
            " RETURNING transform_no"
        ).fetchone()
        assert row is not None
        self._transform_no = row[0]

    def resource(self, resource_type: str, resource_id: str, identifiers: tuple[tuple[Any, ...], ...] = ()) -> int:
        """A loaded resource with identifiers (system, value[, start, end])."""
        number = next_ids(self.connection, "resource", 1)[0]
        self.connection.execute(
            "INSERT INTO resource (resource_no, source_no, resource_type, resource_id, state, content_hash,"
            " transform_no, run_no, file_no, byte_offset) VALUES (%s, %s, %s, %s, 'loaded', '\\x00', %s, 1, 1, 0)",
            (number, self._source_no, resource_type, resource_id, self._transform_no),
        )
        for ordinal, (system, value, *period) in enumerate(identifiers):
            start, end = period or (None, None)
            self.connection.execute(
                "INSERT INTO identifier VALUES (%s, %s, %s, %s, %s, %s)",
                (number, ordinal, system, keyed_hash(self.secret, value), start, end),
            )
        return number

    def origin(self, table_no: int, row_id: int, resource_no: int, slot: str = "main") -> None:
        self.connection.execute(
            "INSERT INTO origin (table_no, row_id, resource_no, slot, run_no, rule) VALUES (%s, %s, %s, %s, 1, 1)",
            (table_no, row_id, resource_no, slot),
        )

    def person(
        self,
        resource_id: str,
        *,
        gender: int = MALE,
        birth: date = date(1950, 6, 15),
        death: date | None = None,
        identifiers: tuple[tuple[Any, ...], ...] = (),
    ) -> int:
        """A Patient and its person; returns the person_id."""
        person_id = next_ids(self.connection, "person", 1)[0]
        self.connection.execute(
            "INSERT INTO person (person_id, gender_concept_id, year_of_birth, month_of_birth, day_of_birth,"
            " race_concept_id, ethnicity_concept_id) VALUES (%s, %s, %s, %s, %s, 0, 0)",
            (person_id, gender, birth.year, birth.month, birth.day),
        )
        self.origin(1, person_id, self.resource("Patient", resource_id, identifiers))
        if death is not None:
            self.connection.execute("INSERT INTO death (person_id, death_date) VALUES (%s, %s)", (person_id, death))
        return person_id

    def alias(self, resource_id: str, target: str) -> None:
        """A Patient that was replaced by another one."""
        self.connection.execute(
            "INSERT INTO person_alias (resource_no, target_key)"
            " SELECT resource_no, %s FROM resource WHERE resource_type = 'Patient' AND resource_id = %s",
            (f"Patient/{target}", resource_id),
        )

    def visit(self, person_id: int, start: datetime, end: datetime) -> int:
        visit_id = next_ids(self.connection, "visit_occurrence", 1)[0]
        self.connection.execute(
            "INSERT INTO visit_occurrence (visit_occurrence_id, person_id, visit_concept_id, visit_start_date,"
            " visit_start_datetime, visit_end_date, visit_end_datetime, visit_type_concept_id)"
            " VALUES (%s, %s, 9202, %s, %s, %s, %s, 32817)",
            (visit_id, person_id, start.date(), start, end.date(), end),
        )
        return visit_id

    def imaging_study(
        self,
        person_id: int,
        resource_id: str,
        *,
        day: date,
        identifiers: tuple[tuple[Any, ...], ...] = (),
        study_uid: str | None = None,
        series_uids: tuple[str, ...] = (),
    ) -> int:
        """An ImagingStudy with its procedure, and a row for each series; returns the procedure."""
        procedure_id = next_ids(self.connection, "procedure_occurrence", 1)[0]
        self.connection.execute(
            "INSERT INTO procedure_occurrence (procedure_occurrence_id, person_id, procedure_concept_id,"
            " procedure_date, procedure_type_concept_id) VALUES (%s, %s, 0, %s, 32817)",
            (procedure_id, person_id, day),
        )
        number = self.resource("ImagingStudy", resource_id, identifiers)
        self.origin(7, procedure_id, number)
        for series_uid in series_uids:
            image_id = next_ids(self.connection, "image_occurrence", 1)[0]
            self.connection.execute(
                "INSERT INTO image_occurrence (image_occurrence_id, person_id, procedure_occurrence_id, wadors_uri,"
                " image_occurrence_date, image_study_uid, image_series_uid, modality_concept_id)"
                " VALUES (%s, %s, %s, 'https://pacs.example', %s, %s, %s, 0)",
                (image_id, person_id, procedure_id, day, study_uid, series_uid),
            )
            self.origin(30, image_id, number, f"series:{series_uid}")
        return procedure_id

    def study(
        self,
        study_uid: str,
        *,
        patient_id: str | None = None,
        issuer: str | None = None,
        accession: str | None = None,
        accession_issuer: str | None = None,
        moment: datetime | None = datetime(2010, 3, 4, 11, 30),
        sex: str | None = "M",
        birth_year: int | None = 1950,
        series_uids: tuple[str, ...] = (),
        verdict: str = "ok",
    ) -> int:
        """A study of the archive with its series; returns the study_id."""
        row = self.connection.execute(
            "INSERT INTO image_study (study_uid, patient_key, issuer, accession_key, accession_issuer, sex, birth_year,"
            " study_dt, study_date_written, num_patient_keys) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
            " RETURNING study_id",
            (
                study_uid,
                keyed_hash(self.secret, patient_id) if patient_id else None,
                issuer,
                keyed_hash(self.secret, accession) if accession else None,
                accession_issuer,
                sex,
                birth_year,
                moment,
                moment.date().isoformat() if moment else None,
                1 if patient_id else 0,
            ),
        ).fetchone()
        assert row is not None
        for number, series_uid in enumerate(series_uids or (f"{study_uid}.1",)):
            self.series(row[0], study_uid, series_uid, moment=moment, verdict=verdict, rank=number + 1)
        return int(row[0])

    def series(
        self, study_id: int, study_uid: str, series_uid: str, *, moment: datetime | None, verdict: str, rank: int
    ) -> None:
        self.connection.execute(
            "INSERT INTO image_series (series_key, study_id, study_uid, series_uid, modality, attributes, split_by,"
            " num_slices, image_dt, image_dt_precision, verdict, verdict_stage, reasons, actions, rank)"
            " VALUES (%s, %s, %s, %s, 'CT', '{}', '{}', 4, %s, 's', %s, 'header', %s, '[]', %s)",
            (
                f"{next(self._numbers):032x}",
                study_id,
                study_uid,
                series_uid,
                moment,
                verdict,
                Jsonb([]),
                rank if verdict == "ok" else None,
            ),
        )
