-- tests/reference/labeling/visit_codes.sql: tasks recorded in the visit that holds t0.
-- Tables as in first_occurrence.sql; index_ also has visit_start, visit_end. A bare date belongs to a visit of its day.
SELECT DISTINCT i.study_id, c.task
FROM index_ AS i
JOIN event AS e ON e.person_id = i.person_id
JOIN concept_task AS c ON c.concept = e.concept
WHERE e.time <= i.visit_end
  AND e.time >= CASE WHEN (e.flags & 8) <> 0
                     THEN i.visit_start - ((i.visit_start % 86400) + 86400) % 86400
                     ELSE i.visit_start END
ORDER BY i.study_id, c.task
