-- unmapped_codes.sql: codes that reached no standard concept, the most frequent first, with their share of all rows.
-- params:  limit integer or NULL
SELECT system, code, reason, display, count, persons, first_date, last_date,
       count / greatest((SELECT count(*) FROM origin WHERE table_no BETWEEN 3 AND 14), 1)::double precision AS share
FROM unmapped_code
ORDER BY count DESC, system, code, reason
LIMIT %(limit)s
