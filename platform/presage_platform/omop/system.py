"""The remaining tables of the OMOP CDM 5.4: health system, costs, derived spans, facts on the database, cohorts."""

from __future__ import annotations

from presage_platform.omop.columns import (
    REQUIRED,
    concept_id,
    date,
    event_id,
    integer,
    key,
    moment,
    real,
    reference,
    table,
    text,
)

location = table(
    "location",
    "Addresses and regions of persons and care sites.",
    key("location_id"),
    text("address_1", 50, free_text=True),
    text("address_2", 50, free_text=True),
    text("city", 50),
    text("state", 2),
    text("zip", 9),
    text("county", 20),
    text("location_source_value", 50),
    concept_id("country_concept_id"),
    text("country_source_value", 80),
    real("latitude"),
    real("longitude"),
)

care_site = table(
    "care_site",
    "Places where care is given: wards, clinics, practices.",
    key("care_site_id"),
    text("care_site_name", 255),
    concept_id("place_of_service_concept_id"),
    reference("location_id", "location.location_id"),
    text("care_site_source_value", 50),
    text("place_of_service_source_value", 50),
)

provider = table(
    "provider",
    "Persons who give care.",
    key("provider_id"),
    text("provider_name", 255),
    text("npi", 20),
    text("dea", 20),
    concept_id("specialty_concept_id"),
    reference("care_site_id", "care_site.care_site_id"),
    integer("year_of_birth"),
    concept_id("gender_concept_id"),
    text("provider_source_value", 50),
    text("specialty_source_value", 50),
    concept_id("specialty_source_concept_id"),
    text("gender_source_value", 50),
    concept_id("gender_source_concept_id"),
)

payer_plan_period = table(
    "payer_plan_period",
    "Spans of time in which a payer covered a person.",
    key("payer_plan_period_id"),
    reference("person_id", "person.person_id", REQUIRED, index=True),
    date("payer_plan_period_start_date", REQUIRED),
    date("payer_plan_period_end_date", REQUIRED),
    concept_id("payer_concept_id"),
    text("payer_source_value", 50),
    concept_id("payer_source_concept_id"),
    concept_id("plan_concept_id"),
    text("plan_source_value", 50),
    concept_id("plan_source_concept_id"),
    concept_id("sponsor_concept_id"),
    text("sponsor_source_value", 50),
    concept_id("sponsor_source_concept_id"),
    text("family_source_value", 50),
    concept_id("stop_reason_concept_id"),
    text("stop_reason_source_value", 50),
    concept_id("stop_reason_source_concept_id"),
)

cost = table(
    "cost",
    "Charges and payments that belong to an event.",
    key("cost_id"),
    event_id("cost_event_id", REQUIRED, index=True),
    text("cost_domain_id", 20, REQUIRED),
    concept_id("cost_type_concept_id", REQUIRED),
    concept_id("currency_concept_id"),
    real("total_charge"),
    real("total_cost"),
    real("total_paid"),
    real("paid_by_payer"),
    real("paid_by_patient"),
    real("paid_patient_copay"),
    real("paid_patient_coinsurance"),
    real("paid_patient_deductible"),
    real("paid_by_primary"),
    real("paid_ingredient_cost"),
    real("paid_dispensing_fee"),
    event_id("payer_plan_period_id"),
    real("amount_allowed"),
    concept_id("revenue_code_concept_id"),
    text("revenue_code_source_value", 50),
    concept_id("drg_concept_id"),
    text("drg_source_value", 3),
)

drug_era = table(
    "drug_era",
    "Spans of time under one ingredient, gaps bridged.",
    key("drug_era_id"),
    reference("person_id", "person.person_id", REQUIRED, index=True),
    concept_id("drug_concept_id", REQUIRED, index=True),
    date("drug_era_start_date", REQUIRED),
    date("drug_era_end_date", REQUIRED),
    integer("drug_exposure_count"),
    integer("gap_days"),
)

dose_era = table(
    "dose_era",
    "Spans of time under one ingredient at a constant dose.",
    key("dose_era_id"),
    reference("person_id", "person.person_id", REQUIRED, index=True),
    concept_id("drug_concept_id", REQUIRED, index=True),
    concept_id("unit_concept_id", REQUIRED),
    real("dose_value", REQUIRED),
    date("dose_era_start_date", REQUIRED),
    date("dose_era_end_date", REQUIRED),
)

condition_era = table(
    "condition_era",
    "Spans of time with one condition, gaps bridged.",
    key("condition_era_id"),
    reference("person_id", "person.person_id", REQUIRED, index=True),
    concept_id("condition_concept_id", REQUIRED, index=True),
    date("condition_era_start_date", REQUIRED),
    date("condition_era_end_date", REQUIRED),
    integer("condition_occurrence_count"),
)

episode = table(
    "episode",
    "Courses of a disease or of its treatment.",
    key("episode_id"),
    reference("person_id", "person.person_id", REQUIRED, index=True),
    concept_id("episode_concept_id", REQUIRED, index=True),
    date("episode_start_date", REQUIRED),
    moment("episode_start_datetime"),
    date("episode_end_date"),
    moment("episode_end_datetime"),
    event_id("episode_parent_id"),
    integer("episode_number"),
    concept_id("episode_object_concept_id", REQUIRED),
    concept_id("episode_type_concept_id", REQUIRED),
    text("episode_source_value", 50),
    concept_id("episode_source_concept_id"),
)

episode_event = table(
    "episode_event",
    "Events that make up an episode.",
    reference("episode_id", "episode.episode_id", REQUIRED),
    event_id("event_id", REQUIRED),
    concept_id("episode_event_field_concept_id", REQUIRED),
)

metadata = table(
    "metadata",
    "Facts about this database itself.",
    key("metadata_id"),
    concept_id("metadata_concept_id", REQUIRED),
    concept_id("metadata_type_concept_id", REQUIRED),
    text("name", 250, REQUIRED),
    text("value_as_string", 250),
    concept_id("value_as_concept_id"),
    real("value_as_number"),
    date("metadata_date"),
    moment("metadata_datetime"),
)

cdm_source = table(
    "cdm_source",
    "Where the data of this database came from, and when.",
    text("cdm_source_name", 255, REQUIRED),
    text("cdm_source_abbreviation", 25, REQUIRED),
    text("cdm_holder", 255, REQUIRED),
    text("source_description", None),
    text("source_documentation_reference", 255),
    text("cdm_etl_reference", 255),
    date("source_release_date", REQUIRED),
    date("cdm_release_date", REQUIRED),
    text("cdm_version", 10),
    concept_id("cdm_version_concept_id", REQUIRED),
    text("vocabulary_version", 20, REQUIRED),
)

cohort = table(
    "cohort",
    "Persons who met a definition, and for how long.",
    event_id("cohort_definition_id", REQUIRED, index=True),
    event_id("subject_id", REQUIRED, index=True),
    date("cohort_start_date", REQUIRED),
    date("cohort_end_date", REQUIRED),
    schema="results",
)

cohort_definition = table(
    "cohort_definition",
    "Definitions that cohorts were built from.",
    event_id("cohort_definition_id", REQUIRED),
    text("cohort_definition_name", 255, REQUIRED),
    text("cohort_definition_description", None),
    concept_id("definition_type_concept_id", REQUIRED),
    text("cohort_definition_syntax", None),
    concept_id("subject_concept_id", REQUIRED),
    date("cohort_initiation_date"),
    schema="results",
)
