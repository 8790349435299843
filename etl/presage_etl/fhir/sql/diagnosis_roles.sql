-- diagnosis_roles.sql: the role that an Encounter gives to a Condition goes before what the Condition says (E54).
-- params:  source_no smallint
-- needs:   kept
DELETE FROM diagnosis_role
WHERE resource_no IN (SELECT held_no FROM kept WHERE resource_type = 'Encounter' AND NOT is_new);

INSERT INTO diagnosis_role (resource_no, ordinal, condition_key, concept_id, source_value)
SELECT k.resource_no, s.ordinal, s.condition_key, s.concept_id, s.source_value
FROM stage_diagnosis_role AS s
JOIN kept AS k ON k.stage_no = s.stage_no;

WITH named AS (
    SELECT d.condition_key
    FROM diagnosis_role AS d
    JOIN kept AS k ON k.resource_no = d.resource_no AND k.resource_type = 'Encounter'
    UNION
    SELECT 'Condition/' || resource_id FROM kept WHERE resource_type = 'Condition'
),
role AS (
    SELECT DISTINCT ON (r.resource_no) r.resource_no, d.concept_id, d.source_value
    FROM named AS n
    JOIN diagnosis_role AS d ON d.condition_key = n.condition_key
    JOIN resource AS e ON e.resource_no = d.resource_no AND e.source_no = %(source_no)s
    JOIN resource AS r
      ON r.source_no = %(source_no)s
     AND r.resource_type = 'Condition'
     AND r.resource_id = split_part(n.condition_key, '/', 2)
    ORDER BY r.resource_no, e.resource_id COLLATE "C", d.ordinal
)
UPDATE condition_occurrence AS c
SET condition_status_concept_id = role.concept_id,
    condition_status_source_value = role.source_value
FROM role
JOIN origin AS o ON o.resource_no = role.resource_no AND o.table_no = 5
WHERE c.condition_occurrence_id = o.row_id
  AND (c.condition_status_concept_id, c.condition_status_source_value)
      IS DISTINCT FROM (role.concept_id, role.source_value)
