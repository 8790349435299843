-- want_visits.sql: the visits that the placed Encounters make, before their ids are known (E49, E53).
-- needs:   place, joined_root, encounter, ref_person, ref_provider, ref_care_site
-- makes:   want_visit_occurrence, shaped as the CDM table plus resource_no, slot and provenance
CREATE TEMP TABLE want_visit_occurrence ON COMMIT DROP AS
SELECT e.resource_no,
       CAST('main' AS text) AS slot,
       rp.row_id AS person_id,
       CASE WHEN j.resource_no IS NULL THEN e.concept_id ELSE 262 END AS visit_concept_id,
       coalesce(j.start_date, e.start_date) AS visit_start_date,
       coalesce(j.start_datetime, e.start_datetime) AS visit_start_datetime,
       coalesce(j.end_date, e.end_date) AS visit_end_date,
       coalesce(j.end_datetime, e.end_datetime) AS visit_end_datetime,
       e.type_concept_id AS visit_type_concept_id,
       pr.row_id AS provider_id,
       cs.row_id AS care_site_id,
       e.source_value AS visit_source_value,
       e.source_concept_id AS visit_source_concept_id,
       e.admitted_from_concept_id,
       e.admitted_from_source_value,
       e.discharged_to_concept_id,
       e.discharged_to_source_value,
       e.rule,
       e.date_source,
       e.imputed,
       CASE WHEN j.resource_no IS NOT NULL THEN 'merged' END AS flags
FROM place AS p
JOIN encounter AS e ON e.resource_no = p.resource_no AND e.slot = 'main'
JOIN ref_person AS rp ON rp.key = e.person_key
LEFT JOIN joined_root AS j ON j.resource_no = p.resource_no
LEFT JOIN ref_provider AS pr ON pr.key = e.provider_key
LEFT JOIN ref_care_site AS cs ON cs.key = e.care_site_key
WHERE p.resource_no = p.root_no
