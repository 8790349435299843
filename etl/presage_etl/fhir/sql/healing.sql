-- healing.sql: dead letters whose missing Patient or Encounter has come, in this run or since (E20).
-- params:  source_no smallint
-- returns: letter numbers
SELECT l.letter_no
FROM dead_letter AS l
WHERE l.source_no = %(source_no)s
  AND l.resolved_by_run IS NULL
  AND l.wanted_key IS NOT NULL
  AND l.payload IS NOT NULL
  AND (
      EXISTS (
          SELECT FROM stage_resource AS s
          WHERE s.state = 'loaded'
            AND s.resource_type = split_part(l.wanted_key, '/', 1)
            AND s.resource_id = split_part(l.wanted_key, '/', 2)
      )
      OR EXISTS (
          SELECT FROM resource AS r
          WHERE r.source_no = l.source_no
            AND r.resource_type = split_part(l.wanted_key, '/', 1)
            AND r.resource_id = split_part(l.wanted_key, '/', 2)
            AND r.state = 'loaded'
      )
  )
ORDER BY l.letter_no
