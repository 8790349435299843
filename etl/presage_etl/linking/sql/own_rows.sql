-- linking/sql/own_rows.sql: the CDM rows that linking made for these studies.
-- why:     rows of the health record are completed, never replaced or removed
-- params:  ids text[], studies as ids of their resources
-- returns: one row a CDM row: study, resource, table, slot, id; without a table for a resource that has no row
SELECT r.resource_id::bigint AS study_id, r.resource_no, o.table_no, o.slot, o.row_id
FROM resource AS r
JOIN source AS s ON s.source_no = r.source_no
LEFT JOIN origin AS o ON o.resource_no = r.resource_no
WHERE s.name = 'dicom' AND r.resource_type = 'ImagingStudy' AND r.resource_id = ANY (%(ids)s)
