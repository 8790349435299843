-- linking/sql/known_images.sql: image_occurrence rows of these series, whoever made them.
-- why:     a series is never doubled
-- params:  uids text[], DICOM UIDs
-- returns: one row a series
SELECT i.image_series_uid, i.image_occurrence_id, i.person_id, i.image_occurrence_date, i.modality_concept_id
FROM image_occurrence AS i
WHERE i.image_series_uid = ANY (%(uids)s)
