-- labeling/sql/task_descendants.sql: concepts at or below some concepts.
-- params:  concept_ids bigint[]
-- returns: one row a concept: concept_id
SELECT DISTINCT descendant_concept_id::bigint AS concept_id
FROM concept_ancestor
WHERE ancestor_concept_id = ANY(CAST(%(concept_ids)s AS bigint[]))
