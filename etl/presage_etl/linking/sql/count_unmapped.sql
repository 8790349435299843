-- linking/sql/count_unmapped.sql: the count of an unmapped code from its uses.
-- why:     running twice must not count twice
-- params:  system text, code system
--          code text, code
--          reason text, word of the closed list
-- returns: nothing; a row that is already so is not touched
UPDATE unmapped_code AS c
SET count = used.total
FROM (SELECT u.code_no, sum(u.count) AS total FROM unmapped_use AS u GROUP BY u.code_no) AS used
WHERE used.code_no = c.code_no AND c.count <> used.total
  AND c.system = %(system)s AND c.code = %(code)s AND c.reason = %(reason)s
