-- encounter_starts.sql: when each Encounter that events name began, the last resort for their dates (E43).
-- needs:   found
-- makes:   encounter_start (key, start_date, start_datetime)
CREATE TEMP TABLE encounter_start ON COMMIT DROP AS
SELECT f.key,
       coalesce(v.visit_start_date, d.visit_detail_start_date, e.start_date) AS start_date,
       coalesce(v.visit_start_datetime, d.visit_detail_start_datetime, e.start_datetime) AS start_datetime
FROM found AS f
LEFT JOIN stage_visit_occurrence AS v ON v.stage_no = f.stage_no AND v.slot = 'main'
LEFT JOIN stage_visit_detail AS d ON d.stage_no = f.stage_no AND d.slot = 'main'
LEFT JOIN encounter AS e ON f.stage_no IS NULL AND e.resource_no = f.held_no AND e.slot = 'main'
WHERE f.resource_type = 'Encounter'
