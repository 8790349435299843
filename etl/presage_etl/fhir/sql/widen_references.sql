-- widen_references.sql: persons, providers and care sites of Encounters that change because a relative came.
-- params:  source_no smallint
-- needs:   place, encounter, ref_person, ref_provider, ref_care_site
INSERT INTO ref_person (key, row_id)
SELECT DISTINCT e.person_key, coalesce(v.person_id, d.person_id)
FROM place AS p
JOIN encounter AS e ON e.resource_no = p.resource_no
LEFT JOIN origin AS ov ON ov.resource_no = p.resource_no AND ov.table_no = 3 AND ov.slot = 'main'
LEFT JOIN visit_occurrence AS v ON v.visit_occurrence_id = ov.row_id
LEFT JOIN origin AS od ON od.resource_no = p.resource_no AND od.table_no = 4 AND od.slot = 'main'
LEFT JOIN visit_detail AS d ON d.visit_detail_id = od.row_id
WHERE coalesce(v.person_id, d.person_id) IS NOT NULL
  AND NOT EXISTS (SELECT FROM ref_person AS r WHERE r.key = e.person_key);

INSERT INTO ref_provider (key, row_id)
SELECT DISTINCT e.provider_key, o.row_id
FROM place AS p
JOIN encounter AS e ON e.resource_no = p.resource_no
JOIN resource AS r
  ON r.source_no = %(source_no)s
 AND r.resource_type = split_part(e.provider_key, '/', 1)
 AND r.resource_id = split_part(e.provider_key, '/', 2)
JOIN origin AS o ON o.resource_no = r.resource_no AND o.table_no = 18 AND o.slot = 'main'
WHERE NOT EXISTS (SELECT FROM ref_provider AS f WHERE f.key = e.provider_key);

INSERT INTO ref_care_site (key, row_id)
SELECT DISTINCT e.care_site_key, o.row_id
FROM place AS p
JOIN encounter AS e ON e.resource_no = p.resource_no
JOIN resource AS r
  ON r.source_no = %(source_no)s
 AND r.resource_type = split_part(e.care_site_key, '/', 1)
 AND r.resource_id = split_part(e.care_site_key, '/', 2)
JOIN origin AS o ON o.resource_no = r.resource_no AND o.table_no = 17 AND o.slot IN ('main', 'site')
WHERE NOT EXISTS (SELECT FROM ref_care_site AS f WHERE f.key = e.care_site_key)
