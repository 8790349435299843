-- derive/cause_of_death.sql: the cause that the latest coded certificate of death names (E48).
-- why:     FHIR keeps it as an Observation (LOINC 69453-9), OMOP beside the death; both sides may arrive first
-- params:  run_no bigint, persons touched by that run
-- makes:   cause_concept_id and cause_source_value of those persons' deaths; written only where they differ
WITH touched AS (SELECT person_id FROM touched_person WHERE run_no = %(run_no)s),
stated AS (
    SELECT person_id, observation_date AS day, observation_id AS place, value_as_concept_id, value_source_value
    FROM observation JOIN touched USING (person_id)
    WHERE observation_source_value = '69453-9' AND value_as_concept_id IS NOT NULL
    UNION ALL
    SELECT person_id, measurement_date, measurement_id, value_as_concept_id, value_source_value
    FROM measurement JOIN touched USING (person_id)
    WHERE measurement_source_value = '69453-9' AND value_as_concept_id IS NOT NULL
),
latest AS (
    SELECT DISTINCT ON (person_id) person_id, value_as_concept_id, value_source_value
    FROM stated
    ORDER BY person_id, day DESC, place DESC
)
UPDATE death AS d
SET cause_concept_id = l.value_as_concept_id,
    cause_source_value = l.value_source_value
FROM touched AS t
LEFT JOIN latest AS l USING (person_id)
WHERE d.person_id = t.person_id
  AND (d.cause_concept_id, d.cause_source_value) IS DISTINCT FROM (l.value_as_concept_id, l.value_source_value)
