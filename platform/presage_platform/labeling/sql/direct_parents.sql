-- labeling/sql/direct_parents.sql: what lies one step above some concepts.
-- why:     the paper's selection climbs one step at a time, so that nodes can be passed over
-- params:  ids bigint[]
-- returns: one row a pair
SELECT ancestor_concept_id::bigint AS ancestor_concept_id, descendant_concept_id::bigint AS descendant_concept_id
FROM concept_ancestor
WHERE min_levels_of_separation = 1 AND descendant_concept_id = ANY(CAST(%(ids)s AS bigint[]))
ORDER BY descendant_concept_id, ancestor_concept_id
