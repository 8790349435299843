-- derive/drug_era.sql: spans of a person under one ingredient; gaps of 30 days and fewer are bridged (E86).
-- why:     a clinical drug counts for each of its standard ingredients; gap_days are the days of an era on which no
--          exposure lies, so each exposure adds the days that none before it covered
-- params:  run_no bigint, persons touched by that run; last_id bigint, highest id in use
-- makes:   the rows of drug_era for those persons, none without ingredients in concept_ancestor: then a note of the run
CREATE TEMP TABLE ingredient ON COMMIT DROP AS
WITH used AS (
    SELECT DISTINCT d.drug_concept_id
    FROM drug_exposure AS d
    JOIN touched_person AS t ON t.person_id = d.person_id AND t.run_no = %(run_no)s
)
SELECT u.drug_concept_id, a.ancestor_concept_id AS concept_id
FROM used AS u
JOIN concept_ancestor AS a ON a.descendant_concept_id = u.drug_concept_id
JOIN concept AS c ON c.concept_id = a.ancestor_concept_id
WHERE c.concept_class_id = 'Ingredient' AND c.standard_concept = 'S'
  AND c.vocabulary_id IN ('RxNorm', 'RxNorm Extension');

ANALYZE ingredient;

INSERT INTO run_note (run_no, resource_type, kind, element, detail, count)
SELECT %(run_no)s, '', 'no-ingredient-ancestors', 'drug_era', 'the vocabulary leads from no drug to its ingredient',
       count(*)
FROM drug_exposure AS d
JOIN touched_person AS t ON t.person_id = d.person_id AND t.run_no = %(run_no)s
WHERE NOT EXISTS (SELECT FROM ingredient)
HAVING count(*) > 0
ON CONFLICT DO NOTHING;

CREATE TEMP TABLE drug_span ON COMMIT DROP AS
WITH exposure AS (
    SELECT d.person_id,
           i.concept_id,
           d.drug_exposure_start_date AS first_day,
           greatest(d.drug_exposure_end_date, d.drug_exposure_start_date) AS last_day
    FROM drug_exposure AS d
    JOIN touched_person AS t ON t.person_id = d.person_id AND t.run_no = %(run_no)s
    JOIN ingredient AS i ON i.drug_concept_id = d.drug_concept_id
),
followed AS (
    SELECT *,
           max(last_day) OVER (
               PARTITION BY person_id, concept_id ORDER BY first_day, last_day
               ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
           ) AS so_far
    FROM exposure
),
numbered AS (
    SELECT *,
           greatest(last_day - greatest(first_day, coalesce(so_far + 1, first_day)) + 1, 0) AS fresh_days,
           count(*) FILTER (WHERE so_far IS NULL OR first_day > so_far + 30) OVER (
               PARTITION BY person_id, concept_id ORDER BY first_day, last_day
               ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
           ) AS place
    FROM followed
)
SELECT person_id, concept_id, place, min(first_day) AS start_date, max(last_day) AS end_date, count(*) AS exposures,
       max(last_day) - min(first_day) + 1 - sum(fresh_days) AS gap_days
FROM numbered
GROUP BY person_id, concept_id, place;

CREATE TEMP TABLE drug_era_change ON COMMIT DROP AS
WITH held AS (
    SELECT e.drug_era_id, e.person_id, e.drug_concept_id AS concept_id,
           row_number() OVER (PARTITION BY e.person_id, e.drug_concept_id ORDER BY e.drug_era_start_date) AS place
    FROM drug_era AS e
    JOIN touched_person AS t ON t.person_id = e.person_id AND t.run_no = %(run_no)s
)
SELECT s.*,
       h.drug_era_id AS held_id,
       CASE
           WHEN h.drug_era_id IS NULL THEN CAST(%(last_id)s AS bigint) + row_number() OVER (
               PARTITION BY h.drug_era_id IS NULL ORDER BY s.person_id, s.concept_id, s.place
           )
       END AS fresh_id
FROM drug_span AS s
FULL JOIN held AS h USING (person_id, concept_id, place);

DELETE FROM drug_era WHERE drug_era_id IN (SELECT held_id FROM drug_era_change WHERE start_date IS NULL);

UPDATE drug_era AS e
SET drug_era_start_date = c.start_date, drug_era_end_date = c.end_date, drug_exposure_count = c.exposures,
    gap_days = c.gap_days
FROM drug_era_change AS c
WHERE e.drug_era_id = c.held_id
  AND (e.drug_era_start_date, e.drug_era_end_date, e.drug_exposure_count, e.gap_days)
      IS DISTINCT FROM (c.start_date, c.end_date, c.exposures, c.gap_days);

INSERT INTO drug_era (
    drug_era_id, person_id, drug_concept_id, drug_era_start_date, drug_era_end_date, drug_exposure_count, gap_days
)
SELECT fresh_id, person_id, concept_id, start_date, end_date, exposures, gap_days
FROM drug_era_change
WHERE fresh_id IS NOT NULL AND start_date IS NOT NULL
