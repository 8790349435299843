-- derive/cdm_source.sql: the one row that says what this database is (E87).
-- params:  name, abbreviation, holder, reference text; extracted_on, released_on date; vocabulary text
DELETE FROM cdm_source;

INSERT INTO cdm_source (
    cdm_source_name, cdm_source_abbreviation, cdm_holder, cdm_etl_reference,
    source_release_date, cdm_release_date, cdm_version, cdm_version_concept_id, vocabulary_version
)
VALUES (
    %(name)s, %(abbreviation)s, %(holder)s, %(reference)s,
    %(extracted_on)s, %(released_on)s, '5.4', 756265, left(%(vocabulary)s, 20)
)
