-- ref_visits.sql: the visit, and for a part of a visit the detail, of each Encounter that is named (E43).
-- needs:   located (key, resource_type, resource_no)
-- makes:   ref_visit (key, visit_occurrence_id, visit_detail_id)
CREATE TEMP TABLE ref_visit ON COMMIT DROP AS
SELECT l.key,
       coalesce(d.visit_occurrence_id, ov.row_id) AS visit_occurrence_id,
       od.row_id AS visit_detail_id
FROM located AS l
LEFT JOIN origin AS ov ON ov.resource_no = l.resource_no AND ov.table_no = 3 AND ov.slot = 'main'
LEFT JOIN origin AS od ON od.resource_no = l.resource_no AND od.table_no = 4 AND od.slot = 'main'
LEFT JOIN visit_detail AS d ON d.visit_detail_id = od.row_id
WHERE l.resource_type = 'Encounter' AND (ov.row_id IS NOT NULL OR od.row_id IS NOT NULL)
