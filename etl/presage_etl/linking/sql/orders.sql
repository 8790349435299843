-- linking/sql/orders.sql: rows of the health record that stand under an accession number or a study UID.
-- why:     an ImagingStudy, order, report or procedure names the images by these identifiers
-- params:  keys text[], keyed hashes
--          uids text[], DICOM UIDs
-- returns: one row a CDM row: hash or uid, system, type of resource, person, procedure where it is one
WITH named AS (
    SELECT i.value_hmac AS key, i.system, r.resource_no, r.resource_type
    FROM identifier AS i
    JOIN resource AS r ON r.resource_no = i.resource_no
    JOIN source AS s ON s.source_no = r.source_no
    WHERE i.value_hmac = ANY (%(keys)s) AND r.state = 'loaded' AND r.resource_type <> 'Patient' AND s.name <> 'dicom'
),
rows AS (
    SELECT n.key, n.system, n.resource_type, p.person_id, p.procedure_occurrence_id
    FROM named AS n
    JOIN origin AS o ON o.resource_no = n.resource_no AND o.table_no = 7
    JOIN procedure_occurrence AS p ON p.procedure_occurrence_id = o.row_id
    UNION
    SELECT n.key, n.system, n.resource_type, m.person_id, m.procedure_occurrence_id
    FROM named AS n
    JOIN origin AS o ON o.resource_no = n.resource_no AND o.table_no = 30
    JOIN image_occurrence AS m ON m.image_occurrence_id = o.row_id
    UNION
    SELECT n.key, n.system, n.resource_type, m.person_id, NULL
    FROM named AS n
    JOIN origin AS o ON o.resource_no = n.resource_no AND o.table_no = 9
    JOIN measurement AS m ON m.measurement_id = o.row_id
    UNION
    SELECT n.key, n.system, n.resource_type, b.person_id, NULL
    FROM named AS n
    JOIN origin AS o ON o.resource_no = n.resource_no AND o.table_no = 10
    JOIN observation AS b ON b.observation_id = o.row_id
    UNION
    SELECT n.key, n.system, n.resource_type, t.person_id, NULL
    FROM named AS n
    JOIN origin AS o ON o.resource_no = n.resource_no AND o.table_no = 12
    JOIN note AS t ON t.note_id = o.row_id
    UNION
    SELECT 'uid:' || m.image_study_uid, NULL, r.resource_type, m.person_id, m.procedure_occurrence_id
    FROM image_occurrence AS m
    JOIN origin AS o ON o.table_no = 30 AND o.row_id = m.image_occurrence_id
    JOIN resource AS r ON r.resource_no = o.resource_no
    JOIN source AS s ON s.source_no = r.source_no
    WHERE m.image_study_uid = ANY (%(uids)s) AND s.name <> 'dicom'
)
SELECT key, system, resource_type, person_id, procedure_occurrence_id
FROM rows
ORDER BY key, person_id, procedure_occurrence_id NULLS LAST, resource_type
