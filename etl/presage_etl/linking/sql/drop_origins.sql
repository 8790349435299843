-- linking/sql/drop_origins.sql: the origins of removed rows.
-- why:     an origin without its row would say that the row exists
-- params:  table_no smallint, number of the CDM table
--          ids bigint[], rows made by linking
-- returns: nothing
DELETE FROM origin WHERE table_no = %(table_no)s AND row_id = ANY (%(ids)s)
