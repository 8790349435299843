"""What a code means in the vocabulary that the hospital ships: the oracle's own reading of the coding rules.

A CodeableConcept stands for one idea. Of its codings one is chosen: one that leads to a standard concept before one
that does not, then by the order of vocabularies that the setting prefers, then as they stand. Its concept is the source
concept, what that maps to are the concepts of the rows.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from importlib.resources import files
from typing import Any, NamedTuple

from presage_etl.synthetic import identifiers
from presage_etl.synthetic.records.vocabulary import DEMO, Vocabulary

VOCABULARY_OF = {
    identifiers.SNOMED: "SNOMED",
    identifiers.LOINC: "LOINC",
    identifiers.RXNORM: "RxNorm",
    identifiers.CVX: "CVX",
    identifiers.ICD10CM: "ICD10CM",
    identifiers.UCUM: "UCUM",
    identifiers.DEMO_SYSTEM: DEMO,
    "http://dicom.nema.org/resources/ontology/DCM": "DICOM",
}
PREFERRED = {
    "drug": ("RxNorm", "CVX", "SNOMED"),
    "laboratory": ("LOINC", "SNOMED"),
    "general": ("SNOMED", "LOINC", "ICD10CM"),
}


class Meaning(NamedTuple):
    """What the rows of one coded idea hold; concept 0 in no domain where nothing matches."""

    source_value: str | None
    source_concept_id: int = 0
    targets: tuple[tuple[int, str], ...] = ((0, ""),)  # concept and domain
    value_concept_id: int | None = None


class Codebook:
    """Looks codes up in the hospital's vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._number = {(concept.vocabulary, concept.code): concept.concept_id for concept in vocabulary.concepts}
        self._domain = {concept.concept_id: concept.domain for concept in vocabulary.concepts}
        self._targets: dict[int, list[int]] = defaultdict(list)
        for source, target in sorted(vocabulary.maps_to):
            self._targets[source].append(target)
        self._value = dict(vocabulary.maps_to_value)
        self._known = set(self._domain) | _floor()

    def literal(self, concept_id: int) -> int:
        """A published concept that a rule names: 0 where the vocabulary lacks it."""
        return concept_id if concept_id in self._known else 0

    def concept(self, system: str, code: str) -> int:
        """Standard concept of one code, or 0."""
        return self.meaning({"coding": [{"system": system, "code": code}]}).targets[0][0]

    def meaning(self, concept: dict[str, Any], setting: str = "general") -> Meaning:
        """What a CodeableConcept means in a setting: general, laboratory or drug."""
        codings = [coding for coding in concept.get("coding", []) if "code" in coding]
        if not codings:
            return Meaning(concept.get("text"))
        best = min(range(len(codings)), key=lambda place: (*self._rank(codings[place], setting), place))
        coding = codings[best]
        source = self._source(coding)
        targets = tuple((target, self._domain[target]) for target in self._targets.get(source, ()))
        return Meaning(coding["code"], source, targets or ((0, ""),), self._value.get(source))

    def _source(self, coding: dict[str, Any]) -> int:
        return self._number.get((VOCABULARY_OF.get(coding.get("system", ""), ""), coding["code"]), 0)

    def _rank(self, coding: dict[str, Any], setting: str) -> tuple[bool, int]:
        order = PREFERRED[setting]
        vocabulary = VOCABULARY_OF.get(coding.get("system", ""), "")
        place = order.index(vocabulary) if vocabulary in order else len(order)
        return not self._targets.get(self._source(coding)), place


def _floor() -> set[int]:
    """Concepts that every vocabulary is given when it is loaded."""
    text = files("presage_platform.omop").joinpath("concept_floor.csv").read_text(encoding="utf-8")
    return {int(row["concept_id"]) for row in csv.DictReader(text.splitlines())}
