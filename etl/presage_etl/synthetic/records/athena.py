"""The vocabulary as files in Athena's format: tab separated, no quoting, dates YYYYMMDD."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from presage_etl.synthetic.records.vocabulary import DEMO, VALID_FROM, VALID_TO, Concept, Vocabulary, closure

VERSION = "presage-demo 1"
ENGLISH = "4180186"
NUM_SYNONYMS = 20
STRENGTH = re.compile(r" ([0-9.]+) MG ")
MILLIGRAM = "8576"

README = """# Vocabulary of a synthetic hospital

A demonstration subset in Athena's format, not a vocabulary release. Sites load their own from https://athena.ohdsi.org.

Ids below 2,000,000,000 are published OMOP concepts; PROVENANCE.csv names where each row was seen. Ids from
2,000,000,000 on belong to this demonstration: the findings of vocabulary PRESAGE_DEMO, and codes of public systems
(ICD-10-CM, DICOM, one LOINC and one SNOMED CT code) whose published OMOP id is not confirmed here.

synthetic: true
"""


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
        _synonyms(vocabulary),
    )
    _write_lists(folder, vocabulary)
    _write(
        folder / "DRUG_STRENGTH.csv",
        "drug_concept_id ingredient_concept_id amount_value amount_unit_concept_id numerator_value "
        "numerator_unit_concept_id denominator_value denominator_unit_concept_id box_size valid_start_date "
        "valid_end_date invalid_reason",
        _strengths(vocabulary),
    )
    with (folder / "PROVENANCE.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["concept_id", "source"])
        writer.writerows([c.concept_id, c.source] for c in vocabulary.concepts)
    (folder / "README.md").write_text(README, encoding="utf-8")


def _synonyms(vocabulary: Vocabulary) -> list[tuple[str, ...]]:
    named = [concept for concept in vocabulary.concepts if concept.vocabulary == DEMO][:NUM_SYNONYMS]
    return [(str(concept.concept_id), f"{concept.name} (synonym)", ENGLISH) for concept in named]


def _strengths(vocabulary: Vocabulary) -> list[tuple[str, ...]]:
    """Strength of each clinical drug, as its name states it; drug eras follow the ingredient."""
    by_id = {concept.concept_id: concept for concept in vocabulary.concepts}
    rows = []
    for ingredient, drug in vocabulary.edges:
        if by_id[drug].concept_class == "Clinical Drug":
            rows.append((str(drug), str(ingredient), *_strength(by_id[drug]), "", VALID_FROM, VALID_TO, ""))
    return sorted(rows)


def _strength(drug: Concept) -> tuple[str, ...]:
    """Amount and unit, then numerator, denominator and their units."""
    stated = STRENGTH.search(drug.name)
    return (stated.group(1), MILLIGRAM, "", "", "", "") if stated else ("",) * 6


def _relationships(vocabulary: Vocabulary) -> Iterable[tuple[str, ...]]:
    rows = [(a, b, "Maps to") for a, b in vocabulary.maps_to]
    rows += [(b, a, "Mapped from") for a, b in vocabulary.maps_to]
    rows += [(a, b, "Maps to value") for a, b in vocabulary.maps_to_value]
    rows += [(b, a, "Value mapped from") for a, b in vocabulary.maps_to_value]
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
