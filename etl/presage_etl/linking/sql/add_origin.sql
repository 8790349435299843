-- linking/sql/add_origin.sql: where a row made by linking comes from.
-- why:     every CDM row has an origin
-- params:  table_no smallint, number of the CDM table
--          row_id bigint, id of the row
--          resource_no bigint, study as a resource
--          slot text, place within the resource
--          run_no bigint, run that writes
--          rule smallint, number of the rule
--          flags text, synthetic or null
-- returns: nothing
INSERT INTO origin (table_no, row_id, resource_no, slot, run_no, rule, flags)
VALUES (%(table_no)s, %(row_id)s, %(resource_no)s, %(slot)s, %(run_no)s, %(rule)s, %(flags)s)
