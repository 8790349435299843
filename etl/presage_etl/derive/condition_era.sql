-- derive/condition_era.sql: spans of one condition of a person; gaps of 30 days and fewer are bridged (E85).
-- why:     an occurrence ends at its end, else at its start; the next one joins when it starts no later than 30 days
--          after the latest end so far: one running maximum over one sort
-- params:  run_no bigint, persons touched by that run; last_id bigint, highest id in use
-- makes:   the rows of condition_era for those persons; an era keeps its id while it keeps its place
CREATE TEMP TABLE condition_span ON COMMIT DROP AS
WITH occurrence AS (
    SELECT c.person_id,
           c.condition_concept_id AS concept_id,
           c.condition_start_date AS first_day,
           coalesce(c.condition_end_date, c.condition_start_date) AS last_day
    FROM condition_occurrence AS c
    JOIN touched_person AS t ON t.person_id = c.person_id AND t.run_no = %(run_no)s
    WHERE c.condition_concept_id <> 0
),
followed AS (
    SELECT *,
           max(last_day) OVER (
               PARTITION BY person_id, concept_id ORDER BY first_day, last_day
               ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
           ) AS so_far
    FROM occurrence
),
numbered AS (
    SELECT *,
           count(*) FILTER (WHERE so_far IS NULL OR first_day > so_far + 30) OVER (
               PARTITION BY person_id, concept_id ORDER BY first_day, last_day
               ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
           ) AS place
    FROM followed
)
SELECT person_id, concept_id, place, min(first_day) AS start_date, max(last_day) AS end_date, count(*) AS occurrences
FROM numbered
GROUP BY person_id, concept_id, place;

CREATE TEMP TABLE condition_era_change ON COMMIT DROP AS
WITH held AS (
    SELECT e.condition_era_id, e.person_id, e.condition_concept_id AS concept_id,
           row_number() OVER (
               PARTITION BY e.person_id, e.condition_concept_id ORDER BY e.condition_era_start_date
           ) AS place
    FROM condition_era AS e
    JOIN touched_person AS t ON t.person_id = e.person_id AND t.run_no = %(run_no)s
)
SELECT s.*,
       h.condition_era_id AS held_id,
       CASE
           WHEN h.condition_era_id IS NULL THEN CAST(%(last_id)s AS bigint) + row_number() OVER (
               PARTITION BY h.condition_era_id IS NULL ORDER BY s.person_id, s.concept_id, s.place
           )
       END AS fresh_id
FROM condition_span AS s
FULL JOIN held AS h USING (person_id, concept_id, place);

DELETE FROM condition_era WHERE condition_era_id IN (SELECT held_id FROM condition_era_change WHERE start_date IS NULL);

UPDATE condition_era AS e
SET condition_era_start_date = c.start_date, condition_era_end_date = c.end_date,
    condition_occurrence_count = c.occurrences
FROM condition_era_change AS c
WHERE e.condition_era_id = c.held_id
  AND (e.condition_era_start_date, e.condition_era_end_date, e.condition_occurrence_count)
      IS DISTINCT FROM (c.start_date, c.end_date, c.occurrences);

INSERT INTO condition_era (
    condition_era_id, person_id, condition_concept_id, condition_era_start_date, condition_era_end_date,
    condition_occurrence_count
)
SELECT fresh_id, person_id, concept_id, start_date, end_date, occurrences
FROM condition_era_change
WHERE fresh_id IS NOT NULL AND start_date IS NOT NULL
