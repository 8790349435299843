-- identifiers.sql: the identifiers of this run's resources, as keyed hashes (E69).
-- needs:   kept
DELETE FROM identifier WHERE resource_no IN (SELECT held_no FROM kept WHERE NOT is_new);

INSERT INTO identifier (resource_no, ordinal, system, value_hmac, period_start, period_end)
SELECT k.resource_no, s.ordinal, s.system, s.value_hmac, s.period_start, s.period_end
FROM stage_identifier AS s
JOIN kept AS k ON k.stage_no = s.stage_no;

DELETE FROM person_alias WHERE resource_no IN (SELECT held_no FROM kept WHERE NOT is_new);

INSERT INTO person_alias (resource_no, target_key)
SELECT k.resource_no, s.target_key
FROM stage_person_alias AS s
JOIN kept AS k ON k.stage_no = s.stage_no
