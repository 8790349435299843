-- linking/sql/complete_image.sql: a series that the health record knows already.
-- why:     one row a series: what the record says stays, what it leaves open is filled
-- params:  local_path text, series:<series_key>
--          visit_id bigint, visit_occurrence_id or null
--          modality_id integer, concept, 0 = none
--          id bigint, image_occurrence of the record
-- returns: nothing; a row that is already so is not touched
UPDATE image_occurrence AS i
SET local_path = %(local_path)s,
    visit_occurrence_id = coalesce(i.visit_occurrence_id, %(visit_id)s),
    modality_concept_id = coalesce(nullif(i.modality_concept_id, 0), %(modality_id)s)
WHERE i.image_occurrence_id = %(id)s
  AND (i.local_path IS NULL OR i.local_path LIKE 'series:%%')
  AND (i.local_path, i.visit_occurrence_id, i.modality_concept_id)
      IS DISTINCT FROM (%(local_path)s, coalesce(i.visit_occurrence_id, %(visit_id)s),
                        coalesce(nullif(i.modality_concept_id, 0), %(modality_id)s))
