-- labeling/sql/image_uid.sql: series of linked studies, to prove that no image lies in two splits.
-- returns: one row a series that has a UID
SELECT s.study_id, s.series_uid
FROM image_series AS s
JOIN study_link AS l ON l.study_id = s.study_id
WHERE s.series_uid IS NOT NULL AND NOT s.stale
