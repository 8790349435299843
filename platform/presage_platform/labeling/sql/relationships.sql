-- labeling/sql/relationships.sql: valid relationships of one kind that start at some concepts.
-- params:  kind text, a relationship_id; ids bigint[]
-- returns: one row a relationship
SELECT concept_id_1::bigint AS concept_id_1, concept_id_2::bigint AS concept_id_2
FROM concept_relationship
WHERE relationship_id = %(kind)s AND invalid_reason IS NULL AND concept_id_1 = ANY(CAST(%(ids)s AS bigint[]))
ORDER BY concept_id_1, concept_id_2
