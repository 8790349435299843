-- find_cycles.sql: Encounters that are, by a chain of partOf, part of themselves (E52).
-- params:  source_no smallint
-- needs:   candidate
-- makes:   rows in dying
INSERT INTO dying (stage_no, reason, path)
WITH RECURSIVE part AS (
    SELECT 'Encounter/' || c.resource_id AS key, s.part_of, c.stage_no
    FROM stage_visit_detail AS s
    JOIN candidate AS c ON c.stage_no = s.stage_no AND c.state = 'loaded'
    WHERE s.slot = 'main'
    UNION ALL
    SELECT 'Encounter/' || r.resource_id, e.part_of, NULL
    FROM encounter AS e
    JOIN resource AS r ON r.resource_no = e.resource_no
    WHERE e.source_no = %(source_no)s
      AND e.slot = 'main'
      AND e.part_of IS NOT NULL
      AND NOT EXISTS (SELECT FROM candidate AS c WHERE c.held_no = r.resource_no)
),
walk AS (
    SELECT stage_no, key AS first_key, part_of AS at_key, 1 AS depth
    FROM part
    WHERE stage_no IS NOT NULL
    UNION ALL
    SELECT w.stage_no, w.first_key, p.part_of, w.depth + 1
    FROM walk AS w
    JOIN part AS p ON p.key = w.at_key
    WHERE w.at_key <> w.first_key AND w.depth < 100
)
SELECT DISTINCT stage_no, 'link-cycle', 'Encounter.partOf'
FROM walk
WHERE at_key = first_key OR depth >= 100
ON CONFLICT DO NOTHING
