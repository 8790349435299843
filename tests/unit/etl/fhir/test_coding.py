"""Code systems and the spelling of their codes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from presage_etl.fhir.coding import CodeSystems, local_vocabulary, ndc11
from presage_platform.errors import SettingsError

SYSTEMS = CodeSystems()


@dataclass(frozen=True)
class Site:
    vocabularies: tuple[str, ...] = ()
    normalise: str | None = None
    local: str | None = None


@pytest.mark.parametrize(
    ("system", "code", "pairs"),
    [
        ("http://snomed.info/sct", " 44054006 ", [("SNOMED", "44054006")]),
        ("urn:oid:2.16.840.1.113883.6.96", "1", [("SNOMED", "1")]),
        ("http://loinc.org/", "la33-6", [("LOINC", "LA33-6")]),
        ("https://LOINC.org|2.76", "718-7", [("LOINC", "718-7")]),
        ("http://hl7.org/fhir/sid/icd-10-cm", "e119", [("ICD10CM", "E11.9")]),
        ("http://hl7.org/fhir/sid/icd-10-cm", "J18", [("ICD10CM", "J18")]),
        ("http://hl7.org/fhir/sid/icd-10", "J189", [("ICD10", "J18.9"), ("ICD10CM", "J18.9")]),
        ("http://hl7.org/fhir/sid/icd-9-cm", "E8788", [("ICD9CM", "E878.8"), ("ICD9Proc", "E8.788")]),
        ("urn:oid:2.16.840.1.113883.6.104", "3995", [("ICD9Proc", "39.95")]),
        ("http://www.cms.gov/Medicare/Coding/ICD10", "0dt.70zz", [("ICD10PCS", "0DT70ZZ")]),
        ("http://fhir.de/CodeSystem/bfarm/icd-10-gm", "E10.30†", [("ICD10GM", "E10.30")]),
        ("http://www.ama-assn.org/go/cpt", "71260-26", [("CPT4", "71260")]),
        ("http://hl7.org/fhir/sid/cvx", "008", [("CVX", "008"), ("CVX", "8")]),
        ("http://www.nubc.org/patient-discharge", "1", [("UB04 Pt dis status", "01")]),
        ("http://unitsofmeasure.org", "mg/dL", [("UCUM", "mg/dL")]),
        ("urn:oid:2.16.840.1.113883.6.238", "2028-9", [("Race", "2028-9"), ("Ethnicity", "2028-9")]),
    ],
)
def test_e29_a_coding_says_where_to_look(system: str, code: str, pairs: list[tuple[str, str]]) -> None:
    lookup = SYSTEMS.lookup(system, code)
    assert list(lookup.pairs) == pairs
    assert lookup.refusal is None


def test_e29_icd9_of_a_procedure_asks_for_procedures_first() -> None:
    pairs = SYSTEMS.lookup("http://hl7.org/fhir/sid/icd-9-cm", "3995", "procedure").pairs
    assert pairs == (("ICD9Proc", "39.95"), ("ICD9CM", "399.5"))


@pytest.mark.parametrize("code", ["1:2=3", "1+2", "a=b"])
def test_e29_snomed_expressions_are_refused(code: str) -> None:
    assert SYSTEMS.lookup("http://snomed.info/sct", code).refusal == "expression"


def test_e30_an_unknown_system_has_a_name_of_its_own() -> None:
    lookup = SYSTEMS.lookup("http://hospital.example/codes", "HB")
    assert lookup.refusal == "unknown-system"
    assert lookup.pairs == ((local_vocabulary("http://hospital.example/codes"), "HB"),)
    assert len(lookup.pairs[0][0]) == len("px-") + 8


def test_e30_no_system_has_a_name_too() -> None:
    assert SYSTEMS.lookup(None, "HB").pairs == (("px-nosystem", "HB"),)


def test_e30_a_site_adds_systems() -> None:
    systems = CodeSystems(
        {
            "http://hospital.example/lab": Site(local="HOSP_LAB"),
            "http://hospital.example/dx": Site(vocabularies=("ICD9CM",), normalise="icd9-dot"),
        }
    )
    assert systems.lookup("https://hospital.example/lab/", "HB").pairs == (("HOSP_LAB", "HB"),)
    assert systems.lookup("http://hospital.example/dx", "25000").pairs == (("ICD9CM", "250.00"),)


def test_e30_an_unknown_normaliser_is_an_error() -> None:
    with pytest.raises(SettingsError, match="icd9-dot"):
        CodeSystems({"urn:x": Site(vocabularies=("ICD9CM",), normalise="dots")})
    with pytest.raises(SettingsError, match="neither"):
        CodeSystems({"urn:x": Site()})


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("0093-3109-01", ("00093310901",)),
        ("00093-310-01", ("00093031001",)),
        ("00093-3109-1", ("00093310901",)),
        ("00093310901", ("00093310901",)),
        ("1234567890", ("01234567890", "12345067890", "12345678900")),
        ("abc", ("abc",)),
    ],
)
def test_e31_ndc_is_padded_to_eleven_digits(code: str, expected: tuple[str, ...]) -> None:
    assert ndc11(code) == expected


def test_e31_only_guessed_spellings_must_be_unique() -> None:
    ndc = "http://hl7.org/fhir/sid/ndc"
    assert SYSTEMS.lookup(ndc, "1234567890").only_one
    assert not SYSTEMS.lookup(ndc, "0093-3109-01").only_one


def test_e33_the_order_of_systems_depends_on_the_setting() -> None:
    families = ["snomed", "loinc", "rxnorm"]
    assert min(families, key=lambda family: SYSTEMS.rank(family, "general")) == "snomed"
    assert min(families, key=lambda family: SYSTEMS.rank(family, "laboratory")) == "loinc"
    assert min(families, key=lambda family: SYSTEMS.rank(family, "drug")) == "rxnorm"
