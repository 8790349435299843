-- linking/sql/date_shift.sql: days between images and the procedures that the record itself dates.
-- why:     a healthy archive has one narrow mode at 0
-- params:  none
-- returns: one row: linked pairs, median of the persons' medians in days, persons, persons off by more than 2 days
WITH pairs AS (
    SELECT l.person_id, coalesce(to_date(s.study_date_written, 'YYYY-MM-DD'), s.study_dt::date) - p.procedure_date AS days
    FROM study_link AS l
    JOIN image_study AS s ON s.study_id = l.study_id
    JOIN procedure_occurrence AS p ON p.procedure_occurrence_id = l.procedure_occurrence_id
    WHERE NOT EXISTS (SELECT 1 FROM origin AS o
                      WHERE o.table_no = 7 AND o.row_id = p.procedure_occurrence_id AND o.flags = 'synthetic')
),
persons AS (
    SELECT person_id, count(*) AS num_pairs, percentile_cont(0.5) WITHIN GROUP (ORDER BY days) AS median_days,
           max(days) - min(days) AS spread_days
    FROM pairs
    WHERE days IS NOT NULL
    GROUP BY person_id
)
SELECT coalesce(sum(num_pairs), 0)::bigint AS pairs,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY median_days) AS median_days,
       count(*) AS persons,
       count(*) FILTER (WHERE abs(median_days) > 2 OR spread_days > 2) AS persons_off
FROM persons
