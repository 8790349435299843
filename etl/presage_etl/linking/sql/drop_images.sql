-- linking/sql/drop_images.sql: series rows of studies that are no longer linked.
-- params:  ids bigint[], image_occurrence ids made by linking
-- why:     only rows that linking made are removed
-- returns: nothing
DELETE FROM image_occurrence WHERE image_occurrence_id = ANY (%(ids)s)
