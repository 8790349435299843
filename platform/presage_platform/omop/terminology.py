"""The vocabulary tables of the OMOP CDM 5.4: loaded from Athena, never written by an ETL."""

from __future__ import annotations

from presage_platform.omop.columns import REQUIRED, concept_id, concept_key, date, integer, real, table, text, text_key

concept = table(
    "concept",
    "Every term of every vocabulary, with its standing.",
    concept_key("concept_id"),
    text("concept_name", 255, REQUIRED),
    text("domain_id", 20, REQUIRED, index=True),
    text("vocabulary_id", 20, REQUIRED, index=True),
    text("concept_class_id", 20, REQUIRED, index=True),
    text("standard_concept", 1),
    text("concept_code", 50, REQUIRED, index=True),
    date("valid_start_date", REQUIRED),
    date("valid_end_date", REQUIRED),
    text("invalid_reason", 1),
)

vocabulary = table(
    "vocabulary",
    "The vocabularies that are loaded, with their release.",
    text_key("vocabulary_id", 20),
    text("vocabulary_name", 255, REQUIRED),
    text("vocabulary_reference", 255),
    text("vocabulary_version", 255),
    concept_id("vocabulary_concept_id", REQUIRED),
)

domain = table(
    "domain",
    "The domains that decide which table a concept belongs to.",
    text_key("domain_id", 20),
    text("domain_name", 255, REQUIRED),
    concept_id("domain_concept_id", REQUIRED),
)

concept_class = table(
    "concept_class",
    "Classes of concepts within a vocabulary.",
    text_key("concept_class_id", 20),
    text("concept_class_name", 255, REQUIRED),
    concept_id("concept_class_concept_id", REQUIRED),
)

concept_relationship = table(
    "concept_relationship",
    "Directed links between two concepts, such as Maps to.",
    concept_id("concept_id_1", REQUIRED, index=True),
    concept_id("concept_id_2", REQUIRED, index=True),
    text("relationship_id", 20, REQUIRED),
    date("valid_start_date", REQUIRED),
    date("valid_end_date", REQUIRED),
    text("invalid_reason", 1),
)

relationship = table(
    "relationship",
    "The kinds of link between concepts.",
    text_key("relationship_id", 20),
    text("relationship_name", 255, REQUIRED),
    text("is_hierarchical", 1, REQUIRED),
    text("defines_ancestry", 1, REQUIRED),
    text("reverse_relationship_id", 20, REQUIRED),
    concept_id("relationship_concept_id", REQUIRED),
)

concept_synonym = table(
    "concept_synonym",
    "Other names of a concept.",
    concept_id("concept_id", REQUIRED, index=True),
    text("concept_synonym_name", 1000, REQUIRED),
    concept_id("language_concept_id", REQUIRED),
)

concept_ancestor = table(
    "concept_ancestor",
    "The hierarchy of standard concepts, transitively closed.",
    concept_id("ancestor_concept_id", REQUIRED, index=True),
    concept_id("descendant_concept_id", REQUIRED, index=True),
    integer("min_levels_of_separation", REQUIRED),
    integer("max_levels_of_separation", REQUIRED),
)

source_to_concept_map = table(
    "source_to_concept_map",
    "Mappings of local codes made by the site.",
    text("source_code", 50, REQUIRED, index=True),
    concept_id("source_concept_id", REQUIRED),
    text("source_vocabulary_id", 20, REQUIRED),
    text("source_code_description", 255),
    concept_id("target_concept_id", REQUIRED, index=True),
    text("target_vocabulary_id", 20, REQUIRED),
    date("valid_start_date", REQUIRED),
    date("valid_end_date", REQUIRED),
    text("invalid_reason", 1),
)

drug_strength = table(
    "drug_strength",
    "Amount or concentration of each ingredient in a drug.",
    concept_id("drug_concept_id", REQUIRED, index=True),
    concept_id("ingredient_concept_id", REQUIRED, index=True),
    real("amount_value"),
    concept_id("amount_unit_concept_id"),
    real("numerator_value"),
    concept_id("numerator_unit_concept_id"),
    real("denominator_value"),
    concept_id("denominator_unit_concept_id"),
    integer("box_size"),
    date("valid_start_date", REQUIRED),
    date("valid_end_date", REQUIRED),
    text("invalid_reason", 1),
)
