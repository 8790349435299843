-- births.sql: birth dates of the persons whose events are dated by age (E54); an absent month or day counts as 1.
-- needs:   found
-- makes:   birth (key, birth_date)
CREATE TEMP TABLE birth ON COMMIT DROP AS
SELECT f.key,
       make_date(
           coalesce(s.year_of_birth, p.year_of_birth),
           coalesce(s.month_of_birth, p.month_of_birth, 1),
           coalesce(s.day_of_birth, p.day_of_birth, 1)
       ) AS birth_date
FROM found AS f
LEFT JOIN stage_person AS s ON s.stage_no = f.stage_no AND s.slot = 'main'
LEFT JOIN origin AS o ON f.stage_no IS NULL AND o.resource_no = f.held_no AND o.table_no = 1 AND o.slot = 'main'
LEFT JOIN person AS p ON p.person_id = o.row_id
WHERE f.resource_type = 'Patient' AND (s.stage_no IS NOT NULL OR p.person_id IS NOT NULL)
