-- linking/sql/put_image.sql: one series of a linked study.
-- why:     the CDM's view of the images
-- params:  id bigint, id of the row
--          person_id bigint, person
--          procedure_id bigint, procedure_occurrence_id
--          visit_id bigint, visit_occurrence_id or null
--          local_path text, series:<series_key>
--          day date, as the calendar wrote it
--          study_uid text, DICOM UID
--          series_uid text, DICOM UID
--          modality_id integer, concept, 0 = none
-- returns: nothing; a row that is already so is not touched
INSERT INTO image_occurrence AS i
       (image_occurrence_id, person_id, procedure_occurrence_id, visit_occurrence_id, local_path,
        image_occurrence_date, image_study_uid, image_series_uid, modality_concept_id)
VALUES (%(id)s, %(person_id)s, %(procedure_id)s, %(visit_id)s, %(local_path)s, %(day)s, %(study_uid)s,
        %(series_uid)s, %(modality_id)s)
ON CONFLICT (image_occurrence_id) DO UPDATE
SET person_id = excluded.person_id, procedure_occurrence_id = excluded.procedure_occurrence_id,
    visit_occurrence_id = excluded.visit_occurrence_id, local_path = excluded.local_path,
    image_occurrence_date = excluded.image_occurrence_date, modality_concept_id = excluded.modality_concept_id
WHERE (i.person_id, i.procedure_occurrence_id, i.visit_occurrence_id, i.local_path, i.image_occurrence_date,
       i.modality_concept_id)
      IS DISTINCT FROM (excluded.person_id, excluded.procedure_occurrence_id, excluded.visit_occurrence_id,
                        excluded.local_path, excluded.image_occurrence_date, excluded.modality_concept_id)
