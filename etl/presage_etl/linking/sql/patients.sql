-- linking/sql/patients.sql: the person behind each Patient resource that a key could name.
-- why:     merged records lead to the surviving person, so that chains of replaced patients are followed to their end
-- params:  ids text[], logical ids of Patients
--          keys text[], keyed hashes
-- returns: one row a (resource, identifier): id, hash, system, validity, person; without identifier for hits by id only
WITH RECURSIVE named AS (
    SELECT r.resource_no, r.source_no, r.resource_id
    FROM resource AS r
    WHERE r.resource_type = 'Patient' AND r.state = 'loaded'
      AND (r.resource_id = ANY (%(ids)s)
           OR EXISTS (SELECT 1 FROM identifier AS i
                      WHERE i.resource_no = r.resource_no AND i.value_hmac = ANY (%(keys)s)))
),
chain AS (
    SELECT n.resource_no AS first_no, n.resource_no, n.source_no, 0 AS depth
    FROM named AS n
    UNION ALL
    SELECT c.first_no, t.resource_no, t.source_no, c.depth + 1
    FROM chain AS c
    JOIN person_alias AS a ON a.resource_no = c.resource_no
    JOIN resource AS t ON t.source_no = c.source_no AND t.resource_type = 'Patient' AND t.state = 'loaded'
                      AND a.target_key = 'Patient/' || t.resource_id
    WHERE c.depth < 16
),
person_of AS (
    SELECT DISTINCT ON (c.first_no) c.first_no, o.row_id AS person_id
    FROM chain AS c
    JOIN origin AS o ON o.resource_no = c.resource_no AND o.table_no = 1
    ORDER BY c.first_no, c.depth DESC, o.row_id
)
SELECT n.resource_id, i.value_hmac, i.system, i.period_start, i.period_end, p.person_id
FROM named AS n
JOIN person_of AS p ON p.first_no = n.resource_no
LEFT JOIN identifier AS i ON i.resource_no = n.resource_no AND i.value_hmac = ANY (%(keys)s)
ORDER BY p.person_id, n.resource_no, i.ordinal
