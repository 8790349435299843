-- gone_persons.sql: persons whose Patient was deleted, withdrawn, or replaced by another one.
-- needs:   kept, ids_person, ref_person
-- makes:   gone_person (person_id, resource_no, wanted_key, heir_id: the other person, if there is one)
CREATE TEMP TABLE gone_person ON COMMIT DROP AS
SELECT o.row_id AS person_id, o.resource_no, 'Patient/' || k.resource_id AS wanted_key, p.row_id AS heir_id
FROM kept AS k
JOIN origin AS o ON o.resource_no = k.resource_no AND o.table_no = 1
LEFT JOIN ref_person AS p ON p.key = 'Patient/' || k.resource_id AND p.row_id <> o.row_id
WHERE NOT k.is_new AND NOT EXISTS (SELECT FROM ids_person AS i WHERE i.row_id = o.row_id)
