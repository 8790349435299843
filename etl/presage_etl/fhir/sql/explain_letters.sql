-- explain_letters.sql: the dead letters of one resource, the last one first.
-- params:  source, type, id text
SELECT l.reason, l.stage, l.path, l.wanted_key, l.attempts, l.run_no, l.last_run_no, l.resolved_by_run, l.line, l.payload
FROM dead_letter AS l
JOIN source AS s ON s.source_no = l.source_no AND s.name = %(source)s
WHERE l.resource_type = %(type)s AND l.resource_id = %(id)s
ORDER BY l.letter_no DESC
