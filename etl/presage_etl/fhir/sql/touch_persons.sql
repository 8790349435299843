-- touch_persons.sql: persons with a row that this run wrote: what is derived for them is computed again (E83).
-- params:  run_no bigint
-- needs:   kept, wanted persons in ref_person
INSERT INTO touched_person (run_no, person_id)
SELECT DISTINCT %(run_no)s::bigint, row_id FROM ref_person
UNION
SELECT %(run_no)s::bigint, o.row_id
FROM origin AS o
JOIN kept AS k ON k.resource_no = o.resource_no
WHERE o.table_no = 1
ON CONFLICT DO NOTHING
