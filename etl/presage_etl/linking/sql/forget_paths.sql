-- linking/sql/forget_paths.sql: rows of the health record whose images are no longer linked.
-- why:     a local path says that the series is linked
-- params:  uids text[], DICOM UIDs
-- returns: nothing
UPDATE image_occurrence SET local_path = NULL
WHERE image_study_uid = ANY (%(uids)s) AND local_path LIKE 'series:%%'
