-- linking/sql/series.sql: the DICOM series of linked studies.
-- why:     image_occurrence has one row a series, split or not, chosen or not, rejected or not
-- params:  ids bigint[], studies
-- returns: one row a series with a UID: its best candidate's key, modality and first date
SELECT DISTINCT ON (i.series_uid)
       i.study_id, i.study_uid, i.series_uid, i.series_key, i.modality, i.image_dt,
       (i.attributes ->> 'tz_offset_min')::integer AS tz_offset_min
FROM image_series AS i
WHERE i.study_id = ANY (%(ids)s)
  -- a series without a UID of its own has no row: a derived UID would join to nothing
  AND NOT (i.series_uid LIKE '2.25.%%' AND EXISTS (
      SELECT 1 FROM jsonb_array_elements_text(i.reasons) AS r (reason) WHERE r.reason LIKE 'missing_uid%%'))
ORDER BY i.series_uid, i.study_id, i.rank NULLS LAST, i.series_key
