-- labeling/sql/visit.sql: visits with both ends in seconds, a bare date covering its whole day.
-- why:     the visit that holds a scan guards against billing codes of the same stay
-- returns: one row a visit; *_moment_s is null where only the date is known
SELECT v.visit_occurrence_id,
       v.person_id,
       v.visit_concept_id::bigint AS concept,
       extract(epoch FROM v.visit_start_date)::bigint AS start_day_s,
       extract(epoch FROM COALESCE(v.visit_end_date, v.visit_start_date))::bigint AS end_day_s,
       CASE WHEN isfinite(v.visit_start_datetime) THEN floor(extract(epoch FROM v.visit_start_datetime))::bigint END
           AS start_moment_s,
       CASE WHEN isfinite(v.visit_end_datetime) THEN floor(extract(epoch FROM v.visit_end_datetime))::bigint END
           AS end_moment_s,
       COALESCE(s.care_site_name, s.care_site_source_value, v.care_site_id::text)::text AS site
FROM visit_occurrence AS v
LEFT JOIN care_site AS s ON s.care_site_id = v.care_site_id
WHERE isfinite(v.visit_start_date) AND isfinite(COALESCE(v.visit_end_date, v.visit_start_date))
ORDER BY v.person_id, v.visit_occurrence_id
