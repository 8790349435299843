-- outcomes.sql: what became of every resource that was staged, counted (E95).
-- needs:   loser, dying, candidate
-- returns: file_no, resource type, outcome (new, updated, unchanged, used-by-reference, deleted, excluded, dead), reason, count
SELECT file_no, coalesce(resource_type, '') AS resource_type, outcome, reason, count(*) AS count
FROM (
    SELECT s.file_no,
           s.resource_type,
           CASE
               WHEN d.stage_no IS NOT NULL THEN 'dead'
               WHEN l.stage_no IS NOT NULL OR s.state IN ('excluded', 'superseded') THEN 'excluded'
               WHEN s.state = 'unchanged' THEN CASE WHEN s.reason IS NULL THEN 'unchanged' ELSE 'excluded' END
               WHEN s.state = 'deleted' THEN 'deleted'
               WHEN s.reason = 'used-by-reference' THEN 'used-by-reference'
               WHEN c.held_no IS NULL THEN 'new'
               ELSE 'updated'
           END AS outcome,
           CASE WHEN s.reason = 'used-by-reference' THEN d.reason ELSE coalesce(d.reason, l.reason, s.reason) END
               AS reason
    FROM stage_resource AS s
    LEFT JOIN loser AS l ON l.stage_no = s.stage_no
    LEFT JOIN dying AS d ON d.stage_no = s.stage_no
    LEFT JOIN candidate AS c ON c.stage_no = s.stage_no
    UNION ALL
    SELECT file_no, resource_type, 'dead', reason FROM stage_dead
) AS every
GROUP BY file_no, resource_type, outcome, reason
