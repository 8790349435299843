-- labeling/sql/task_concept.sql: the standard concepts of one code.
-- why:     a task names concepts by vocabulary and code; a code that is not standard goes through its valid `Maps to`
-- params:  vocabulary_id text, concept_code text
-- returns: one row a standard concept: concept_id, concept_name
WITH source AS (
    SELECT concept_id, concept_name, standard_concept
    FROM concept
    WHERE vocabulary_id = CAST(%(vocabulary_id)s AS text)
      AND concept_code = CAST(%(concept_code)s AS text)
      AND invalid_reason IS NULL
)
SELECT concept_id, concept_name FROM source WHERE standard_concept = 'S'
UNION
SELECT target.concept_id, target.concept_name
FROM source
JOIN concept_relationship AS r
    ON r.concept_id_1 = source.concept_id AND r.relationship_id = 'Maps to' AND r.invalid_reason IS NULL
JOIN concept AS target
    ON target.concept_id = r.concept_id_2 AND target.standard_concept = 'S' AND target.invalid_reason IS NULL
WHERE source.standard_concept IS DISTINCT FROM 'S'
ORDER BY concept_id
