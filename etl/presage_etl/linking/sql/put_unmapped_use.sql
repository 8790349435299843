-- linking/sql/put_unmapped_use.sql: which study carries an unmapped modality.
-- why:     the count of an unmapped code is the sum of its uses
-- params:  resource_no bigint, study as a resource
--          count bigint, uses
--          system text, code system
--          code text, code
--          reason text, word of the closed list
-- returns: nothing; a row that is already so is not touched
INSERT INTO unmapped_use AS u (resource_no, code_no, count)
SELECT %(resource_no)s, c.code_no, %(count)s
FROM unmapped_code AS c
WHERE c.system = %(system)s AND c.code = %(code)s AND c.reason = %(reason)s
ON CONFLICT (resource_no, code_no) DO UPDATE SET count = excluded.count WHERE u.count <> excluded.count
