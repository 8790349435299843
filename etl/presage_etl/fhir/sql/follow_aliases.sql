-- follow_aliases.sql: a Patient that is only another name leads to the person it was replaced by (E22).
-- params:  source_no smallint
-- needs:   target, candidate
-- makes:   target leads to the end of each chain; alias_cycle (stage_no)
CREATE TEMP TABLE alias ON COMMIT DROP AS
SELECT c.resource_id, split_part(a.target_key, '/', 2) AS next_id, c.stage_no
FROM stage_person_alias AS a
JOIN candidate AS c ON c.stage_no = a.stage_no AND c.state = 'loaded'
UNION ALL
SELECT r.resource_id, split_part(a.target_key, '/', 2), NULL
FROM person_alias AS a
JOIN resource AS r ON r.resource_no = a.resource_no AND r.source_no = %(source_no)s AND r.state = 'loaded'
WHERE NOT EXISTS (SELECT FROM candidate AS c WHERE c.held_no = r.resource_no);

CREATE TEMP TABLE alias_cycle ON COMMIT DROP AS
WITH RECURSIVE walk AS (
    SELECT stage_no, resource_id AS first_id, next_id AS at_id, 1 AS depth
    FROM alias
    WHERE stage_no IS NOT NULL
    UNION ALL
    SELECT w.stage_no, w.first_id, a.next_id, w.depth + 1
    FROM walk AS w
    JOIN alias AS a ON a.resource_id = w.at_id
    WHERE w.at_id <> w.first_id AND w.depth < 100
)
SELECT DISTINCT stage_no FROM walk WHERE at_id = first_id OR depth >= 100;

DELETE FROM alias WHERE stage_no IN (SELECT stage_no FROM alias_cycle);

WITH RECURSIVE walk AS (
    SELECT t.key, a.next_id AS at_id, 1 AS depth
    FROM target AS t
    JOIN alias AS a ON a.resource_id = t.resource_id
    WHERE t.resource_type = 'Patient' AND t.source_no = %(source_no)s
    UNION ALL
    SELECT w.key, a.next_id, w.depth + 1
    FROM walk AS w
    JOIN alias AS a ON a.resource_id = w.at_id
    WHERE w.depth < 100
)
UPDATE target AS t
SET resource_id = last.at_id
FROM (SELECT DISTINCT ON (key) key, at_id FROM walk ORDER BY key, depth DESC) AS last
WHERE t.key = last.key
