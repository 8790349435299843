-- labeling/sql/death.sql: every death row; the earliest of a person decides, conflicts are counted.
-- returns: one row a death row; moment_s is null where only the date is known
SELECT person_id,
       extract(epoch FROM death_date)::bigint AS day_s,
       CASE WHEN isfinite(death_datetime) THEN floor(extract(epoch FROM death_datetime))::bigint END AS moment_s
FROM death
WHERE isfinite(death_date)
ORDER BY person_id, day_s, moment_s
