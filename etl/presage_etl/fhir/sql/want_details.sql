-- want_details.sql: the visit details: Encounters that are part of another one, and stays at locations (E52, E53).
-- needs:   place, joined_root, encounter, ref_person, ref_provider, ref_care_site, ids_visit_occurrence
-- makes:   want_visit_detail, shaped as the CDM table plus resource_no, slot, parent_no and provenance
CREATE TEMP TABLE want_visit_detail ON COMMIT DROP AS
SELECT e.resource_no,
       e.slot,
       rp.row_id AS person_id,
       e.concept_id AS visit_detail_concept_id,
       e.start_date AS visit_detail_start_date,
       e.start_datetime AS visit_detail_start_datetime,
       e.end_date AS visit_detail_end_date,
       e.end_datetime AS visit_detail_end_datetime,
       e.type_concept_id AS visit_detail_type_concept_id,
       pr.row_id AS provider_id,
       cs.row_id AS care_site_id,
       e.source_value AS visit_detail_source_value,
       e.source_concept_id AS visit_detail_source_concept_id,
       e.admitted_from_concept_id,
       e.admitted_from_source_value,
       e.discharged_to_source_value,
       e.discharged_to_concept_id,
       v.row_id AS visit_occurrence_id,
       -- a stay lies in its own Encounter, an Encounter in the one it is part of
       CASE WHEN e.slot = 'main' THEN p.parent_no ELSE p.resource_no END AS parent_no,
       e.rule,
       e.date_source,
       e.imputed,
       CAST(NULL AS text) AS flags
FROM place AS p
JOIN encounter AS e ON e.resource_no = p.resource_no
JOIN ref_person AS rp ON rp.key = e.person_key
JOIN ids_visit_occurrence AS v ON v.resource_no = p.root_no
LEFT JOIN joined_root AS j ON j.resource_no = p.resource_no
LEFT JOIN ref_provider AS pr ON pr.key = e.provider_key
LEFT JOIN ref_care_site AS cs ON cs.key = e.care_site_key
WHERE e.slot <> 'main' OR p.resource_no <> p.root_no OR j.resource_no IS NOT NULL
