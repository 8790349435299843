-- linking/sql/add_resource.sql: a study as the resource from which its CDM rows come.
-- why:     origin rows need a resource; a study has no file of its own
-- params:  resource_no bigint, study as a resource
--          study_id text, study as id of a resource
--          hash bytea, of the study UID
--          run_no bigint, run that writes
--          policy text, hash of the link settings
--          version text, version of linking
-- returns: nothing
INSERT INTO resource (resource_no, source_no, resource_type, resource_id, state, content_hash, transform_no,
                      run_no, file_no, byte_offset)
SELECT %(resource_no)s, s.source_no, 'ImagingStudy', %(study_id)s, 'loaded', %(hash)s, t.transform_no,
       %(run_no)s, 0, 0
FROM source AS s, transform AS t
WHERE s.name = 'dicom' AND t.policy_hash = %(policy)s AND t.mapping_version = %(version)s
  AND t.vocabulary_release = ''
