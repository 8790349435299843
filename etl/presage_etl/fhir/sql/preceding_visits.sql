-- preceding_visits.sql: the previous visit of each touched person, by (start, end, id) (E49).
-- params:  run_no bigint
UPDATE visit_occurrence AS v
SET preceding_visit_occurrence_id = ordered.previous_id
FROM (
    SELECT visit_occurrence_id,
           lag(visit_occurrence_id) OVER (
               PARTITION BY person_id
               ORDER BY coalesce(visit_start_datetime, visit_start_date),
                        coalesce(visit_end_datetime, visit_end_date),
                        visit_occurrence_id
           ) AS previous_id
    FROM visit_occurrence
    WHERE person_id IN (SELECT person_id FROM touched_person WHERE run_no = %(run_no)s)
) AS ordered
WHERE v.visit_occurrence_id = ordered.visit_occurrence_id
  AND v.preceding_visit_occurrence_id IS DISTINCT FROM ordered.previous_id
