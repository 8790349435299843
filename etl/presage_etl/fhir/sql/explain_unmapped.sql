-- explain_unmapped.sql: the codes of one resource that reached no standard concept.
-- params:  resource_no bigint
SELECT c.system, c.code, c.reason, u.count
FROM unmapped_use AS u
JOIN unmapped_code AS c USING (code_no)
WHERE u.resource_no = %(resource_no)s
ORDER BY c.system, c.code
