-- linking/sql/put_quarantine.sql: a study that belongs to nobody yet.
-- why:     nothing is lost: the reason and all evidence stay until a later run can link it
-- params:  study_id bigint, study
--          reason text, word of the closed list
--          evidence jsonb, all evidence, strongest first
--          seen timestamp, now, UTC
--          run_no bigint, run that writes
-- returns: nothing; last_seen moves when reason or evidence changed, so that a second run changes no row
INSERT INTO link_quarantine AS q (study_id, reason, evidence, first_seen, last_seen, run_no)
VALUES (%(study_id)s, %(reason)s, %(evidence)s, %(seen)s, %(seen)s, %(run_no)s)
ON CONFLICT (study_id) DO UPDATE
SET reason = excluded.reason, evidence = excluded.evidence, last_seen = excluded.last_seen,
    run_no = excluded.run_no, resolved_run = NULL
WHERE (q.reason, q.evidence) IS DISTINCT FROM (excluded.reason, excluded.evidence) OR q.resolved_run IS NOT NULL
