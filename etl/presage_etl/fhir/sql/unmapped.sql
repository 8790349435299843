-- unmapped.sql: the codes that reached no standard concept, and who carries them (E32, E40).
-- needs:   kept
CREATE TEMP TABLE recount ON COMMIT DROP AS
SELECT DISTINCT code_no FROM unmapped_use WHERE resource_no IN (SELECT held_no FROM kept WHERE NOT is_new);

DELETE FROM unmapped_use WHERE resource_no IN (SELECT held_no FROM kept WHERE NOT is_new);

INSERT INTO unmapped_code (system, code, reason, display)
SELECT s.system, s.code, s.reason, min(s.display)
FROM stage_unmapped AS s
JOIN kept AS k ON k.stage_no = s.stage_no
GROUP BY s.system, s.code, s.reason
ORDER BY s.system COLLATE "C", s.code COLLATE "C", s.reason
ON CONFLICT (system, code, reason) DO NOTHING;

INSERT INTO unmapped_use (resource_no, code_no, count)
SELECT k.resource_no, c.code_no, sum(s.count)
FROM stage_unmapped AS s
JOIN kept AS k ON k.stage_no = s.stage_no
JOIN unmapped_code AS c ON c.system = s.system AND c.code = s.code AND c.reason = s.reason
GROUP BY k.resource_no, c.code_no;

INSERT INTO recount
SELECT u.code_no FROM unmapped_use AS u JOIN kept AS k ON k.resource_no = u.resource_no
EXCEPT
SELECT code_no FROM recount;

CREATE TEMP TABLE carrying ON COMMIT DROP AS
SELECT u.code_no, u.resource_no, u.count FROM unmapped_use AS u JOIN recount AS r USING (code_no);

CREATE TEMP TABLE carrier ON COMMIT DROP AS
SELECT DISTINCT o.resource_no, o.table_no, o.row_id FROM origin AS o JOIN carrying AS c USING (resource_no);
ANALYZE carrying;
ANALYZE carrier;

WITH event AS (
    SELECT o.resource_no, t.person_id, t.visit_start_date AS day
    FROM carrier AS o
    JOIN visit_occurrence AS t ON o.table_no = 3 AND t.visit_occurrence_id = o.row_id
    UNION ALL
    SELECT o.resource_no, t.person_id, t.condition_start_date AS day
    FROM carrier AS o
    JOIN condition_occurrence AS t ON o.table_no = 5 AND t.condition_occurrence_id = o.row_id
    UNION ALL
    SELECT o.resource_no, t.person_id, t.drug_exposure_start_date AS day
    FROM carrier AS o
    JOIN drug_exposure AS t ON o.table_no = 6 AND t.drug_exposure_id = o.row_id
    UNION ALL
    SELECT o.resource_no, t.person_id, t.procedure_date AS day
    FROM carrier AS o
    JOIN procedure_occurrence AS t ON o.table_no = 7 AND t.procedure_occurrence_id = o.row_id
    UNION ALL
    SELECT o.resource_no, t.person_id, t.device_exposure_start_date AS day
    FROM carrier AS o
    JOIN device_exposure AS t ON o.table_no = 8 AND t.device_exposure_id = o.row_id
    UNION ALL
    SELECT o.resource_no, t.person_id, t.measurement_date AS day
    FROM carrier AS o
    JOIN measurement AS t ON o.table_no = 9 AND t.measurement_id = o.row_id
    UNION ALL
    SELECT o.resource_no, t.person_id, t.observation_date AS day
    FROM carrier AS o
    JOIN observation AS t ON o.table_no = 10 AND t.observation_id = o.row_id
),
dated AS (
    SELECT resource_no, min(person_id) AS person_id, min(day) AS day FROM event GROUP BY resource_no
),
counted AS (
    SELECT c.code_no,
           sum(c.count) AS count,
           count(DISTINCT d.person_id) AS persons,
           min(d.day) AS first_date,
           max(d.day) AS last_date,
           (array_agg(c.resource_no ORDER BY c.resource_no))[1:3] AS pointers
    FROM carrying AS c
    LEFT JOIN dated AS d USING (resource_no)
    GROUP BY c.code_no
)
UPDATE unmapped_code AS c
SET count = coalesce(n.count, 0),
    persons = coalesce(n.persons, 0),
    first_date = n.first_date,
    last_date = n.last_date,
    pointers = n.pointers
FROM recount AS r
LEFT JOIN counted AS n ON n.code_no = r.code_no
WHERE c.code_no = r.code_no;

DELETE FROM unmapped_code WHERE count = 0 AND code_no IN (SELECT code_no FROM recount)
