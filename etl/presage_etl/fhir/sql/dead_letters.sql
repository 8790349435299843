-- dead_letters.sql: what this run could not load, kept whole; a letter that came again counts as another attempt (E96).
-- params:  source_no smallint, run_no bigint
-- needs:   dying, payload (stage_no, payload)
CREATE TEMP TABLE letter ON COMMIT DROP AS
SELECT d.stage_no, d.stage, d.reason, d.path, d.resource_type, d.resource_id, CAST(NULL AS text) AS wanted_key,
       d.file_no, d.byte_offset, d.line, d.content_hash, d.payload, d.letter_no
FROM stage_dead AS d
UNION ALL
SELECT s.stage_no, 'merge', d.reason, d.path, s.resource_type, s.resource_id, d.wanted_key,
       s.file_no, s.byte_offset, s.line, s.content_hash, p.payload, s.letter_no
FROM dying AS d
JOIN stage_resource AS s ON s.stage_no = d.stage_no
LEFT JOIN payload AS p ON p.stage_no = d.stage_no;

UPDATE letter AS l
SET letter_no = held.letter_no
FROM dead_letter AS held
WHERE l.letter_no IS NULL
  AND held.source_no = %(source_no)s
  AND held.resolved_by_run IS NULL
  AND held.content_hash = l.content_hash
  AND held.resource_type IS NOT DISTINCT FROM l.resource_type
  AND held.resource_id IS NOT DISTINCT FROM l.resource_id;

UPDATE dead_letter AS held
SET attempts = held.attempts + 1,
    last_run_no = %(run_no)s,
    stage = l.stage,
    reason = l.reason,
    path = l.path,
    wanted_key = l.wanted_key,
    payload = coalesce(held.payload, l.payload)
FROM letter AS l
WHERE held.letter_no = l.letter_no;

UPDATE dead_letter AS held
SET resolved_by_run = %(run_no)s, attempts = held.attempts + 1
FROM stage_resource AS s
WHERE held.letter_no = s.letter_no AND NOT EXISTS (SELECT FROM letter AS l WHERE l.letter_no = held.letter_no);

-- a newer good copy of the same resource makes its old letters idle
UPDATE dead_letter AS held
SET resolved_by_run = %(run_no)s
FROM kept AS k
WHERE held.source_no = %(source_no)s
  AND held.resource_type = k.resource_type
  AND held.resource_id = k.resource_id
  AND held.resolved_by_run IS NULL
  AND NOT EXISTS (SELECT FROM letter AS l WHERE l.letter_no = held.letter_no);

INSERT INTO dead_letter (
    source_no, run_no, last_run_no, stage, reason, path, resource_type, resource_id, wanted_key,
    file_no, byte_offset, line, content_hash, payload
)
SELECT %(source_no)s, %(run_no)s, %(run_no)s, stage, reason, path, resource_type, resource_id, wanted_key,
       file_no, byte_offset, line, content_hash, payload
FROM letter
WHERE letter_no IS NULL
ORDER BY stage_no
