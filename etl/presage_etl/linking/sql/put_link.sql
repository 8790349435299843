-- linking/sql/put_link.sql: a study and its person.
-- why:     labels, rows of the CDM and predictions find the person of a study here
-- params:  study_id bigint, study
--          person_id bigint, person
--          class text, kind of the strongest key
--          confidence text, high, medium or low
--          evidence jsonb, all evidence, strongest first
--          procedure_id bigint, procedure_occurrence_id
--          visit_id bigint, visit_occurrence_id or null
--          run_no bigint, run that writes
-- returns: nothing; a row that is already so is not touched
INSERT INTO study_link AS l
       (study_id, person_id, link_class, confidence, evidence, procedure_occurrence_id, visit_occurrence_id, run_no)
VALUES (%(study_id)s, %(person_id)s, %(class)s, %(confidence)s, %(evidence)s, %(procedure_id)s, %(visit_id)s,
        %(run_no)s)
ON CONFLICT (study_id) DO UPDATE
SET person_id = excluded.person_id, link_class = excluded.link_class, confidence = excluded.confidence,
    evidence = excluded.evidence, procedure_occurrence_id = excluded.procedure_occurrence_id,
    visit_occurrence_id = excluded.visit_occurrence_id, run_no = excluded.run_no
WHERE (l.person_id, l.link_class, l.confidence, l.evidence, l.procedure_occurrence_id, l.visit_occurrence_id)
      IS DISTINCT FROM (excluded.person_id, excluded.link_class, excluded.confidence, excluded.evidence,
                        excluded.procedure_occurrence_id, excluded.visit_occurrence_id)
