"""The vocabulary of the synthetic hospital: a demonstration subset, not a vocabulary release.

Real concepts come from concepts.csv, each with the public source in which its row was seen. Everything else has an id
of the range that OMOP reserves for sites; nothing is invented below it.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from presage_etl.synthetic.lives.hazards import CUSTOM_CONCEPT, LEAF_FAMILIES, Leaf, Model
from presage_platform.errors import IntegrityError

DEMO = "PRESAGE_DEMO"
VALID_FROM, VALID_TO = "19700101", "20991231"

ROOT_CONCEPT = CUSTOM_CONCEPT + 1
FAMILY_CONCEPT = CUSTOM_CONCEPT + 100
GROUP_CONCEPT = CUSTOM_CONCEPT + 300
ICD10_CONCEPT = CUSTOM_CONCEPT + 2_000
MODALITY_CONCEPT = CUSTOM_CONCEPT + 3_000
TROPONIN_CONCEPT = CUSTOM_CONCEPT + 3_001
SPECIAL_CONCEPT = CUSTOM_CONCEPT + 4_000
PROJECT = "presage project, custom range"

TROPONIN = ("89579-7", "Troponin I.cardiac [Mass/volume] in Serum or Plasma by High sensitivity method")
CARDIOVASCULAR = 134057  # published parent of several conditions; nothing is ever recorded as itself


@dataclass(frozen=True)
class Concept:
    """One row of CONCEPT.csv, and where it was seen."""

    concept_id: int
    name: str
    domain: str
    vocabulary: str
    concept_class: str
    standard: str
    code: str
    source: str
    retired: bool = False

    def row(self) -> tuple[str, ...]:
        """The columns of CONCEPT.csv."""
        until, reason = ("20200101", "D") if self.retired else (VALID_TO, "")
        return (
            str(self.concept_id), self.name, self.domain, self.vocabulary, self.concept_class, self.standard, self.code,
            VALID_FROM, until, reason,
        )  # fmt: skip


@dataclass(frozen=True)
class Vocabulary:
    """All concepts and how they hang together."""

    concepts: tuple[Concept, ...]
    edges: tuple[tuple[int, int], ...]  # (parent, child), direct
    maps_to: tuple[tuple[int, int], ...]
    maps_to_value: tuple[tuple[int, int], ...]


def build_vocabulary(model: Model) -> Vocabulary:
    """Return the vocabulary that codes everything the model can write."""
    published = published_concepts()
    known = {concept.concept_id for concept in published}
    own = [*_hierarchy(model), *_leaves(model, known), *_special()]
    icd10 = [
        Concept(ICD10_CONCEPT + place, leaf.title, "Condition", "ICD10CM", "ICD10 code", "", leaf.icd10, PROJECT)
        for place, leaf in enumerate(model.leaves)
        if leaf.icd10
    ]
    concepts = sorted([*published, *own, *icd10], key=lambda concept: concept.concept_id)
    maps_to = [(c.concept_id, c.concept_id) for c in concepts if c.standard == "S"]
    maps_to += [(ICD10_CONCEPT + p, leaf.concept_id) for p, leaf in enumerate(model.leaves) if leaf.icd10]
    # One source code that stands for two findings, and one whose meaning is split into a question and its value.
    pair = [leaf.concept_id for leaf in model.leaves if leaf.kind == "clinical"][:2]
    maps_to += [(SPECIAL_CONCEPT, target) for target in pair]
    maps_to.append((SPECIAL_CONCEPT + 1, SPECIAL_CONCEPT + 2))
    return Vocabulary(
        concepts=tuple(concepts),
        edges=tuple(sorted(set(_edges(model)))),
        maps_to=tuple(sorted(maps_to)),
        maps_to_value=((SPECIAL_CONCEPT + 1, pair[0]),),
    )


def closure(vocabulary: Vocabulary) -> list[tuple[int, int, int, int]]:
    """Return the reflexive-transitive closure: ancestor, descendant, shortest and longest way between them."""
    children = defaultdict(list)
    for parent, child in vocabulary.edges:
        children[parent].append(child)
    rows = []
    for concept in vocabulary.concepts:
        if concept.standard != "S":
            continue
        levels = {concept.concept_id: (0, 0)}
        waiting = [(concept.concept_id, 0)]
        while waiting:
            node, depth = waiting.pop()
            for child in children[node]:
                low, high = levels.get(child, (depth + 1, depth + 1))
                levels[child] = (min(low, depth + 1), max(high, depth + 1))
                waiting.append((child, depth + 1))
        rows += [(concept.concept_id, node, low, high) for node, (low, high) in levels.items()]
    return sorted(rows)


def published_concepts() -> list[Concept]:
    """Read the published concepts; a row without a source fails.

    Raises
    ------
    IntegrityError
        A published concept has no source, or an id of the custom range.
    """
    text = files("presage_etl.synthetic.records").joinpath("concepts.csv").read_text(encoding="utf-8")
    concepts = [_published(row) for row in list(csv.reader(text.splitlines()))[1:]]
    for concept in concepts:
        if not concept.source or concept.concept_id >= CUSTOM_CONCEPT:
            raise IntegrityError(f"concepts.csv: concept {concept.concept_id} has no published source")
    return concepts


def coding_of(leaf: Leaf) -> tuple[str, str]:
    """Vocabulary and code under which a leaf is standard."""
    return ("SNOMED", leaf.snomed) if leaf.snomed else (DEMO, leaf.name)


def published_parents() -> list[tuple[int, int]]:
    """Read which published concept stands above which, as the public tables have it: (parent, child), direct here.

    Ingredients stand above their clinical drugs, panels above their tests. Concepts between two of these that the
    public tables hold and this subset does not are passed over, so levels count the concepts of the subset.
    """
    text = files("presage_etl.synthetic.records").joinpath("concept_parents.csv").read_text(encoding="utf-8")
    return [(int(parent), int(child)) for parent, child in list(csv.reader(text.splitlines()))[1:]]


def _published(row: list[str]) -> Concept:
    number, name, domain, vocabulary, concept_class, standard, code, source = row
    return Concept(int(number), name, domain, vocabulary, concept_class, standard, code, source)


def _hierarchy(model: Model) -> Iterator[Concept]:
    yield Concept(ROOT_CONCEPT, "Demonstration finding", "Condition", DEMO, "Clinical Finding", "S", "root", PROJECT)
    for place, family in enumerate(LEAF_FAMILIES):
        name = f"Demonstration {family} disorder"
        yield Concept(FAMILY_CONCEPT + place, name, "Condition", DEMO, "Clinical Finding", "S", family, PROJECT)
    for place, group in enumerate(_groups(model)):
        name = f"Demonstration group {group}"
        yield Concept(GROUP_CONCEPT + place, name, "Condition", DEMO, "Clinical Finding", "S", group, PROJECT)


def _leaves(model: Model, known: set[int]) -> Iterator[Concept]:
    for leaf in model.leaves:
        if leaf.concept_id not in known:
            vocabulary, code = ("SNOMED", leaf.snomed) if leaf.snomed else (DEMO, leaf.name)
            yield Concept(
                leaf.concept_id, leaf.title, "Condition", vocabulary, "Clinical Finding", "S", str(code), PROJECT
            )


def _special() -> list[Concept]:
    """Rows that test a reader: a fan-out, a split meaning, a quote, the text NA, a retired and a childless code."""
    finding = ("Condition", DEMO, "Clinical Finding")
    return [
        Concept(
            MODALITY_CONCEPT, "Computed Tomography", "Measurement", "DICOM", "DICOM Value Sets", "S", "CT", PROJECT
        ),
        Concept(TROPONIN_CONCEPT, TROPONIN[1], "Measurement", "LOINC", "Lab Test", "S", TROPONIN[0], PROJECT),
        Concept(SPECIAL_CONCEPT, "Diabetes with hypertension, combined code", *finding, "", "combined", PROJECT),
        Concept(SPECIAL_CONCEPT + 1, "History of demonstration finding", *finding, "", "history-of", PROJECT),
        Concept(SPECIAL_CONCEPT + 2, "History of", "Observation", DEMO, "Context-dependent", "S", "history", PROJECT),
        Concept(SPECIAL_CONCEPT + 3, 'Finding with a 12" mark', *finding, "S", "quote", PROJECT),
        Concept(SPECIAL_CONCEPT + 4, "NA", *finding, "S", "na", PROJECT),
        Concept(SPECIAL_CONCEPT + 5, "Retired demonstration finding", *finding, "", "retired", PROJECT, retired=True),
        Concept(SPECIAL_CONCEPT + 6, "Childless demonstration finding", *finding, "S", "childless", PROJECT),
    ]


def _groups(model: Model) -> list[str]:
    own = {leaf.name for leaf in model.leaves} | set(LEAF_FAMILIES)
    return sorted({parent for leaf in model.leaves for parent in leaf.parents} - own)


def _edges(model: Model) -> Iterator[tuple[int, int]]:
    number = {family: FAMILY_CONCEPT + place for place, family in enumerate(LEAF_FAMILIES)}
    number |= {group: GROUP_CONCEPT + place for place, group in enumerate(_groups(model))}
    number |= {leaf.name: leaf.concept_id for leaf in model.leaves}
    for family in LEAF_FAMILIES:
        yield ROOT_CONCEPT, number[family]
    for group in _groups(model):
        yield number[group.split("-")[0]], number[group]
    for leaf in model.leaves:
        for parent in leaf.parents:
            yield number[parent], leaf.concept_id
    yield number["circulatory"], CARDIOVASCULAR
    yield from published_parents()
    yield ROOT_CONCEPT, SPECIAL_CONCEPT + 6
