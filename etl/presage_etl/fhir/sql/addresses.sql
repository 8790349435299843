-- addresses.sql: patients' states and countries: one location for all who share its content (E45, E47).
-- params:  last_id bigint, highest location_id in use
-- needs:   kept
-- makes:   address (content, row_id, resource_no of the first, is_new), ids_location for addresses
CREATE TEMP TABLE address ON COMMIT DROP AS
WITH staged AS (
    SELECT 'address:' || concat_ws('|', coalesce(s.state, ''), coalesce(s.zip, ''), coalesce(s.country_source_value, ''))
               AS content,
           min(k.resource_no) AS resource_no
    FROM stage_location AS s
    JOIN kept AS k ON k.stage_no = s.stage_no
    WHERE s.rule = 47
    GROUP BY 1
),
held AS (
    SELECT slot AS content, min(row_id) AS row_id FROM origin WHERE table_no = 16 AND slot ~ '^address:' GROUP BY slot
)
SELECT s.content,
       s.resource_no,
       h.row_id IS NULL AS is_new,
       coalesce(
           h.row_id,
           CAST(%(last_id)s AS bigint)
               + row_number() OVER (PARTITION BY h.row_id IS NULL ORDER BY s.content COLLATE "C")
       ) AS row_id
FROM staged AS s
LEFT JOIN held AS h USING (content)
