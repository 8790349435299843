-- labeling/sql/observation_period.sql: spans in which a person's events would have been recorded.
-- why:     the period that holds a scan decides how long its follow-up can be
-- returns: one row a period: first second of its first day, last second of its last day
SELECT person_id,
       extract(epoch FROM observation_period_start_date)::bigint AS start_s,
       extract(epoch FROM observation_period_end_date)::bigint + 86399 AS end_s
FROM observation_period
WHERE isfinite(observation_period_start_date) AND isfinite(observation_period_end_date)
ORDER BY person_id, start_s, end_s
