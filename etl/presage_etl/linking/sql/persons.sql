-- linking/sql/persons.sql: what of a person an image can contradict.
-- why:     sex, birth and death show that a key leads to the wrong person
-- params:  ids bigint[], persons
-- returns: one row a person
SELECT p.person_id, p.gender_concept_id, p.year_of_birth, p.month_of_birth, p.day_of_birth,
       (SELECT min(d.death_date) FROM death AS d WHERE d.person_id = p.person_id) AS death_date
FROM person AS p
WHERE p.person_id = ANY (%(ids)s)
