-- medications.sql: what Medications stand for, and the drug rows that wait for them (E57, E58).
-- why:     the first target completes the staged row, further ones are rows of their own without quantities (E34)
-- needs:   kept, located
DELETE FROM medication
WHERE resource_no IN (SELECT held_no FROM kept WHERE resource_type = 'Medication' AND NOT is_new);

INSERT INTO medication (resource_no, rank, slot, target_concept_id, source_concept_id, source_code)
SELECT k.resource_no, s.rank, s.slot, s.target_concept_id, s.source_concept_id, s.source_code
FROM stage_medication AS s
JOIN kept AS k ON k.stage_no = s.stage_no;

CREATE TEMP TABLE prescribed ON COMMIT DROP AS
SELECT s.ctid AS row_at, s.stage_no, m.*
FROM stage_drug_exposure AS s
JOIN kept AS k ON k.stage_no = s.stage_no
JOIN located AS l ON l.key = s.medication_key AND l.resource_type = 'Medication'
JOIN medication AS m ON m.resource_no = l.resource_no
WHERE s.slot = 'main';

UPDATE stage_drug_exposure AS s
SET drug_concept_id = p.target_concept_id,
    drug_source_concept_id = p.source_concept_id,
    drug_source_value = left(p.source_code, 50),
    slot = p.slot,
    quantity = CASE WHEN p.slot ~ '^ing' THEN NULL ELSE s.quantity END
FROM prescribed AS p
WHERE s.ctid = p.row_at AND p.rank = 1
