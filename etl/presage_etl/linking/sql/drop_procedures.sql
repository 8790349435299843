-- linking/sql/drop_procedures.sql: synthetic procedures that a real one replaced, or of studies no longer linked.
-- why:     only rows that linking made are removed
-- params:  ids bigint[], rows made by linking
-- returns: nothing
DELETE FROM procedure_occurrence WHERE procedure_occurrence_id = ANY (%(ids)s)
