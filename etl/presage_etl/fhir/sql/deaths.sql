-- deaths.sql: which staged death stands for each person; a death already held from another resource stays (E48).
-- needs:   kept, ref_person
-- makes:   ids_death, whose row_id is the person
CREATE TEMP TABLE ids_death ON COMMIT DROP AS
SELECT DISTINCT ON (p.row_id)
       s.stage_no, s.slot, k.resource_no, o.row_id IS NULL AS is_new, p.row_id
FROM stage_death AS s
JOIN kept AS k ON k.stage_no = s.stage_no AND k.state = 'loaded'
JOIN ref_person AS p ON p.key = s.person_id
LEFT JOIN origin AS o ON o.table_no = 11 AND o.row_id = p.row_id
WHERE o.row_id IS NULL OR o.resource_no = k.resource_no
ORDER BY p.row_id, s.death_date, k.resource_no
