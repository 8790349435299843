-- borrowed_dates.sql: observations dated by the person's last visit or last event (E46, E48).
-- params:  run_no bigint
-- why:     the date is the same in whatever order Patient and visits arrive
WITH borrowing AS (
    SELECT b.observation_id, b.person_id, o.date_source
    FROM observation AS b
    JOIN origin AS o ON o.table_no = 10 AND o.row_id = b.observation_id AND o.date_source ~ '^@'
    WHERE b.person_id IN (SELECT person_id FROM touched_person WHERE run_no = %(run_no)s)
),
last_visit AS (
    SELECT v.person_id, max(v.visit_start_date) AS day
    FROM visit_occurrence AS v
    WHERE v.person_id IN (SELECT person_id FROM borrowing)
    GROUP BY v.person_id
),
last_event AS (
    SELECT e.person_id, max(e.day) AS day
    FROM (
        SELECT person_id, visit_start_date AS day FROM visit_occurrence
        UNION ALL
        SELECT person_id, condition_start_date FROM condition_occurrence
        UNION ALL
        SELECT person_id, drug_exposure_start_date FROM drug_exposure
        UNION ALL
        SELECT person_id, procedure_date FROM procedure_occurrence
        UNION ALL
        SELECT person_id, device_exposure_start_date FROM device_exposure
        UNION ALL
        SELECT person_id, measurement_date FROM measurement
        UNION ALL
        SELECT person_id, observation_date
        FROM observation
        WHERE observation_id NOT IN (SELECT observation_id FROM borrowing)
    ) AS e
    WHERE e.person_id IN (SELECT person_id FROM borrowing WHERE date_source = '@last-event')
    GROUP BY e.person_id
)
UPDATE observation AS b
SET observation_date = found.day
FROM (
    SELECT w.observation_id,
           CASE WHEN w.date_source = '@last-event' THEN e.day ELSE v.day END AS day
    FROM borrowing AS w
    LEFT JOIN last_visit AS v ON v.person_id = w.person_id
    LEFT JOIN last_event AS e ON e.person_id = w.person_id
) AS found
WHERE b.observation_id = found.observation_id AND b.observation_date <> found.day
