-- moves.sql: Encounters that stand elsewhere than before the merge; those that went lead nowhere.
-- needs:   old_place
-- makes:   move (old_visit, old_detail, new_visit, new_detail)
CREATE TEMP TABLE move ON COMMIT DROP AS
SELECT p.resource_no,
       p.visit_occurrence_id AS old_visit,
       p.visit_detail_id AS old_detail,
       coalesce(d.visit_occurrence_id, ov.row_id) AS new_visit,
       od.row_id AS new_detail
FROM old_place AS p
LEFT JOIN origin AS ov ON ov.resource_no = p.resource_no AND ov.table_no = 3 AND ov.slot = 'main'
LEFT JOIN origin AS od ON od.resource_no = p.resource_no AND od.table_no = 4 AND od.slot = 'main'
LEFT JOIN visit_detail AS d ON d.visit_detail_id = od.row_id
WHERE p.visit_occurrence_id IS NOT NULL
  AND (p.visit_occurrence_id, p.visit_detail_id)
      IS DISTINCT FROM (coalesce(d.visit_occurrence_id, ov.row_id), od.row_id)
