-- old_places.sql: where the Encounters of this run, and those they hang together with, stand before the merge.
-- why:     events of an Encounter that moves (its parent arrived, or went) must move with it (E20, E52)
-- params:  source_no smallint
-- needs:   kept, encounter as earlier runs left it
-- makes:   old_place (resource_no, visit_occurrence_id, visit_detail_id)
CREATE TEMP TABLE old_place ON COMMIT DROP AS
WITH RECURSIVE changed AS (
    SELECT k.resource_id, split_part(s.part_of, '/', 2) AS parent_id
    FROM kept AS k
    LEFT JOIN stage_visit_detail AS s ON s.stage_no = k.stage_no AND s.slot = 'main'
    WHERE k.resource_type = 'Encounter'
),
part AS (
    SELECT r.resource_id, split_part(e.part_of, '/', 2) AS parent_id
    FROM encounter AS e
    JOIN resource AS r ON r.resource_no = e.resource_no
    WHERE e.source_no = %(source_no)s AND e.slot = 'main' AND e.part_of IS NOT NULL
    UNION ALL
    SELECT resource_id, parent_id FROM changed WHERE parent_id IS NOT NULL
),
edge AS MATERIALIZED (
    SELECT resource_id AS one_id, parent_id AS other_id FROM part
    UNION ALL
    SELECT parent_id, resource_id FROM part
),
together AS (
    SELECT resource_id FROM changed
    UNION
    SELECT e.other_id
    FROM together AS t
    JOIN edge AS e ON e.one_id = t.resource_id
)
SELECT r.resource_no,
       coalesce(d.visit_occurrence_id, ov.row_id) AS visit_occurrence_id,
       od.row_id AS visit_detail_id
FROM together AS t
JOIN resource AS r
  ON r.source_no = %(source_no)s AND r.resource_type = 'Encounter' AND r.resource_id = t.resource_id
LEFT JOIN origin AS ov ON ov.resource_no = r.resource_no AND ov.table_no = 3 AND ov.slot = 'main'
LEFT JOIN origin AS od ON od.resource_no = r.resource_no AND od.table_no = 4 AND od.slot = 'main'
LEFT JOIN visit_detail AS d ON d.visit_detail_id = od.row_id
