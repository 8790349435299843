-- linking/sql/standing.sql: how many studies stand where.
-- why:     linked + quarantined = studies, whatever this run looked at
-- params:  none
-- returns: one row a (place, class or reason, confidence): 'linked', 'quarantined', 'not examined'
SELECT 'linked' AS place, l.link_class AS word, l.confidence, count(*) AS studies
FROM study_link AS l
GROUP BY l.link_class, l.confidence
UNION ALL
SELECT 'quarantined', q.reason, NULL, count(*)
FROM link_quarantine AS q
WHERE q.resolved_run IS NULL
GROUP BY q.reason
UNION ALL
SELECT 'not examined', NULL, NULL, count(*)
FROM image_study AS s
WHERE NOT EXISTS (SELECT 1 FROM study_link AS l WHERE l.study_id = s.study_id)
  AND NOT EXISTS (SELECT 1 FROM link_quarantine AS q WHERE q.study_id = s.study_id AND q.resolved_run IS NULL)
ORDER BY 1, 2, 3
