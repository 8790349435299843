-- status_exclusions.sql: what the last finished load left out, by reason.
SELECT reason, CAST(sum(count) AS bigint)
FROM exclusion
WHERE run_no = (SELECT max(run_no) FROM run WHERE state = 'finished' AND command = 'etl fhir')
GROUP BY reason
ORDER BY reason
