-- status_dead.sql: unsolved dead letters by reason.
SELECT reason, count(*) FROM dead_letter WHERE resolved_by_run IS NULL GROUP BY reason ORDER BY reason
