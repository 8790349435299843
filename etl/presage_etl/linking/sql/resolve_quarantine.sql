-- linking/sql/resolve_quarantine.sql: studies that left quarantine.
-- why:     the row stays as history and no longer counts
-- params:  ids bigint[], studies; run_no bigint
-- returns: nothing
UPDATE link_quarantine SET resolved_run = %(run_no)s WHERE study_id = ANY (%(ids)s) AND resolved_run IS NULL
