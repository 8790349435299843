-- status_chunks.sql: partitions of unfinished runs that are read already.
SELECT 'run ' || c.run_no, count(*)
FROM chunk AS c
JOIN run AS r USING (run_no)
WHERE r.state IN ('running', 'interrupted', 'failed')
GROUP BY c.run_no
ORDER BY c.run_no
