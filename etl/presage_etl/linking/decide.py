"""Link or quarantine: the decision about one study, from its evidence and from nothing else.

The strongest class of evidence decides, every other piece may contradict it. Time never joins a study to a person: it
only chooses the visit and can show that a link is impossible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from presage_etl.linking.study import Confidence, Evidence, Findings, LinkClass, Person, QuarantineReason, Study, Visit

DEATH_GRACE = timedelta(days=7)
_CONFIDENCE_ORDER = tuple(Confidence)


@dataclass(frozen=True, slots=True)
class LinkPolicy:
    """The settings that a decision depends on."""

    birth_year_tolerance: int = 1
    minimum_confidence: Confidence = Confidence.LOW


@dataclass(frozen=True, slots=True)
class Link:
    """A study and its person."""

    study: Study
    person_id: int
    link_class: LinkClass
    confidence: Confidence
    evidence: tuple[dict[str, Any], ...]
    procedure_occurrence_id: int | None
    visit_occurrence_id: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A study that stays without a person, and why."""

    study: Study
    reason: QuarantineReason
    evidence: tuple[dict[str, Any], ...]


def decide(
    study: Study, findings: Findings, persons: Mapping[int, Person], visits: Sequence[Visit], policy: LinkPolicy
) -> Link | Quarantine:
    """Decide about one study; `visits` are those of the persons that the evidence names, in any order."""
    evidence = sorted(findings.evidence, key=_strength)
    kept = tuple(piece.as_json() for piece in evidence)
    reason = _refusal_of_keys(study, findings, evidence)
    if reason is not None:
        return Quarantine(study, reason, kept)
    person = persons[evidence[0].person_id]
    visit = choose_visit(study, [visit for visit in visits if visit.person_id == person.person_id])
    confidence = confidence_of({piece.link_class for piece in evidence})
    reason = _refusal_of_person(study, person, policy)
    if reason is None and _weaker(confidence, policy.minimum_confidence):
        reason = QuarantineReason.BELOW_CONFIDENCE
    if reason is not None:
        return Quarantine(study, reason, kept)
    only_patient_id = {piece.link_class for piece in evidence} == {LinkClass.PATIENT_ID}
    return Link(
        study=study,
        person_id=person.person_id,
        link_class=evidence[0].link_class,
        confidence=confidence,
        evidence=kept,
        procedure_occurrence_id=_procedure_of(evidence),
        visit_occurrence_id=None if visit is None else visit.visit_occurrence_id,
        notes=("no_visit",) if only_patient_id and visit is None else (),
    )


def confidence_of(classes: set[LinkClass]) -> Confidence:
    """Rate the classes that agree on one person."""
    strong = classes & {LinkClass.ACCESSION, LinkClass.STUDY_UID}
    if LinkClass.MAPPING in classes:
        return Confidence.HIGH if len(classes) > 1 else Confidence.MEDIUM
    if strong:
        return Confidence.HIGH if LinkClass.PATIENT_ID in classes else Confidence.MEDIUM
    return Confidence.LOW


def choose_visit(study: Study, visits: Sequence[Visit]) -> Visit | None:
    """Return the visit that holds the study's time: the tightest, then the latest start, then the smallest id."""
    moment = study.moment
    if moment is None:
        return None
    holding = [visit for visit in visits if visit.holds(moment, day_only=study.day_only)]
    holding.sort(key=lambda v: v.visit_occurrence_id)
    holding.sort(key=lambda v: v.start, reverse=True)
    return min(holding, key=lambda v: v.end - v.start, default=None)


def _refusal_of_keys(study: Study, findings: Findings, evidence: Sequence[Evidence]) -> QuarantineReason | None:
    """Why the keys alone forbid a link."""
    if study.uid_across_patients:
        return QuarantineReason.UID_ACROSS_PATIENTS
    if study.num_patient_keys > 1:
        return QuarantineReason.TWO_PERSONS_ONE_STUDY
    if findings.mapping_conflict:
        return QuarantineReason.MAPPING_CONFLICT
    if findings.mapping_unresolved:
        return QuarantineReason.UNKNOWN_PATIENT
    if len(_persons(evidence, LinkClass.STUDY_UID)) > 1:
        return QuarantineReason.TWO_PERSONS_ONE_STUDY
    if len(_persons(evidence, LinkClass.ACCESSION)) > 1:
        return QuarantineReason.ACCESSION_AMBIGUOUS
    if len({piece.person_id for piece in evidence}) > 1:
        return QuarantineReason.KEY_CONFLICT
    if evidence:
        return None
    if findings.issuer_missing:
        return QuarantineReason.ISSUER_MISSING
    has_key = study.patient_key is not None or bool(study.other_patient_keys)
    return QuarantineReason.UNKNOWN_PATIENT if has_key else QuarantineReason.NO_PATIENT_ID


def _refusal_of_person(study: Study, person: Person, policy: LinkPolicy) -> QuarantineReason | None:
    """Why the person cannot be the one on the images."""
    if study.day is None:
        return QuarantineReason.NO_DATE
    if _demographics_differ(study, person, policy.birth_year_tolerance):
        return QuarantineReason.DEMOGRAPHICS_MISMATCH
    if person.birth_date is not None and study.day < person.birth_date:
        return QuarantineReason.BEFORE_BIRTH
    if person.death_date is not None and study.day > person.death_date + DEATH_GRACE:
        return QuarantineReason.AFTER_DEATH
    return None


def _demographics_differ(study: Study, person: Person, tolerance: int) -> bool:
    known = {"M", "F"}
    if study.sex in known and person.sex in known and study.sex != person.sex:
        return True
    if study.birth_year is None or person.birth_year is None:
        return False
    return abs(study.birth_year - person.birth_year) > tolerance


def _persons(evidence: Sequence[Evidence], link_class: LinkClass) -> set[int]:
    return {piece.person_id for piece in evidence if piece.link_class is link_class}


def _procedure_of(evidence: Sequence[Evidence]) -> int | None:
    """The procedure that the strongest key names; of several, the first that was recorded."""
    named = [piece for piece in evidence if piece.procedure_occurrence_id is not None]
    return named[0].procedure_occurrence_id if named else None


def _strength(piece: Evidence) -> tuple[int, int, str, int]:
    return (tuple(LinkClass).index(piece.link_class), piece.person_id, piece.source, piece.procedure_occurrence_id or 0)


def _weaker(found: Confidence, wanted: Confidence) -> bool:
    return _CONFIDENCE_ORDER.index(found) > _CONFIDENCE_ORDER.index(wanted)
