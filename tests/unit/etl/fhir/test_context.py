"""What a mapping may ask: concepts from memory, one query a block, named concepts found once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from presage_etl.fhir.coding import CodeSystems, CodingSet
from presage_etl.fhir.concepts import find_concepts
from presage_etl.fhir.elements import CodeableConcept, Coding
from presage_etl.policies import read_policies
from presage_platform.errors import SettingsError, UsageError, VocabularyError
from tests.lib.vocabulary import TinyVocabulary, tiny_context

SNOMED = "http://snomed.info/sct"


def concept(*codes: str) -> CodeableConcept:
    return CodeableConcept(tuple(Coding(SNOMED, code) for code in codes))


def test_e38_a_block_asks_once_and_mapping_asks_nothing() -> None:
    vocabulary = TinyVocabulary()
    context = tiny_context(vocabulary=vocabulary)
    codings = CodingSet()
    for code in ("44054006", "233604007", "unknown"):
        codings.add(concept(code).coding)
    context.prefetch(codings)
    assert vocabulary.num_asked == 1
    assert context.choose(concept("44054006"), "general", "x").concept_id == 201826
    assert context.choose(concept("unknown"), "general", "x").reason == "unknown-code"
    context.prefetch(codings)
    assert vocabulary.num_asked == 1


def test_e38_memory_is_bounded() -> None:
    context = tiny_context()
    context._max_entries = 10
    for block in range(5):
        codings = CodingSet()
        for number in range(8):
            codings.add(concept(f"{block}-{number}").coding)
        context.prefetch(codings)
        assert len(context._resolutions) <= 18
    assert context.choose(concept("44054006"), "general", "x").concept_id == 201826


def test_e33_prefetch_and_look_up_one_by_one_agree() -> None:
    both = concept("73211009", "44054006")
    codings = CodingSet()
    codings.add(both.coding)
    prefetched, direct = tiny_context(), tiny_context()
    prefetched.prefetch(codings)
    assert prefetched.choose(both, "general", "x") == direct.choose(both, "general", "x")


def test_e37_a_text_is_the_source_value_only_without_any_code() -> None:
    context = tiny_context()
    assert context.choose(CodeableConcept((), "sugar"), "general", "x").picks[0].source_value == "sugar"
    with_code = CodeableConcept((Coding(SNOMED, "44054006"),), "sugar")
    assert context.choose(with_code, "general", "x").picks[0].source_value == "44054006"


@dataclass
class Lacking:
    """A vocabulary that lacks some concepts."""

    names: set[str]

    def named(self, names: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
        return {pair: number for number, pair in enumerate(names, start=1) if pair[1] not in self.names}

    def existing(self, concept_ids: Iterable[int]) -> set[int]:
        return set()


def test_e41_all_missing_concepts_are_listed_together() -> None:
    with pytest.raises(VocabularyError, match=r"2 concepts.*'EHR problem list'.*'Admission diagnosis'"):
        find_concepts(Lacking({"EHR problem list", "Admission diagnosis"}))


def test_e41_an_optional_type_falls_back_to_ehr_and_says_so() -> None:
    found = find_concepts(Lacking({"EHR medication list", "High"}))
    assert found["ehr_medication_list"] == found["ehr"]
    assert found["high"] == 0
    assert found.get("high") is None
    assert any("EHR medication list" in remark for remark in found.remarks)


def test_e41_an_absent_literal_becomes_zero() -> None:
    concepts = find_concepts(TinyVocabulary())
    assert concepts.literal(9201) == 9201
    assert concepts.literal(722455) == 0
    assert concepts.literal_or_none(722455) is None
    assert any("722455" in remark for remark in concepts.remarks)


def test_e28_the_defaults_are_those_of_the_specification() -> None:
    policies = read_policies()
    assert dict(policies) == {
        "medication_request": "ehr", "gender_other": "zero", "observation_encounter": 262, "short_stay": 9202,
        "ed_to_inpatient": "merge", "codings": "prioritise", "local_map": "fallback",
        "unconfirmed_condition": "value", "not_done": "none", "claims": "none", "notes": "none",
        "provider_identity": "none", "patient_address": "state", "person_source_value": "logical-id",
        "timezone": "UTC", "date_from": "source-local", "missing_time": "null", "imputed_date": "type-concept",
        "death_boolean": "observation", "observation_period": "first-to-last", "dump_ids": "auto",
        "dump_derived": "keep", "known_modifiers": {},
    }  # fmt: skip


def test_e27_the_command_line_goes_before_the_workspace() -> None:
    policies = read_policies({"short_stay": 8870, "codings": "all"}, ["short_stay=9202"])
    assert (policies["short_stay"], policies["codings"]) == (9202, "all")


def test_e27_equal_sets_have_equal_digests() -> None:
    assert read_policies({"codings": "all"}).digest == read_policies({}, ["codings=all"]).digest
    assert read_policies({"codings": "all"}).digest != read_policies().digest


def test_e27_an_unknown_policy_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean `codings`"):
        read_policies({"coding": "all"})
    with pytest.raises(UsageError, match="allowed: prioritise, all"):
        read_policies({}, ["codings=some"])
    with pytest.raises(UsageError, match="name=value"):
        read_policies({}, ["codings"])
    with pytest.raises(SettingsError, match="ignore, exclude, observe"):
        read_policies({"known_modifiers": {"urn:x": "drop"}})


def test_e30_codes_of_a_site_go_through_its_own_map() -> None:
    @dataclass(frozen=True)
    class Site:
        vocabularies: tuple[str, ...] = ()
        normalise: str | None = None
        local: str | None = "HOSP_LAB"

    context = tiny_context(systems=CodeSystems({"http://hospital.example/lab": Site()}))
    coding = CodeableConcept((Coding("http://hospital.example/lab", "HB"),))
    assert context.choose(coding, "laboratory", "x").concept_id == 3000963
