-- write_encounters.sql: the Encounters of this run as they came, from which visits and details are worked out (E52).
-- params:  source_no smallint
-- needs:   kept
DELETE FROM encounter
WHERE resource_no IN (SELECT held_no FROM kept WHERE resource_type = 'Encounter' AND NOT is_new);

INSERT INTO encounter
SELECT k.resource_no, s.slot, %(source_no)s, s.person_id, NULL,
       s.visit_concept_id, s.visit_start_date, s.visit_start_datetime, s.visit_end_date, s.visit_end_datetime,
       s.visit_type_concept_id, s.visit_source_value, s.visit_source_concept_id,
       s.admitted_from_concept_id, s.admitted_from_source_value,
       s.discharged_to_concept_id, s.discharged_to_source_value,
       s.provider_id, s.care_site_id, s.rule, s.date_source, s.imputed
FROM stage_visit_occurrence AS s
JOIN kept AS k ON k.stage_no = s.stage_no
UNION ALL
SELECT k.resource_no, s.slot, %(source_no)s, s.person_id, CASE WHEN s.slot = 'main' THEN s.part_of END,
       s.visit_detail_concept_id, s.visit_detail_start_date, s.visit_detail_start_datetime,
       s.visit_detail_end_date, s.visit_detail_end_datetime,
       s.visit_detail_type_concept_id, s.visit_detail_source_value, s.visit_detail_source_concept_id,
       s.admitted_from_concept_id, s.admitted_from_source_value,
       s.discharged_to_concept_id, s.discharged_to_source_value,
       s.provider_id, s.care_site_id, s.rule, s.date_source, s.imputed
FROM stage_visit_detail AS s
JOIN kept AS k ON k.stage_no = s.stage_no
