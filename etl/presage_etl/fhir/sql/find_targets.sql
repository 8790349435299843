-- find_targets.sql: the references that lead to something, staged in this run or held from earlier ones (E19).
-- params:  source_no smallint
-- needs:   target, candidate
-- makes:   found (key, resource_type, stage_no if staged, held_no if known)
CREATE TEMP TABLE found ON COMMIT DROP AS
SELECT t.key, t.resource_type, t.resource_id, c.stage_no, coalesce(c.held_no, r.resource_no) AS held_no
FROM target AS t
LEFT JOIN candidate AS c
  ON t.source_no = %(source_no)s
 AND c.resource_type = t.resource_type
 AND c.resource_id = t.resource_id
LEFT JOIN resource AS r
  ON r.source_no = t.source_no
 AND r.resource_type = t.resource_type
 AND r.resource_id = t.resource_id
WHERE CASE WHEN c.stage_no IS NULL THEN r.state ELSE c.state END = 'loaded'
