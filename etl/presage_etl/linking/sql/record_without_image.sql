-- linking/sql/record_without_image.sql: imaging studies of the health record that no archive showed.
-- why:     both directions are reported
-- params:  none
-- returns: one row: number of studies of the record, number of them without images
SELECT count(DISTINCT m.image_study_uid) AS studies,
       count(DISTINCT m.image_study_uid) FILTER (WHERE s.study_id IS NULL) AS without_image
FROM image_occurrence AS m
JOIN origin AS o ON o.table_no = 30 AND o.row_id = m.image_occurrence_id
JOIN resource AS r ON r.resource_no = o.resource_no
JOIN source AS c ON c.source_no = r.source_no
LEFT JOIN image_study AS s ON s.study_uid = m.image_study_uid
WHERE c.name <> 'dicom'
