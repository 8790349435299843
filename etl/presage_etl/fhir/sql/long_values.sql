-- long_values.sql: texts that were cut to the width of their column, whole (E37, E74).
-- needs:   kept
DELETE FROM long_value AS v
USING origin AS o, kept AS k
WHERE o.table_no = v.table_no AND o.row_id = v.row_id AND o.resource_no = k.resource_no AND NOT k.is_new;

INSERT INTO long_value (table_no, row_id, column_name, value)
SELECT DISTINCT ON (o.table_no, o.row_id, s.column_name) o.table_no, o.row_id, s.column_name, s.value
FROM stage_long_value AS s
JOIN kept AS k ON k.stage_no = s.stage_no
JOIN origin AS o ON o.resource_no = k.resource_no AND o.table_no = s.table_no AND o.slot = s.slot
