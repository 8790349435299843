-- status_runs.sql: the last runs of all commands that write.
-- params:  limit integer
SELECT r.run_no, r.command, s.name AS source, r.state, r.started_at, r.ended_at, r.vocabulary_release, r.policy_hash
FROM run AS r
LEFT JOIN source AS s USING (source_no)
ORDER BY r.run_no DESC
LIMIT %(limit)s
