-- labeling/sql/linked_study.sql: studies that belong to a person, with every time that could be their index time.
-- why:     t0 is when the image was acquired; the series that represents the study says so, the procedure is the fallback
-- returns: one row a linked study with a usable series (rank 1); times in seconds of the declared zone's wall clock
SELECT DISTINCT ON (l.study_id)
       l.study_id,
       l.person_id,
       floor(extract(epoch FROM s.image_dt))::bigint AS image_s,
       s.image_dt_source,
       s.image_dt_precision,
       floor(extract(epoch FROM CAST(s.image_dates ->> 'acquisition_dt' AS timestamp)))::bigint AS acquisition_s,
       floor(extract(epoch FROM CAST(s.image_dates ->> 'content_dt' AS timestamp)))::bigint AS content_s,
       floor(extract(epoch FROM CAST(s.image_dates ->> 'series_dt' AS timestamp)))::bigint AS series_s,
       floor(extract(epoch FROM CAST(s.image_dates ->> 'study_dt' AS timestamp)))::bigint AS study_s,
       floor(extract(epoch FROM p.procedure_datetime))::bigint AS procedure_s,
       extract(epoch FROM p.procedure_date)::bigint AS procedure_day_s,
       s.manufacturer,
       s.kernel_class,
       s.slice_thickness_mm,
       s.contrast
FROM study_link AS l
JOIN image_series AS s ON s.study_id = l.study_id AND s.rank = 1 AND NOT s.stale
LEFT JOIN procedure_occurrence AS p ON p.procedure_occurrence_id = l.procedure_occurrence_id
ORDER BY l.study_id, s.series_key
