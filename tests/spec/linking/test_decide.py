"""One case for each class, each confidence and each reason of quarantine, with the near miss beside it."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from typing import Any

import pytest

from presage_etl.linking.decide import Link, LinkPolicy, Quarantine, choose_visit, confidence_of, decide
from presage_etl.linking.evidence import HealthRecord, Order, PatientKey, find_evidence
from presage_etl.linking.mapping import Crosswalk
from presage_etl.linking.study import (
    Confidence,
    Evidence,
    Findings,
    LinkClass,
    Person,
    QuarantineReason,
    Study,
    Visit,
)

SCAN = datetime(2010, 3, 4, 11, 30)
STUDY = Study(1, "1.1", patient_key="k", issuer="mrn", sex="M", birth_year=1950, moment=SCAN, day=SCAN.date())
ANN, BOB = 1, 2
PERSONS = {
    ANN: Person(ANN, "M", 1950, date(1950, 6, 15)),
    BOB: Person(BOB, "M", 1950, date(1950, 1, 1)),
}
MAPPING, ACCESSION, STUDY_UID, PATIENT_ID = LinkClass


def evidence(*pairs: tuple[LinkClass, int]) -> Findings:
    return Findings([Evidence(link_class, person_id, "test") for link_class, person_id in pairs])


def decided(
    findings: Findings,
    *,
    study: Study = STUDY,
    person: Person = PERSONS[ANN],
    visits: tuple[Visit, ...] = (),
    **policy: Any,
) -> Link | Quarantine:
    return decide(study, findings, {**PERSONS, ANN: person}, visits, LinkPolicy(**policy))


def reason_of(outcome: Link | Quarantine) -> str | None:
    return outcome.reason.value if isinstance(outcome, Quarantine) else None


@pytest.mark.parametrize("link_class", LinkClass)
def test_i73_each_class_links_alone(link_class: LinkClass) -> None:
    outcome = decided(evidence((link_class, ANN)))
    assert isinstance(outcome, Link) and (outcome.person_id, outcome.link_class) == (ANN, link_class)


def test_i73_the_strongest_class_names_the_link_and_all_evidence_is_kept() -> None:
    outcome = decided(evidence((PATIENT_ID, ANN), (MAPPING, ANN), (STUDY_UID, ANN)))
    assert isinstance(outcome, Link) and outcome.link_class is MAPPING
    assert [piece["class"] for piece in outcome.evidence] == ["mapping", "study_uid", "patient_id"]


@pytest.mark.parametrize(
    ("classes", "confidence"),
    [
        ({ACCESSION, PATIENT_ID}, "high"),
        ({STUDY_UID, PATIENT_ID}, "high"),
        ({MAPPING, PATIENT_ID}, "high"),
        ({MAPPING, ACCESSION}, "high"),
        ({MAPPING}, "medium"),
        ({ACCESSION}, "medium"),
        ({STUDY_UID}, "medium"),
        ({ACCESSION, STUDY_UID}, "medium"),
        ({PATIENT_ID}, "low"),
    ],
)
def test_i76_confidence_follows_from_the_classes_that_agree(classes: set[LinkClass], confidence: str) -> None:
    assert confidence_of(classes) == confidence


def test_i76_a_patient_id_alone_outside_every_visit_is_low_and_says_so() -> None:
    inside = Visit(7, ANN, datetime(2010, 3, 4), datetime(2010, 3, 5))
    with_visit = decided(evidence((PATIENT_ID, ANN)), visits=(inside,))
    without = decided(evidence((PATIENT_ID, ANN)))
    assert isinstance(with_visit, Link) and isinstance(without, Link)
    assert (with_visit.confidence, with_visit.notes, with_visit.visit_occurrence_id) == (Confidence.LOW, (), 7)
    assert (without.confidence, without.notes, without.visit_occurrence_id) == (Confidence.LOW, ("no_visit",), None)


@pytest.mark.parametrize(
    ("start", "end", "holds"),
    [
        (datetime(2010, 3, 4, 17, 30), datetime(2010, 3, 4, 18), True),  # 6 h after the scan
        (datetime(2010, 3, 4, 17, 31), datetime(2010, 3, 4, 18), False),
        (datetime(2010, 3, 1), datetime(2010, 3, 3, 11, 30), True),  # ended 24 h before the scan
        (datetime(2010, 3, 1), datetime(2010, 3, 3, 11, 29), False),
    ],
)
def test_i77_a_visit_holds_a_study_from_6_hours_before_to_24_hours_after(
    start: datetime, end: datetime, holds: bool
) -> None:
    assert (choose_visit(STUDY, [Visit(7, ANN, start, end)]) is not None) is holds


def test_i77_of_several_visits_the_tightest_then_the_latest_start() -> None:
    wide = Visit(1, ANN, datetime(2010, 3, 1), datetime(2010, 3, 9))
    early = Visit(2, ANN, datetime(2010, 3, 4, 8), datetime(2010, 3, 4, 10))
    late = Visit(3, ANN, datetime(2010, 3, 4, 10), datetime(2010, 3, 4, 12))
    for visits in ([wide, early, late], [late, early, wide]):
        chosen = choose_visit(STUDY, visits)
        assert chosen is not None and chosen.visit_occurrence_id == 3


def test_i77_a_perfect_time_match_without_a_key_links_nothing() -> None:
    visit = Visit(7, ANN, datetime(2010, 3, 4, 11), datetime(2010, 3, 4, 12))
    assert reason_of(decided(Findings(), visits=(visit,))) == "unknown_patient"


QUARANTINES: dict[str, tuple[Any, Any]] = {
    # reason: (the case, the near miss that links)
    "uid_across_patients": (
        {"study": replace(STUDY, uid_across_patients=True)},
        {"study": STUDY},
    ),
    "two_persons_one_study": (
        {"findings": evidence((STUDY_UID, ANN), (STUDY_UID, BOB))},
        {"findings": evidence((STUDY_UID, ANN), (STUDY_UID, ANN))},
    ),
    "mapping_conflict": (
        {"findings": replace(evidence((MAPPING, ANN), (MAPPING, BOB)), mapping_conflict=True)},
        {"findings": evidence((MAPPING, ANN))},
    ),
    "accession_ambiguous": (
        {"findings": evidence((ACCESSION, ANN), (ACCESSION, BOB))},
        {"findings": evidence((ACCESSION, ANN), (ACCESSION, ANN))},
    ),
    "key_conflict": (
        {"findings": evidence((ACCESSION, ANN), (PATIENT_ID, BOB))},
        {"findings": evidence((ACCESSION, ANN), (PATIENT_ID, ANN))},
    ),
    "no_patient_id": (
        {"findings": Findings(), "study": replace(STUDY, patient_key=None)},
        {"findings": evidence((ACCESSION, ANN)), "study": replace(STUDY, patient_key=None)},
    ),
    "unknown_patient": ({"findings": Findings()}, {"findings": evidence((PATIENT_ID, ANN))}),
    "issuer_missing": (
        {"findings": Findings(issuer_missing=True)},
        {"findings": replace(evidence((STUDY_UID, ANN)), issuer_missing=True)},
    ),
    "no_date": (
        {"study": replace(STUDY, moment=None, day=None)},
        {"study": replace(STUDY, day_only=True)},
    ),
    "demographics_mismatch": (
        {"study": replace(STUDY, birth_year=1952)},
        {"study": replace(STUDY, birth_year=1951)},
    ),
    "before_birth": (
        {"person": Person(ANN, "M", 1950, date(2010, 3, 5))},
        {"person": Person(ANN, "M", 1950, date(2010, 3, 4))},
    ),
    "after_death": (
        {"person": replace(PERSONS[ANN], death_date=date(2010, 2, 24))},  # 8 days before the scan
        {"person": replace(PERSONS[ANN], death_date=date(2010, 2, 25))},  # 7 days
    ),
    "below_confidence": (
        {"findings": evidence((MAPPING, ANN)), "minimum_confidence": Confidence.HIGH},
        {"findings": evidence((MAPPING, ANN), (PATIENT_ID, ANN)), "minimum_confidence": Confidence.HIGH},
    ),
}


@pytest.mark.parametrize("reason", QUARANTINES)
def test_i78_each_reason_and_its_near_miss(reason: str) -> None:
    case, near_miss = QUARANTINES[reason]
    default = {"findings": evidence((MAPPING, ANN))}
    assert reason_of(decided(**{**default, **case})) == reason
    assert isinstance(decided(**{**default, **near_miss}), Link)


def test_i78_every_reason_has_its_case() -> None:
    assert set(QUARANTINES) == {reason.value for reason in QuarantineReason}


def test_i78_another_sex_is_a_mismatch_and_an_unknown_one_is_not() -> None:
    assert reason_of(decided(evidence((MAPPING, ANN)), study=replace(STUDY, sex="F"))) == "demographics_mismatch"
    for unknown in (None, "O"):
        assert isinstance(decided(evidence((MAPPING, ANN)), study=replace(STUDY, sex=unknown)), Link)


def test_i116_the_tolerance_on_birth_years_is_a_setting() -> None:
    study = replace(STUDY, birth_year=1954)
    assert reason_of(decided(evidence((MAPPING, ANN)), study=study)) == "demographics_mismatch"
    assert isinstance(decided(evidence((MAPPING, ANN)), study=study, birth_year_tolerance=4), Link)


def found(study: Study, issuers: dict[str, str], **record: Any) -> Findings:
    return find_evidence(study, HealthRecord(**record), Crosswalk(), issuers)


def test_i74_a_patient_id_needs_the_issuer_that_gave_it() -> None:
    patients = {"k": [PatientKey(ANN, "http://a"), PatientKey(BOB, "http://b")]}
    right = found(STUDY, {"mrn": "http://a"}, patients=patients)
    assert right.evidence == [Evidence(PATIENT_ID, ANN, "Patient")]
    assert found(STUDY, {}, patients=patients).evidence == []  # the tag itself is no system of the record
    bare = found(replace(STUDY, issuer=None), {}, patients=patients)
    assert bare.evidence == [] and bare.issuer_missing
    declared = found(replace(STUDY, issuer=None), {"*": "http://b"}, patients=patients)
    assert declared.evidence == [Evidence(PATIENT_ID, BOB, "Patient")] and not declared.issuer_missing


def test_i73_an_accession_needs_the_issuer_too() -> None:
    study = replace(STUDY, accessions=(("acc", None),))
    orders = {"acc": [Order(ANN, "http://a", "ImagingStudy", 5)]}
    bare = found(study, {}, orders=orders)
    assert bare.evidence == [] and bare.issuer_missing
    declared = found(study, {"*": "http://a"}, orders=orders)
    assert declared.evidence == [Evidence(ACCESSION, ANN, "ImagingStudy", 5)]
    assert found(study, {"*": "http://b"}, orders=orders).evidence == []


def test_i75_an_accession_may_hold_several_studies_and_a_study_several_accessions() -> None:
    study = replace(STUDY, accessions=(("a1", "x"), ("a2", "x")))
    orders = {"a1": [Order(ANN, "x", "ImagingStudy")], "a2": [Order(ANN, "x", "DiagnosticReport")]}
    assert isinstance(decided(found(study, {}, orders=orders)), Link)
    other = replace(STUDY, study_id=2, accessions=(("a1", "x"),))
    assert isinstance(decided(found(other, {}, orders=orders)), Link)
    orders["a2"] = [Order(BOB, "x", "ImagingStudy")]
    assert reason_of(decided(found(study, {}, orders=orders))) == "accession_ambiguous"


def test_i73_other_patient_ids_are_matched_only_under_one_declared_issuer() -> None:
    study = replace(STUDY, patient_key="absent", other_patient_keys=("k",))
    patients = {"k": [PatientKey(ANN, "http://a")]}
    assert found(study, {"mrn": "http://a"}, patients=patients).evidence == []
    assert found(study, {"*": "http://a"}, patients=patients).evidence == [Evidence(PATIENT_ID, ANN, "Patient")]


def test_i78_a_mapping_to_somebody_who_is_not_loaded_is_not_replaced_by_weaker_evidence() -> None:
    crosswalk = Crosswalk(given=True)
    crosswalk.add(("patient_id", "k"), ("fhir_patient_id", "absent"))
    record = HealthRecord(patients={"k": [PatientKey(ANN, "mrn")]})
    assert reason_of(decided(find_evidence(STUDY, record, crosswalk, {}))) == "unknown_patient"


def test_i78_two_patient_ids_within_one_study_are_two_persons() -> None:
    assert (
        reason_of(decided(evidence((MAPPING, ANN)), study=replace(STUDY, num_patient_keys=2)))
        == "two_persons_one_study"
    )
