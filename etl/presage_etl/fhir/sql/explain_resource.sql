-- explain_resource.sql: the ledger's line of one resource, its file and its run.
-- params:  source, type, id text
SELECT r.resource_no, r.state, r.reason, r.last_updated, r.version_id, r.run_no, u.started_at AS loaded_at,
       f.path, f.sha256, r.byte_offset, r.line, t.policy_hash, t.mapping_version, t.vocabulary_release
FROM resource AS r
JOIN source AS s ON s.source_no = r.source_no AND s.name = %(source)s
JOIN transform AS t USING (transform_no)
LEFT JOIN run AS u ON u.run_no = r.run_no
LEFT JOIN source_file AS f ON f.file_no = r.file_no
WHERE r.resource_type = %(type)s AND r.resource_id = %(id)s
