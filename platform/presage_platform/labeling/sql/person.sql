-- labeling/sql/person.sql: birth, sex and origin of every person; no names, no identifiers.
-- why:     age and sex are the covariates of every baseline
-- returns: one row a person: person_id, birth_date, concepts, home site
SELECT p.person_id,
       COALESCE(p.birth_datetime::date,
                make_date(p.year_of_birth, COALESCE(p.month_of_birth, 1), COALESCE(p.day_of_birth, 1))) AS birth_date,
       p.gender_concept_id::bigint AS gender_concept_id,
       p.race_concept_id::bigint AS race_concept_id,
       p.ethnicity_concept_id::bigint AS ethnicity_concept_id,
       COALESCE(s.care_site_name, s.care_site_source_value, p.care_site_id::text)::text AS site
FROM person AS p
LEFT JOIN care_site AS s ON s.care_site_id = p.care_site_id
ORDER BY p.person_id
