-- linking/sql/put_unmapped.sql: a modality that reached no concept.
-- why:     concept 0 is never silent
-- params:  system text, code system
--          code text, code
--          reason text, word of the closed list
--          count bigint, uses
-- returns: nothing
INSERT INTO unmapped_code AS u (system, code, reason, count)
VALUES (%(system)s, %(code)s, %(reason)s, %(count)s)
ON CONFLICT (system, code, reason) DO NOTHING
