-- write_resources.sql: the ledger's line of each resource of this run, inserted or brought up to date.
-- params:  source_no smallint, transform_no integer, run_no bigint
-- needs:   kept
UPDATE resource AS r
SET state = k.state,
    reason = CASE WHEN k.state = 'excluded' THEN k.reason END,
    content_hash = CASE WHEN k.state = 'deleted' THEN r.content_hash ELSE k.content_hash END,
    transform_no = %(transform_no)s,
    last_updated = CASE WHEN k.state = 'deleted' THEN r.last_updated ELSE k.last_updated END,
    version_id = CASE WHEN k.state = 'deleted' THEN r.version_id ELSE k.version_id END,
    run_no = %(run_no)s,
    file_no = k.file_no,
    byte_offset = k.byte_offset,
    byte_length = k.byte_length,
    line = k.line,
    changed_at = CASE WHEN k.state = 'deleted' THEN now() END
FROM kept AS k
WHERE r.resource_no = k.held_no;

INSERT INTO resource (
    resource_no, source_no, resource_type, resource_id, state, reason, content_hash, transform_no,
    last_updated, version_id, run_no, file_no, byte_offset, byte_length, line, changed_at
)
SELECT resource_no, %(source_no)s, resource_type, resource_id, state,
       CASE WHEN state = 'excluded' THEN reason END, content_hash, %(transform_no)s,
       last_updated, version_id, %(run_no)s, file_no, byte_offset, byte_length, line,
       CASE WHEN state = 'deleted' THEN now() END
FROM kept
WHERE is_new
