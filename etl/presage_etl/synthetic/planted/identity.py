"""Identity traps: studies whose keys lead to nobody, to two persons, or to one who cannot be on the picture.

What the health record must hold for a trap besides its own resources is made here too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from presage_etl.synthetic.clock import day_of, iso
from presage_etl.synthetic.identifiers import MRN_SYSTEM, accession
from presage_etl.synthetic.planted.headers import DATES
from presage_etl.synthetic.planted.series import (
    Clean,
    Facts,
    Image,
    Link,
    Planted,
    accepted,
    alone,
    quarantined,
    rejected,
)
from presage_etl.synthetic.records.fhir import Json, accession_identifier, coding, meta, reference
from presage_etl.synthetic.records.imaging_orders import DICOM_MODALITY

OTHER_ISSUER = "OTHER-HOSPITAL"
DAYS_BEFORE_BIRTH, DAYS_AFTER_DEATH, DAYS_SHIFTED = -400, 30, -37
YEARS_OFF = 5


@dataclass(frozen=True)
class Claim:
    """A further ImagingStudy of the record: whose, when, and of which UIDs."""

    person: str
    identity: str
    t0: int
    study_uid: str
    series_uid: str


@dataclass(frozen=True)
class Extra:
    """A resource that a trap needs in the record; one with a claim makes CDM rows."""

    resource: Json
    claim: Claim | None = None


def accession_of_another(clean: Clean) -> Planted:
    images = [image.set(AccessionNumber=clean.facts.other_accession) for image in clean.images()]
    return _whole(images).linked(quarantined("key_conflict"))


def number_under_other_issuer(clean: Clean) -> Planted:
    """Another person's number, issued elsewhere: it names nobody here, and contradicts nothing."""
    images = [_identified(image, clean.facts.other_mrn, OTHER_ISSUER) for image in clean.images()]
    link = Link("accession", "medium") if clean.facts.in_record else quarantined("unknown_patient")
    return _whole(images).linked(link)


def number_alone_under_other_issuer(clean: Clean) -> Planted:
    """The same where the record knows nothing else of the study."""
    return number_under_other_issuer(clean)


def issuer_missing(clean: Clean) -> Planted:
    images = [image.set(IssuerOfPatientID=None) for image in clean.images()]
    return _whole(images).linked(quarantined("issuer_missing"))


def no_patient_number(clean: Clean) -> Planted:
    images = [image.set(PatientID="") for image in clean.images()]
    return _whole(images).linked(quarantined("no_patient_id"))


def other_sex(clean: Clean) -> Planted:
    images = [image.set(PatientSex="F" if image.data.PatientSex == "M" else "M") for image in clean.images()]
    return _whole(images).linked(quarantined("demographics_mismatch"))


def other_birth_year(clean: Clean) -> Planted:
    return _born(clean, YEARS_OFF).linked(quarantined("demographics_mismatch"))


def birth_year_off_by_one(clean: Clean) -> Planted:
    """Within the tolerance."""
    return _born(clean, 1)


def before_birth(clean: Clean) -> Planted:
    planted = _moved(clean, clean.facts.birth + timedelta(days=DAYS_BEFORE_BIRTH))
    return planted.linked(quarantined("before_birth"))


def after_death(clean: Clean) -> Planted:
    assert clean.facts.death_s is not None
    planted = _moved(clean, day_of(clean.facts.death_s) + timedelta(days=DAYS_AFTER_DEATH))
    return planted.linked(quarantined("after_death"))


def shifted_date(clean: Clean) -> Planted:
    """Images and record are shifted differently: reported, and linked."""
    planted = _moved(clean, day_of(clean.facts.t0) + timedelta(days=DAYS_SHIFTED))
    link = Link("accession", "high") if clean.facts.in_record else Link("patient_id", "low")
    return planted.linked(Link(link.link_class, link.confidence, None, DAYS_SHIFTED))


def study_uid_of_two_persons(clean: Clean) -> Planted:
    """Two series under one StudyInstanceUID, each of another patient."""
    own, other = clean.images(), clean.images(series=2)[:-3]
    for image in other:
        _identified(image, clean.facts.other_mrn)
    planted = Planted((accepted(own), accepted(other, touched=other)), 0, "longer extent")
    return planted.linked(quarantined("two_persons_one_study"))


def series_of_two_persons(clean: Clean) -> Planted:
    """One series, and two patients in it."""
    images = clean.images()
    touched = [_identified(image, clean.facts.other_mrn) for image in images[: clean.num_slices // 2]]
    refused = rejected(images, "rejected_uid_across_patients", touched=touched)
    return alone(refused).linked(quarantined("uid_across_patients"))


def series_uid_in_two_studies(clean: Clean) -> Planted:
    """One SeriesInstanceUID in two studies of two patients: both sides are refused."""
    own, other = clean.images(), clean.images(first=200)
    other_study = f"{clean.study_uid}.7"
    for image in other:
        _identified(image, clean.facts.other_mrn).set(StudyInstanceUID=other_study)
    both = tuple(rejected(images, "rejected_uid_across_patients") for images in (own, other))
    return Planted(both, None, other_study=other_study).linked(quarantined("uid_across_patients"))


def unknown_number(clean: Clean) -> Planted:
    """A study without any record of it or of its patient."""
    images = [_identified(image, f"SYN8{clean.facts.person_index:06d}") for image in clean.images()]
    return _whole(images).linked(quarantined("unknown_patient"))


def merged_number(clean: Clean) -> Planted:
    """The number of a Patient that was replaced: it leads to the one who remains."""
    images = [_identified(image, merged_mrn(clean.facts)) for image in clean.images()]
    return _whole(images)


def study_uid_in_two_records(clean: Clean) -> Planted:
    return _whole(clean.images()).linked(quarantined("two_persons_one_study"))


def accession_in_two_records(clean: Clean) -> Planted:
    return _whole(clean.images()).linked(quarantined("accession_ambiguous"))


def merged_mrn(facts: Facts) -> str:
    """Number of a Patient that was replaced."""
    return f"SYN9{facts.person_index:06d}"


def merged_patient(facts: Facts, study_uid: str) -> Extra:
    """The Patient that was replaced by the person."""
    return Extra(
        {
            "resourceType": "Patient",
            "id": f"{facts.person}-merged",
            "meta": meta(facts.t0, facts.zone),
            "active": False,
            "identifier": [{"use": "old", "system": MRN_SYSTEM, "value": merged_mrn(facts)}],
            "birthDate": facts.birth.isoformat(),
            "link": [{"other": reference("Patient", facts.person), "type": "replaced-by"}],
        }
    )


def second_claim_of_uid(facts: Facts, study_uid: str) -> Extra:
    """Another person's ImagingStudy under the UID of this one's study."""
    return _claim(facts, study_uid, f"{study_uid}.6.1")


def second_claim_of_accession(facts: Facts, study_uid: str) -> Extra:
    """Another person's ImagingStudy under the accession number of this one's study."""
    number = accession_identifier(accession(facts.person_index, facts.scan))
    return _claim(facts, f"{study_uid}.6", f"{study_uid}.6.1", number)


def _claim(facts: Facts, study_uid: str, series_uid: str, *identifiers: Json) -> Extra:
    identity = f"{facts.other_person}-claim-{facts.person}-{facts.scan}"
    started = iso(facts.other_t0, facts.zone)
    modality = coding(DICOM_MODALITY, "CT", "Computed Tomography")
    study: Json = {
        "resourceType": "ImagingStudy",
        "id": identity,
        "meta": meta(facts.other_t0, facts.zone),
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{study_uid}"}, *identifiers],
        "status": "available",
        "modality": [modality],
        "subject": reference("Patient", facts.other_person),
        "started": started,
        "numberOfSeries": 1,
        "series": [{"uid": series_uid, "number": 1, "modality": modality, "started": started}],
    }
    return Extra(study, Claim(facts.other_person, identity, facts.other_t0, study_uid, series_uid))


def _whole(images: list[Image]) -> Planted:
    return alone(accepted(images, touched=images))


def _identified(image: Image, number: str, issuer: str | None = None) -> Image:
    image.data.PatientID = number
    return image.set(IssuerOfPatientID=issuer) if issuer else image


def _born(clean: Clean, years: int) -> Planted:
    year = clean.facts.birth.year + years
    images = [image.set(PatientBirthDate=f"{year}0615", PatientAge=None) for image in clean.images()]
    return _whole(images)


def _moved(clean: Clean, day: date) -> Planted:
    """The study on another day, at the same hours."""
    was = datetime.strptime(str(clean.header.AcquisitionDate), "%Y%m%d").date()
    images = clean.images()
    for image in images:
        for keyword in (*DATES, "AcquisitionDateTime"):
            if keyword in image.data:
                text = str(image.data[keyword].value)
                moved = datetime.strptime(text[:8], "%Y%m%d").date() + (day - was)
                image.set(**{keyword: f"{moved:%Y%m%d}{text[8:]}"})
    return _whole(images)
