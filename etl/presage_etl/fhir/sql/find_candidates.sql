-- find_candidates.sql: the copies that may be written, with what the ledger holds of the same resource.
-- params:  source_no smallint
-- makes:   candidate (stage_no, …, held_no: number of the resource if it is known)
CREATE TEMP TABLE candidate ON COMMIT DROP AS
SELECT s.stage_no,
       s.resource_type,
       s.resource_id,
       s.state,
       s.reason,
       s.file_no,
       s.byte_offset,
       s.byte_length,
       s.line,
       s.content_hash,
       s.last_updated,
       s.version_id,
       r.resource_no AS held_no
FROM stage_resource AS s
LEFT JOIN resource AS r
  ON r.source_no = %(source_no)s
 AND r.resource_type = s.resource_type
 AND r.resource_id = s.resource_id
WHERE s.state IN ('loaded', 'excluded', 'deleted')
  AND s.resource_id IS NOT NULL
  AND NOT EXISTS (SELECT FROM loser AS l WHERE l.stage_no = s.stage_no)
