-- linking/sql/quarantined.sql: the studies that `--retry` examines again.
-- why:     nothing else moves
-- params:  reason text, one reason, null for all
-- returns: one row a study
SELECT q.study_id FROM link_quarantine AS q
WHERE q.resolved_run IS NULL AND (%(reason)s::text IS NULL OR q.reason = %(reason)s)
