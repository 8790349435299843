"""Names of things across FHIR, DICOM and truth: UIDs, accession numbers, issuers, code systems."""

from __future__ import annotations

import hashlib
from functools import cache

BASE_URL = "https://synthetic.example/fhir"
MRN_SYSTEM = "https://synthetic.example/mrn"
ENTERPRISE_SYSTEM = "https://synthetic.example/enterprise-number"
ACCESSION_SYSTEM = "https://synthetic.example/accession"
LOCAL_SYSTEM = "https://synthetic.example/local-codes"
DEMO_SYSTEM = "https://synthetic.example/demonstration-codes"
PATIENT_ISSUER = "SYNTHETIC-HOSPITAL"
ACCESSION_ISSUER = "SYNTHETIC-RIS"

SNOMED = "http://snomed.info/sct"
LOINC = "http://loinc.org"
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
CVX = "http://hl7.org/fhir/sid/cvx"
ICD10CM = "http://hl7.org/fhir/sid/icd-10-cm"
UCUM = "http://unitsofmeasure.org"

SYSTEM_OF = {"SNOMED": SNOMED, "PRESAGE_DEMO": DEMO_SYSTEM}

FIRST_INSTANCE = 1001  # instance suffixes have one width, so that a slice is patched in place


@cache
def uid_root(seed: int) -> str:
    """The root of all UIDs of one hospital, at most 44 characters."""
    number = int.from_bytes(hashlib.sha256(f"presage synthetic hospital {seed}".encode()).digest()[:16], "big")
    return f"2.25.{number}"


def study_uid(seed: int, person: int, scan: int) -> str:
    """StudyInstanceUID of a person's scan."""
    return f"{uid_root(seed)}.1{person:07d}.{scan}"


def series_uid(study: str) -> str:
    """SeriesInstanceUID of the one series of a study."""
    return f"{study}.1"


def frame_uid(study: str) -> str:
    """FrameOfReferenceUID of a study."""
    return f"{study}.9"


def accession(person: int, scan: int) -> str:
    """AccessionNumber, 16 characters at most."""
    return f"SYA{person:07d}{scan:02d}"


def study_key(person: int, scan: int) -> str:
    """Key of a study in truth."""
    return f"s{person:06d}-{scan}"
