-- labeling/sql/ancestors.sql: everything at or above some concepts, filtered on the server.
-- params:  ids bigint[]
-- returns: one row a pair
SELECT ancestor_concept_id::bigint AS ancestor_concept_id, descendant_concept_id::bigint AS descendant_concept_id,
       min_levels_of_separation::bigint AS min_levels_of_separation
FROM concept_ancestor
WHERE descendant_concept_id = ANY(CAST(%(ids)s AS bigint[]))
