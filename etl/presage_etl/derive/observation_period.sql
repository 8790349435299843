-- derive/observation_period.sql: the span of time in which each person was observed (E84).
-- why:     first to last recorded day; with a gap, a new period after that many days without an event
-- params:  run_no bigint, persons touched by that run; extracted_on date, the last day that counts;
--          gap_days integer or NULL; last_id bigint, highest id in use
-- makes:   period_change (what, rows), and the rows of observation_period for those persons
CREATE TEMP TABLE event_day ON COMMIT DROP AS
WITH touched AS (SELECT person_id FROM touched_person WHERE run_no = %(run_no)s),
linked AS (SELECT row_id FROM origin WHERE table_no = 7 AND flags = 'synthetic')
SELECT person_id, visit_start_date AS first_day, visit_end_date AS last_day
FROM visit_occurrence JOIN touched USING (person_id)
UNION ALL
SELECT person_id, visit_detail_start_date, visit_detail_end_date FROM visit_detail JOIN touched USING (person_id)
UNION ALL
SELECT person_id, condition_start_date, condition_start_date FROM condition_occurrence JOIN touched USING (person_id)
UNION ALL
SELECT person_id, drug_exposure_start_date, drug_exposure_start_date FROM drug_exposure JOIN touched USING (person_id)
UNION ALL
SELECT person_id, procedure_date, procedure_date
FROM procedure_occurrence JOIN touched USING (person_id)
WHERE procedure_occurrence_id NOT IN (SELECT row_id FROM linked)
UNION ALL
SELECT person_id, min(measurement_date), max(measurement_date)
FROM measurement JOIN touched USING (person_id)
WHERE CAST(%(gap_days)s AS integer) IS NULL
GROUP BY person_id
UNION ALL
SELECT person_id, measurement_date, measurement_date
FROM measurement JOIN touched USING (person_id)
WHERE CAST(%(gap_days)s AS integer) IS NOT NULL
UNION ALL
SELECT person_id, observation_date, observation_date FROM observation JOIN touched USING (person_id)
UNION ALL
SELECT person_id, device_exposure_start_date, device_exposure_start_date
FROM device_exposure JOIN touched USING (person_id)
UNION ALL
SELECT person_id, note_date, note_date FROM note JOIN touched USING (person_id)
UNION ALL
SELECT person_id, specimen_date, specimen_date FROM specimen JOIN touched USING (person_id)
UNION ALL
SELECT person_id, death_date, death_date FROM death JOIN touched USING (person_id);

CREATE TEMP TABLE period ON COMMIT DROP AS
WITH clipped AS (
    SELECT e.person_id,
           greatest(e.first_day, make_date(p.year_of_birth, 1, 1)) AS first_day,
           least(greatest(e.last_day, e.first_day), CAST(%(extracted_on)s AS date)) AS last_day
    FROM event_day AS e
    JOIN person AS p USING (person_id)
),
marked AS (
    SELECT *,
           CASE
               WHEN first_day - max(last_day) OVER (
                   PARTITION BY person_id ORDER BY first_day, last_day
                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
               ) > CAST(%(gap_days)s AS integer) THEN 1
               ELSE 0
           END AS is_new
    FROM clipped
    WHERE first_day <= last_day
),
numbered AS (
    SELECT *, sum(is_new) OVER (PARTITION BY person_id ORDER BY first_day, last_day) AS place FROM marked
)
SELECT person_id, place, min(first_day) AS start_date, max(last_day) AS end_date
FROM numbered
GROUP BY person_id, place;

CREATE TEMP TABLE numbered_period ON COMMIT DROP AS
WITH held AS (
    SELECT o.observation_period_id,
           o.person_id,
           row_number() OVER (PARTITION BY o.person_id ORDER BY o.observation_period_start_date) - 1 AS place
    FROM observation_period AS o
    WHERE o.person_id IN (SELECT person_id FROM touched_person WHERE run_no = %(run_no)s)
)
SELECT p.*,
       h.person_id AS held_person,
       h.observation_period_id AS held_id,
       CASE
           WHEN h.observation_period_id IS NULL THEN CAST(%(last_id)s AS bigint) + row_number() OVER (
               PARTITION BY h.observation_period_id IS NULL ORDER BY p.person_id, p.place
           )
       END AS fresh_id
FROM period AS p
FULL JOIN held AS h ON h.person_id = p.person_id AND h.place = p.place;

DELETE FROM observation_period
WHERE observation_period_id IN (SELECT held_id FROM numbered_period WHERE person_id IS NULL);

UPDATE observation_period AS o
SET observation_period_start_date = n.start_date, observation_period_end_date = n.end_date
FROM numbered_period AS n
WHERE o.observation_period_id = n.held_id
  AND (o.observation_period_start_date, o.observation_period_end_date) IS DISTINCT FROM (n.start_date, n.end_date);

INSERT INTO observation_period (
    observation_period_id, person_id, observation_period_start_date, observation_period_end_date, period_type_concept_id
)
SELECT fresh_id, person_id, start_date, end_date, 32882
FROM numbered_period
WHERE fresh_id IS NOT NULL AND person_id IS NOT NULL
