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
      OR EXISTS (  -- a conditional reference: Type?system|hash of the identifier
          SELECT
          FROM stage_identifier AS i
          JOIN stage_resource AS s ON s.stage_no = i.stage_no AND s.state = 'loaded'
          WHERE l.wanted_key ~ '^[A-Za-z]+[?]'
            AND i.value_hmac = right(l.wanted_key, 64)
            AND left(l.wanted_key, -64) IN (s.resource_type || '?|', s.resource_type || '?' || i.system || '|')
      )
      OR EXISTS (
          SELECT
          FROM identifier AS i
          JOIN resource AS r ON r.resource_no = i.resource_no AND r.source_no = l.source_no AND r.state = 'loaded'
          WHERE l.wanted_key ~ '^[A-Za-z]+[?]'
            AND i.value_hmac = right(l.wanted_key, 64)
            AND left(l.wanted_key, -64) IN (r.resource_type || '?|', r.resource_type || '?' || i.system || '|')
      )
  )
ORDER BY l.letter_no
