-- linking/sql/modalities.sql: DICOM modality codes as concepts.
-- why:     concept ids differ between releases, so that they are looked up by code
-- params:  codes text[], DICOM codes
-- returns: one row a known code; a standard concept it maps to before its own
SELECT DISTINCT ON (c.concept_code) c.concept_code,
       coalesce(t.concept_id, c.concept_id) AS concept_id
FROM concept AS c
LEFT JOIN concept_relationship AS r
       ON r.concept_id_1 = c.concept_id AND r.relationship_id = 'Maps to' AND r.invalid_reason IS NULL
LEFT JOIN concept AS t ON t.concept_id = r.concept_id_2 AND t.standard_concept = 'S' AND t.invalid_reason IS NULL
WHERE c.vocabulary_id = 'DICOM' AND c.concept_code = ANY (%(codes)s)
ORDER BY c.concept_code, t.concept_id NULLS LAST, c.concept_id
