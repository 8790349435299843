"""The vocabulary of the synthetic hospital, in Athena's format: a demonstration subset, not a vocabulary release.

Real concepts come from concepts.csv, each with the public source in which its row was seen. Everything else has an id
of the range that OMOP reserves for sites; nothing is invented below it.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from presage_etl.synthetic.hazards import CUSTOM_CONCEPT, LEAF_FAMILIES, Leaf, Model
from presage_platform.errors import IntegrityError

DEMO = "PRESAGE_DEMO"
VERSION = "presage-demo 1"
VALID_FROM, VALID_TO = "19700101", "20991231"

ROOT_CONCEPT = CUSTOM_CONCEPT + 1
FAMILY_CONCEPT = CUSTOM_CONCEPT + 100
GROUP_CONCEPT = CUSTOM_CONCEPT + 300
ICD10_CONCEPT = CUSTOM_CONCEPT + 2_000
MODALITY_CONCEPT = CUSTOM_CONCEPT + 3_000
SPECIAL_CONCEPT = CUSTOM_CONCEPT + 4_000
PROJECT = "presage project, custom range"

# Clinical drugs and their ingredients (RxNorm): the roll-up that drug eras follow.
INGREDIENT_OF = {
    1332419: 1332418,
    1539411: 1539403,
    19080128: 1308216,
    40163554: 1310149,
    1551192: 1551099,
    19073183: 1713332,
    1545959: 1545958,
    19059056: 1112807,
}

README = """# Vocabulary of a synthetic hospital

A demonstration subset in Athena's format, not a vocabulary release. Sites load their own from https://athena.ohdsi.org.

Ids below 2,000,000,000 are published OMOP concepts; PROVENANCE.csv names where each row was seen. Ids from
2,000,000,000 on belong to this demonstration: the findings of vocabulary PRESAGE_DEMO, and codes of public systems
(ICD-10-CM, DICOM, one SNOMED CT code) whose published OMOP id is not confirmed here.

synthetic: true
"""


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
    text = files("presage_etl.synthetic").joinpath("concepts.csv").read_text(encoding="utf-8")
    concepts = [_published(row) for row in list(csv.reader(text.splitlines()))[1:]]
    for concept in concepts:
        if not concept.source or concept.concept_id >= CUSTOM_CONCEPT:
            raise IntegrityError(f"concepts.csv: concept {concept.concept_id} has no published source")
    return concepts


def write_vocabulary(folder: Path, vocabulary: Vocabulary) -> None:
    """Write the Athena files: tab separated, no quoting, dates YYYYMMDD."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(
        folder / "CONCEPT.csv",
        "concept_id concept_name domain_id vocabulary_id concept_class_id standard_concept concept_code "
        "valid_start_date valid_end_date invalid_reason",
        (concept.row() for concept in vocabulary.concepts),
    )
    _write(
        folder / "CONCEPT_RELATIONSHIP.csv",
        "concept_id_1 concept_id_2 relationship_id valid_start_date valid_end_date invalid_reason",
        _relationships(vocabulary),
    )
    _write(
        folder / "CONCEPT_ANCESTOR.csv",
        "ancestor_concept_id descendant_concept_id min_levels_of_separation max_levels_of_separation",
        (tuple(map(str, row)) for row in closure(vocabulary)),
    )
    _write(
        folder / "CONCEPT_SYNONYM.csv",
        "concept_id concept_synonym_name language_concept_id",
        [(str(c.concept_id), f"{c.name} (synonym)", "4180186") for c in vocabulary.concepts if c.vocabulary == DEMO][
            :20
        ],
    )
    _write_lists(folder, vocabulary)
    _write(
        folder / "DRUG_STRENGTH.csv",
        "drug_concept_id ingredient_concept_id amount_value amount_unit_concept_id numerator_value "
        "numerator_unit_concept_id denominator_value denominator_unit_concept_id box_size valid_start_date "
        "valid_end_date invalid_reason",
        [(str(d), str(i), *[""] * 7, VALID_FROM, VALID_TO, "") for d, i in sorted(INGREDIENT_OF.items())],
    )
    with (folder / "PROVENANCE.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["concept_id", "source"])
        writer.writerows([c.concept_id, c.source] for c in vocabulary.concepts)
    (folder / "README.md").write_text(README, encoding="utf-8")


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
    for drug, ingredient in INGREDIENT_OF.items():
        yield ingredient, drug
    yield ROOT_CONCEPT, SPECIAL_CONCEPT + 6


def _relationships(vocabulary: Vocabulary) -> Iterable[tuple[str, ...]]:
    rows = [(a, b, "Maps to") for a, b in vocabulary.maps_to]
    rows += [(b, a, "Mapped from") for a, b in vocabulary.maps_to]
    rows += [(a, b, "Maps to value") for a, b in vocabulary.maps_to_value]
    rows += [(parent, child, "Subsumes") for parent, child in vocabulary.edges]
    rows += [(child, parent, "Is a") for parent, child in vocabulary.edges]
    return [(str(a), str(b), name, VALID_FROM, VALID_TO, "") for a, b, name in sorted(rows)]


def _write_lists(folder: Path, vocabulary: Vocabulary) -> None:
    names = sorted({concept.vocabulary for concept in vocabulary.concepts} - {"None"})
    rows = [(name, name, "", VERSION if name == DEMO else "", "0") for name in names]
    rows.append(("None", "OMOP Standardized Vocabularies (demonstration subset)", "", VERSION, "0"))
    _write(
        folder / "VOCABULARY.csv",
        "vocabulary_id vocabulary_name vocabulary_reference vocabulary_version vocabulary_concept_id",
        sorted(rows),
    )
    domains = sorted({concept.domain for concept in vocabulary.concepts})
    _write(folder / "DOMAIN.csv", "domain_id domain_name domain_concept_id", [(d, d, "0") for d in domains])
    classes = sorted({concept.concept_class for concept in vocabulary.concepts})
    _write(
        folder / "CONCEPT_CLASS.csv",
        "concept_class_id concept_class_name concept_class_concept_id",
        [(c, c, "0") for c in classes],
    )
    _write(
        folder / "RELATIONSHIP.csv",
        "relationship_id relationship_name is_hierarchical defines_ancestry reverse_relationship_id "
        "relationship_concept_id",
        [
            ("Is a", "Is a", "0", "0", "Subsumes", "0"),
            ("Mapped from", "Standard to Non-standard map (OMOP)", "0", "0", "Maps to", "0"),
            ("Maps to", "Non-standard to Standard map (OMOP)", "0", "0", "Mapped from", "0"),
            ("Maps to value", "Non-standard to value_as_concept map (OMOP)", "0", "0", "Value mapped from", "0"),
            ("Subsumes", "Subsumes", "1", "1", "Is a", "0"),
            ("Value mapped from", "Value_as_concept to Non-standard map (OMOP)", "0", "0", "Maps to value", "0"),
        ],
    )


def _write(path: Path, header: str, rows: Iterable[tuple[str, ...]]) -> None:
    lines = ["\t".join(header.split()), *("\t".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def coding_of(leaf: Leaf) -> tuple[str, str]:
    """Vocabulary and code under which a leaf is standard."""
    return ("SNOMED", leaf.snomed) if leaf.snomed else (DEMO, leaf.name)
