-- read_targets.sql: what each staged reference names (E18, E22).
-- params:  source_no smallint
-- needs:   wanted (key), candidate
-- makes:   target (key, source_no, resource_type, resource_id), ambiguous (key)
CREATE TEMP TABLE identified ON COMMIT DROP AS
WITH conditional AS (
    SELECT key,
           split_part(key, '?', 1) AS resource_type,
           right(key, 64) AS value_hmac,
           substr(key, strpos(key, '?') + 1, length(key) - strpos(key, '?') - 65) AS system
    FROM wanted
    WHERE key ~ '^[A-Za-z]+[?]'
),
hits AS (
    SELECT w.key, r.resource_id
    FROM conditional AS w
    JOIN identifier AS i ON i.value_hmac = w.value_hmac AND (w.system = '' OR i.system = w.system)
    JOIN resource AS r
      ON r.resource_no = i.resource_no
     AND r.source_no = %(source_no)s
     AND r.resource_type = w.resource_type
     AND r.state = 'loaded'
    WHERE NOT EXISTS (SELECT FROM candidate AS c WHERE c.held_no = r.resource_no)
    UNION
    SELECT w.key, c.resource_id
    FROM conditional AS w
    JOIN stage_identifier AS i ON i.value_hmac = w.value_hmac AND (w.system = '' OR i.system = w.system)
    JOIN candidate AS c ON c.stage_no = i.stage_no AND c.resource_type = w.resource_type AND c.state = 'loaded'
)
SELECT h.key, split_part(h.key, '?', 1) AS resource_type, min(h.resource_id) AS resource_id, count(*) AS num_hits
FROM hits AS h
GROUP BY h.key;

CREATE TEMP TABLE ambiguous ON COMMIT DROP AS
SELECT key FROM identified WHERE num_hits > 1;

CREATE TEMP TABLE target ON COMMIT DROP AS
SELECT key,
       CAST(%(source_no)s AS smallint) AS source_no,
       split_part(key, '/', 1) AS resource_type,
       split_part(key, '/', 2) AS resource_id
FROM wanted
WHERE key ~ '^[A-Z][A-Za-z]+/'
UNION ALL
SELECT w.key,
       s.source_no,
       split_part(right(w.key, strpos(reverse(w.key), '|') - 1), '/', 1),
       split_part(right(w.key, strpos(reverse(w.key), '|') - 1), '/', 2)
FROM wanted AS w
JOIN source AS s ON s.name = left(w.key, length(w.key) - strpos(reverse(w.key), '|'))
WHERE w.key ~ '^https?://'
UNION ALL
SELECT key, CAST(%(source_no)s AS smallint), resource_type, resource_id
FROM identified
WHERE num_hits = 1
