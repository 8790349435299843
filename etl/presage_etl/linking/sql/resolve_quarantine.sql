-- linking/sql/resolve_quarantine.sql: studies that left quarantine.
-- why:     the row stays as history and no longer counts
-- params:  run_no bigint, run that writes
--          ids bigint[], studies
-- returns: nothing
UPDATE link_quarantine SET resolved_run = %(run_no)s WHERE study_id = ANY (%(ids)s) AND resolved_run IS NULL
