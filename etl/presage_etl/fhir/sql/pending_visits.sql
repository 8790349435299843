-- pending_visits.sql: providers and care sites that visits and details wait for (E20).
-- params:  source_no smallint
-- needs:   place, ids_visit_occurrence, ids_visit_detail, ref_provider, ref_care_site
DELETE FROM pending_reference AS p
USING (
    SELECT 3 AS table_no, row_id FROM ids_visit_occurrence
    UNION ALL
    SELECT 4, row_id FROM ids_visit_detail
) AS i
WHERE p.table_no = i.table_no AND p.row_id = i.row_id;

INSERT INTO pending_reference (table_no, row_id, column_name, source_no, wanted_key)
SELECT i.table_no, i.row_id, w.column_name, %(source_no)s, w.key
FROM (
    SELECT 3 AS table_no, resource_no, slot, row_id FROM ids_visit_occurrence
    UNION ALL
    SELECT 4, resource_no, slot, row_id FROM ids_visit_detail
) AS i
JOIN encounter AS e ON e.resource_no = i.resource_no AND e.slot = i.slot
CROSS JOIN LATERAL (
    VALUES ('provider_id', e.provider_key), ('care_site_id', e.care_site_key)
) AS w (column_name, key)
WHERE w.key IS NOT NULL
  AND NOT EXISTS (SELECT FROM ref_provider AS r WHERE r.key = w.key)
  AND NOT EXISTS (SELECT FROM ref_care_site AS r WHERE r.key = w.key)
