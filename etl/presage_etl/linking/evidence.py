"""Where the keys of a study lead: to persons, by way of the crosswalk, the ledger's identifiers and the CDM.

A bare patient id or accession number is never matched across issuers; one issuer may be declared for the whole archive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib import resources
from typing import Any

from presage_etl.linking.mapping import Crosswalk, Target
from presage_etl.linking.study import Evidence, Findings, LinkClass, Study

WHOLE_ARCHIVE = "*"
"""Key of `[link.issuers]` that declares one issuer for identifiers without a tag."""

_SEX = {8507: "M", 8532: "F"}


@dataclass(frozen=True, slots=True)
class PatientKey:
    """A person under one identifier: who, in which system, from when to when."""

    person_id: int
    system: str | None
    start: date | None = None
    end: date | None = None

    def valid_on(self, day: date | None) -> bool:
        """True when the identifier was this person's on that day, as far as anything is known."""
        if day is None:
            return True
        return (self.start is None or self.start <= day) and (self.end is None or day <= self.end)


@dataclass(frozen=True, slots=True)
class Order:
    """A row of the health record under an accession number or a study UID."""

    person_id: int
    system: str | None
    resource_type: str
    procedure_occurrence_id: int | None = None


@dataclass(slots=True)
class HealthRecord:
    """The part of the record that the keys of these studies touch."""

    patients: dict[str, list[PatientKey]] = field(default_factory=dict)  # keyed hash → persons
    patient_ids: dict[str, set[int]] = field(default_factory=dict)  # logical id of a Patient → persons
    orders: dict[str, list[Order]] = field(default_factory=dict)  # keyed hash, or "uid:" and the study UID
    person_ids: set[int] = field(default_factory=set)  # persons that exist


def find_evidence(
    study: Study,
    record: HealthRecord,
    crosswalk: Crosswalk,
    issuers: Mapping[str, str],
    *,
    uid_keys: Sequence[str] = (),
    remembered: Sequence[tuple[int, str]] = (),
) -> Findings:
    """Collect every piece of evidence for one study.

    Parameters
    ----------
    issuers
        `[link.issuers]`: tag of an issuer, or `*`, to the FHIR system it stands for.
    uid_keys
        Keyed hashes under which the study's UID may stand among the identifiers.
    remembered
        Persons that an earlier mapping named, and by what; asked only when this run was given none.
    """
    findings = Findings()
    _by_mapping(study, record, crosswalk, remembered, findings)
    _by_accession(study, record, issuers, findings)
    for key in [f"uid:{study.study_uid}", *uid_keys]:
        for order in record.orders.get(key, []):
            findings.evidence.append(_from_order(LinkClass.STUDY_UID, order))
    _by_patient_id(study, record, issuers, findings)
    findings.evidence = list(dict.fromkeys(findings.evidence))
    return findings


def issuer_of(tag: str | None, issuers: Mapping[str, str]) -> str | None:
    """Return the FHIR system that an issuer stands for; without a tag the one declared for the archive."""
    return issuers.get(WHOLE_ARCHIVE) if not tag else issuers.get(tag, tag)


def statement(name: str) -> str:
    """Text of a statement of this package."""
    return (resources.files("presage_etl.linking") / "sql" / f"{name}.sql").read_text(encoding="utf-8")


def _by_mapping(
    study: Study, record: HealthRecord, crosswalk: Crosswalk, remembered: Sequence[tuple[int, str]], findings: Findings
) -> None:
    targets = crosswalk.find(study)
    assigned = [(side, _assigned(side, key, record, study.day)) for side, key in sorted(targets)]
    if not crosswalk.given:
        assigned = [(source, {person_id} & record.person_ids) for person_id, source in remembered]
    findings.mapping_conflict = len(assigned) > 1
    for side, persons in assigned:
        findings.mapping_unresolved |= not persons
        for person_id in sorted(persons):
            findings.evidence.append(Evidence(LinkClass.MAPPING, person_id, side))


def _assigned(side: str, key: str, record: HealthRecord, day: date | None) -> set[int]:
    if side == "fhir_patient_id":
        return record.patient_ids.get(key, set())
    if side == "identifier":
        return {patient.person_id for patient in record.patients.get(key, []) if patient.valid_on(day)}
    return {int(key)} & record.person_ids if key.isdecimal() else set()


def _by_accession(study: Study, record: HealthRecord, issuers: Mapping[str, str], findings: Findings) -> None:
    for key, tag in study.accessions:
        issuer = issuer_of(tag, issuers)
        findings.issuer_missing |= issuer is None
        for order in record.orders.get(key, []):
            if issuer is not None and order.system == issuer:
                findings.evidence.append(_from_order(LinkClass.ACCESSION, order))


def _by_patient_id(study: Study, record: HealthRecord, issuers: Mapping[str, str], findings: Findings) -> None:
    keys = [(study.patient_key, issuer_of(study.issuer, issuers))] if study.patient_key else []
    # The header does not say who issued the other ids: only an issuer declared for the whole archive covers them.
    keys += [(key, issuers.get(WHOLE_ARCHIVE)) for key in study.other_patient_keys]
    for key, issuer in keys:
        assert key is not None
        findings.issuer_missing |= issuer is None and key == study.patient_key
        for patient in record.patients.get(key, []):
            if issuer is not None and patient.system == issuer and patient.valid_on(study.day):
                findings.evidence.append(Evidence(LinkClass.PATIENT_ID, patient.person_id, "Patient"))


def _from_order(link_class: LinkClass, order: Order) -> Evidence:
    return Evidence(link_class, order.person_id, order.resource_type, order.procedure_occurrence_id)


def wanted_patient_ids(targets: Iterable[Target]) -> list[str]:
    """Logical ids of Patients among the persons of a crosswalk."""
    return sorted({key for side, key in targets if side == "fhir_patient_id"})


def sex_of(gender_concept_id: Any) -> str | None:
    """M or F from the concept of a person's gender; None when the record says neither."""
    return _SEX.get(gender_concept_id)
