-- tests/reference/labeling/first_occurrence.sql: the set-based statement that the kernel must equal, bit for bit.
-- Runs in PostgreSQL and in DuckDB. Tables: index_ (study_id, person_id, t0, r, f, lookback_from, moved_day),
-- event (person_id, concept, time, flags), concept_task (concept, task).
WITH placed AS (
  SELECT i.study_id, e.concept, i.t0, i.r, i.f, i.lookback_from,
         CASE WHEN (e.flags & 8) <> 0 AND e.time = i.moved_day THEN e.time + 86399 ELSE e.time END AS time
  FROM index_ AS i
  JOIN event AS e ON e.person_id = i.person_id
),
per_concept AS (
  SELECT study_id, concept,
         min(time - t0) FILTER (WHERE time > r AND time <= f) AS t,
         bool_or(time >= lookback_from AND time <= r) AS seen
  FROM placed
  GROUP BY study_id, concept
)
SELECT study_id, task, min(t) AS t, bool_or(seen) AS prevalent
FROM per_concept
JOIN concept_task USING (concept)
GROUP BY study_id, task
HAVING min(t) IS NOT NULL OR bool_or(seen)
ORDER BY study_id, task
