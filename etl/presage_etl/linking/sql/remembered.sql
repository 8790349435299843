-- linking/sql/remembered.sql: evidence that earlier runs kept.
-- why:     a run without a mapping does not undo what a mapping linked
-- params:  none
-- returns: one row a study with evidence
SELECT l.study_id, l.evidence FROM study_link AS l
UNION ALL
SELECT q.study_id, q.evidence FROM link_quarantine AS q WHERE q.resolved_run IS NULL
