-- held.sql: what the ledger holds of the resources of one partition.
-- why:     one query a partition, never one a resource (E108)
-- params:  source_no smallint; types, ids text[] of equal length
-- returns: place in the arrays (from 1), then hash, transform, state, reason, version, run and deletion of what is held
SELECT asked.place, r.content_hash, r.transform_no, r.state, r.reason, r.last_updated, r.version_id, r.run_no,
       r.changed_at
FROM unnest(%(types)s::text[], %(ids)s::text[]) WITH ORDINALITY AS asked (resource_type, resource_id, place)
JOIN resource AS r
  ON r.source_no = %(source_no)s
 AND r.resource_type = asked.resource_type
 AND r.resource_id = asked.resource_id
