-- rank_copies.sql: of several copies of a resource in one run, the losers (E78).
-- why:     later lastUpdated wins; equal or absent, the larger version; then the later place (path, offset)
-- makes:   loser (stage_no, reason)
CREATE TEMP TABLE loser ON COMMIT DROP AS
WITH many AS (
    SELECT resource_type,
           resource_id,
           bool_and(last_updated IS NOT NULL) AS all_dated,
           bool_and(version_id IS NOT NULL) AS all_versioned
    FROM stage_resource
    WHERE state IN ('loaded', 'unchanged', 'excluded', 'deleted') AND resource_id IS NOT NULL
    GROUP BY resource_type, resource_id
    HAVING count(*) > 1
),
ranked AS (
    SELECT s.stage_no,
           s.content_hash,
           row_number() OVER best_first AS place,
           first_value(s.content_hash) OVER best_first AS best_hash
    FROM stage_resource AS s
    JOIN many AS m USING (resource_type, resource_id)
    WHERE s.state IN ('loaded', 'unchanged', 'excluded', 'deleted')
    WINDOW best_first AS (
        PARTITION BY s.resource_type, s.resource_id
        ORDER BY CASE WHEN m.all_dated THEN s.last_updated END DESC NULLS LAST,
                 CASE WHEN m.all_versioned THEN s.version_id END DESC NULLS LAST,
                 s.stage_no DESC
    )
)
SELECT stage_no, CASE WHEN content_hash = best_hash THEN 'duplicate' ELSE 'superseded' END AS reason
FROM ranked
WHERE place > 1
