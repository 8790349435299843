-- orphans.sql: resources that lost their person become dead letters and return with the Patient (E80).
-- params:  source_no smallint, run_no bigint
-- needs:   orphan (resource_no, wanted_key), orphan_payload
DELETE FROM pending_reference AS p
USING origin AS o, orphan AS x
WHERE o.table_no = p.table_no AND o.row_id = p.row_id AND o.resource_no = x.resource_no;

DELETE FROM long_value AS v
USING origin AS o, orphan AS x
WHERE o.table_no = v.table_no AND o.row_id = v.row_id AND o.resource_no = x.resource_no;

DELETE FROM origin AS o USING orphan AS x WHERE o.resource_no = x.resource_no;

DELETE FROM encounter AS e USING orphan AS x WHERE e.resource_no = x.resource_no;

UPDATE resource AS r SET state = 'dead' FROM orphan AS x WHERE r.resource_no = x.resource_no;

INSERT INTO dead_letter (
    source_no, run_no, last_run_no, stage, reason, path, resource_type, resource_id, wanted_key,
    file_no, byte_offset, line, content_hash, payload
)
SELECT r.source_no, %(run_no)s, %(run_no)s, 'merge', 'person-missing', 'subject', r.resource_type, r.resource_id,
       x.wanted_key, r.file_no, r.byte_offset, r.line, r.content_hash, p.payload
FROM orphan AS x
JOIN resource AS r ON r.resource_no = x.resource_no AND r.source_no = %(source_no)s
LEFT JOIN orphan_payload AS p ON p.resource_no = x.resource_no
ORDER BY x.resource_no
