-- place_encounters.sql: the root of each Encounter, and which roots an emergency stay and an admission share.
-- why:     by explicit partOf only, never by closeness in time (E52, E53); an absent parent makes a visit of its own
-- params:  merge_emergency boolean
-- needs:   kept, old_place, encounter
-- makes:   place (resource_no, root_no, parent_no), joined_root (resource_no, start, end of both)
CREATE TEMP TABLE affected ON COMMIT DROP AS
SELECT resource_no FROM kept WHERE resource_type = 'Encounter'
UNION
SELECT resource_no FROM old_place;

CREATE TEMP TABLE place ON COMMIT DROP AS
WITH RECURSIVE part AS (
    SELECT e.resource_no, p.resource_no AS parent_no
    FROM affected AS a
    JOIN encounter AS e ON e.resource_no = a.resource_no AND e.slot = 'main'
    LEFT JOIN (
        SELECT r.resource_no, 'Encounter/' || r.resource_id AS key
        FROM affected
        JOIN resource AS r ON r.resource_no = affected.resource_no AND r.state = 'loaded'
        JOIN encounter AS up ON up.resource_no = r.resource_no AND up.slot = 'main'
    ) AS p ON p.key = e.part_of
),
down AS (
    SELECT resource_no, resource_no AS root_no, parent_no FROM part WHERE parent_no IS NULL
    UNION ALL
    SELECT p.resource_no, d.root_no, p.parent_no
    FROM down AS d
    JOIN part AS p ON p.parent_no = d.resource_no
)
SELECT resource_no, root_no, parent_no FROM down;

CREATE TEMP TABLE joined_root ON COMMIT DROP AS
SELECT root.resource_no,
       least(root.start_date, min(part.start_date)) AS start_date,
       least(root.start_datetime, min(part.start_datetime)) AS start_datetime,
       greatest(root.end_date, max(part.end_date)) AS end_date,
       greatest(root.end_datetime, max(part.end_datetime)) AS end_datetime
FROM place AS p
JOIN encounter AS part ON part.resource_no = p.resource_no AND part.slot = 'main'
JOIN encounter AS root ON root.resource_no = p.root_no AND root.slot = 'main'
WHERE %(merge_emergency)s
  AND p.parent_no = p.root_no
  AND ((root.concept_id = 9201 AND part.concept_id = 9203) OR (root.concept_id = 9203 AND part.concept_id = 9201))
GROUP BY root.resource_no, root.start_date, root.start_datetime, root.end_date, root.end_datetime
