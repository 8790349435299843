-- labeling/sql/touched_since.sql: persons with a changed row in a later run.
-- params:  run_no bigint
-- returns: one row a person
SELECT DISTINCT person_id FROM touched_person WHERE run_no > CAST(%(run_no)s AS bigint) ORDER BY person_id
