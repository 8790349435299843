-- linking/sql/drop_images.sql: series rows of studies that are no longer linked.
-- why:     only rows that linking made are removed
-- params:  ids bigint[], rows made by linking
-- returns: nothing
DELETE FROM image_occurrence WHERE image_occurrence_id = ANY (%(ids)s)
