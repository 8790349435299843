-- remove_persons.sql: the persons of gone_person and what was derived for them.
-- needs:   gone_person
DELETE FROM observation_period AS t USING gone_person AS g WHERE t.person_id = g.person_id;

DELETE FROM condition_era AS t USING gone_person AS g WHERE t.person_id = g.person_id;

DELETE FROM drug_era AS t USING gone_person AS g WHERE t.person_id = g.person_id;

DELETE FROM touched_person AS t USING gone_person AS g WHERE t.person_id = g.person_id;

DELETE FROM origin AS o USING gone_person AS g WHERE o.table_no IN (1, 11) AND o.row_id = g.person_id;

DELETE FROM person AS t USING gone_person AS g WHERE t.person_id = g.person_id
