-- linking/sql/add_resource.sql: a study as the resource from which its CDM rows come.
-- why:     origin rows need a resource; a study has no file of its own
-- params:  resource_no bigint, study_id text, hash bytea, policy text, version text, run_no bigint
-- returns: nothing
INSERT INTO resource (resource_no, source_no, resource_type, resource_id, state, content_hash, transform_no,
                      run_no, file_no, byte_offset)
SELECT %(resource_no)s, s.source_no, 'ImagingStudy', %(study_id)s, 'loaded', %(hash)s, t.transform_no,
       %(run_no)s, 0, 0
FROM source AS s, transform AS t
WHERE s.name = 'dicom' AND t.policy_hash = %(policy)s AND t.mapping_version = %(version)s
  AND t.vocabulary_release = ''
