-- labeling/sql/concepts.sql: the concepts among some ids.
-- params:  ids bigint[]
-- returns: one row a concept
SELECT concept_id::bigint AS concept_id, concept_name::text AS concept_name, domain_id::text AS domain_id,
       vocabulary_id::text AS vocabulary_id, concept_class_id::text AS concept_class_id,
       standard_concept::text AS standard_concept, concept_code::text AS concept_code
FROM concept
WHERE concept_id = ANY(CAST(%(ids)s AS bigint[]))
ORDER BY concept_id
