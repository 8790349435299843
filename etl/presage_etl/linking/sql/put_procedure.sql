-- linking/sql/put_procedure.sql: the synthetic procedure of a study that the health record does not know.
-- why:     image_occurrence requires a procedure
-- params:  id bigint, id of the row
--          person_id bigint, person
--          concept_id bigint, procedure concept
--          day date, as the calendar wrote it
--          moment timestamp, time in the declared zone, or null
--          type_id bigint, type concept
--          visit_id bigint, visit_occurrence_id or null
--          source text, source value
-- returns: nothing; a row that is already so is not touched
INSERT INTO procedure_occurrence AS p
       (procedure_occurrence_id, person_id, procedure_concept_id, procedure_date, procedure_datetime,
        procedure_type_concept_id, visit_occurrence_id, procedure_source_value, procedure_source_concept_id)
VALUES (%(id)s, %(person_id)s, %(concept_id)s, %(day)s, %(moment)s, %(type_id)s, %(visit_id)s, %(source)s, 0)
ON CONFLICT (procedure_occurrence_id) DO UPDATE
SET person_id = excluded.person_id, procedure_concept_id = excluded.procedure_concept_id,
    procedure_date = excluded.procedure_date, procedure_datetime = excluded.procedure_datetime,
    visit_occurrence_id = excluded.visit_occurrence_id
WHERE (p.person_id, p.procedure_concept_id, p.procedure_date, p.procedure_datetime, p.visit_occurrence_id)
      IS DISTINCT FROM (excluded.person_id, excluded.procedure_concept_id, excluded.procedure_date,
                        excluded.procedure_datetime, excluded.visit_occurrence_id)
