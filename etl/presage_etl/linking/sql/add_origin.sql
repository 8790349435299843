-- linking/sql/add_origin.sql: where a row made by linking comes from.
-- why:     every CDM row has an origin
-- params:  table_no smallint, row_id bigint, resource_no bigint, slot text, run_no bigint, rule smallint, flags text
-- returns: nothing
INSERT INTO origin (table_no, row_id, resource_no, slot, run_no, rule, flags)
VALUES (%(table_no)s, %(row_id)s, %(resource_no)s, %(slot)s, %(run_no)s, %(rule)s, %(flags)s)
