-- explain_rows.sql: the CDM rows of one resource, and the rules that made them.
-- params:  resource_no bigint
SELECT table_no, row_id, slot, 'E' || rule AS rule, date_source, imputed, flags, run_no
FROM origin
WHERE resource_no = %(resource_no)s
ORDER BY table_no, slot COLLATE "C"
