-- linking/sql/series.sql: the DICOM series of linked studies.
-- why:     image_occurrence has one row a series, split or not, chosen or not, rejected or not
-- params:  ids bigint[], studies
-- returns: one row a series with a UID: its best candidate's key, modality and first date
SELECT DISTINCT ON (i.series_uid)
       i.study_id, i.study_uid, i.series_uid, i.series_key, i.modality, i.image_dt, i.image_dates
FROM image_series AS i
WHERE i.study_id = ANY (%(ids)s) AND i.series_uid <> ''
ORDER BY i.series_uid, i.study_id, i.rank NULLS LAST, i.series_key
