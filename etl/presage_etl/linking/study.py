"""What linking knows: a study, the persons of the health record, and the pieces of evidence that join them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any

VISIT_BEFORE = timedelta(hours=6)
VISIT_AFTER = timedelta(hours=24)


class LinkClass(StrEnum):
    """Kinds of evidence, strongest first."""

    MAPPING = "mapping"
    ACCESSION = "accession"
    STUDY_UID = "study_uid"
    PATIENT_ID = "patient_id"


class Confidence(StrEnum):
    """How sure a link is, surest first."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class QuarantineReason(StrEnum):
    """Why a study is linked to nobody."""

    UID_ACROSS_PATIENTS = "uid_across_patients"
    MAPPING_CONFLICT = "mapping_conflict"
    TWO_PERSONS_ONE_STUDY = "two_persons_one_study"
    ACCESSION_AMBIGUOUS = "accession_ambiguous"
    KEY_CONFLICT = "key_conflict"
    NO_PATIENT_ID = "no_patient_id"
    ISSUER_MISSING = "issuer_missing"
    UNKNOWN_PATIENT = "unknown_patient"
    NO_DATE = "no_date"
    DEMOGRAPHICS_MISMATCH = "demographics_mismatch"
    BEFORE_BIRTH = "before_birth"
    AFTER_DEATH = "after_death"
    BELOW_CONFIDENCE = "below_confidence"


@dataclass(frozen=True, slots=True)
class Study:
    """One imaging study as its headers describe it; identifiers are keyed hashes."""

    study_id: int
    study_uid: str
    patient_key: str | None = None
    issuer: str | None = None
    other_patient_keys: tuple[str, ...] = ()
    accessions: tuple[tuple[str, str | None], ...] = ()  # (key, issuer)
    sex: str | None = None
    birth_year: int | None = None
    moment: datetime | None = None  # naive, declared zone
    day: date | None = None  # calendar date as written
    day_only: bool = False  # no clock time is known
    num_patient_keys: int = 1
    uid_across_patients: bool = False
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Person:
    """What the health record says of a person that a study can contradict."""

    person_id: int
    sex: str | None = None  # M, F or unknown
    birth_year: int | None = None
    birth_date: date | None = None  # earliest day that the record allows
    death_date: date | None = None


@dataclass(frozen=True, slots=True)
class Visit:
    """A visit of a person; without clock times a date means some time that day."""

    visit_occurrence_id: int
    person_id: int
    start: datetime
    end: datetime

    def holds(self, moment: datetime, *, day_only: bool) -> bool:
        """True when a study's time lies inside the visit, 6 hours before to 24 hours after."""
        last = moment + timedelta(days=1) - timedelta(microseconds=1) if day_only else moment
        return self.start - VISIT_BEFORE <= last and moment <= self.end + VISIT_AFTER


@dataclass(frozen=True, slots=True)
class Evidence:
    """One key that leads from a study to a person."""

    link_class: LinkClass
    person_id: int
    source: str  # how: column of the mapping, type of the resource, kind of identifier; never a value
    procedure_occurrence_id: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The evidence as it is kept in the ledger."""
        return {"class": self.link_class.value, "person_id": self.person_id, "source": self.source}


@dataclass(slots=True)
class Findings:
    """All that the keys of one study lead to."""

    evidence: list[Evidence] = field(default_factory=list)
    mapping_conflict: bool = False
    mapping_unresolved: bool = False  # the mapping names somebody whom the record does not hold
    issuer_missing: bool = False
