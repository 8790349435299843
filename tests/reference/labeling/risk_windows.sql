-- tests/reference/labeling/risk_windows.sql: the scalars of a study from raw intervals, as set-based SQL.
-- Runs in PostgreSQL and in DuckDB. Tables: study (study_id, person_id, t0, t0_is_date), period, visit (person_id,
-- start_s, end_s), death_ (person_id, death_s), event (person_id, concept, time, flags), policy (one row).
WITH period_mark AS (
  SELECT person_id, start_s, end_s,
         max(end_s) OVER (PARTITION BY person_id ORDER BY start_s, end_s
                          ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS latest
  FROM period
),
period_island AS (
  SELECT person_id, start_s, end_s,
         sum(CASE WHEN latest IS NULL OR start_s > latest + 1 + (SELECT bridge_days FROM policy) * 86400
                  THEN 1 ELSE 0 END) OVER (PARTITION BY person_id ORDER BY start_s, end_s) AS island
  FROM period_mark
),
joined_period AS (
  SELECT person_id, min(start_s) AS start_s, max(end_s) AS end_s FROM period_island GROUP BY person_id, island
),
visit_mark AS (
  SELECT person_id, start_s, end_s,
         max(end_s) OVER (PARTITION BY person_id ORDER BY start_s, end_s
                          ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS latest
  FROM visit
),
visit_island AS (
  SELECT person_id, start_s, end_s,
         sum(CASE WHEN latest IS NULL OR start_s > latest + 86400 THEN 1 ELSE 0 END)
           OVER (PARTITION BY person_id ORDER BY start_s, end_s) AS island
  FROM visit_mark
),
stay AS (
  SELECT person_id, min(start_s) AS start_s, max(end_s) AS end_s FROM visit_island GROUP BY person_id, island
),
fact AS (
  SELECT s.study_id, s.t0,
         (s.t0 / 86400) * 86400 + 86399 AS day_end,
         s.t0_is_date,
         p.start_s AS period_start, p.end_s AS period_end,
         v.end_s AS guard_end,
         d.death_s,
         (SELECT max(e.time + CASE WHEN (e.flags & 8) <> 0 THEN 86399 ELSE 0 END)
          FROM event AS e WHERE e.person_id = s.person_id) AS last_event,
         (SELECT max(w.end_s) FROM visit AS w WHERE w.person_id = s.person_id) AS last_visit_end
  FROM study AS s
  LEFT JOIN joined_period AS p
    ON p.person_id = s.person_id AND p.end_s >= s.t0
   AND p.start_s <= CASE WHEN s.t0_is_date THEN (s.t0 / 86400) * 86400 + 86399 ELSE s.t0 END
  LEFT JOIN stay AS v
    ON v.person_id = s.person_id AND v.end_s >= s.t0
   AND v.start_s <= CASE WHEN s.t0_is_date THEN (s.t0 / 86400) * 86400 + 86399 ELSE s.t0 END
  LEFT JOIN death_ AS d ON d.person_id = s.person_id
),
bound AS (
  SELECT f.*,
         greatest(f.t0, f.t0 + q.min_lag_s,
                  CASE WHEN f.t0_is_date OR q.same_day = 'strict_day' THEN f.day_end ELSE f.t0 END,
                  CASE WHEN q.guarded THEN coalesce(f.guard_end, f.t0) ELSE f.t0 END) AS r,
         least(q.data_cut_s,
               CASE q.censor WHEN 'observation_period_end' THEN coalesce(f.period_end, f.t0)
                             WHEN 'last_event' THEN coalesce(f.last_event, -9000000000)
                             WHEN 'data_cut' THEN q.data_cut_s
                             ELSE coalesce(f.last_visit_end, -9000000000) END) AS c
  FROM fact AS f, policy AS q
)
SELECT b.study_id,
       b.r - b.t0 AS entry_s,
       greatest(least(b.c, coalesce(b.death_s, b.c)) - b.t0, 0) AS end_s,
       CASE WHEN b.death_s <= b.c + q.death_pad_s THEN 2 ELSE 0 END AS end_cause,
       CASE WHEN b.death_s IS NULL THEN -1 ELSE greatest(b.death_s - b.t0, 0) END AS death_s,
       greatest(CASE WHEN q.censor = 'hybrid' THEN least(q.data_cut_s, coalesce(q.death_cut_s, q.data_cut_s))
                     ELSE least(b.c + q.death_pad_s, q.data_cut_s) END - b.t0, 0) AS death_end_s,
       CASE WHEN least(b.c, coalesce(b.death_s, b.c)) <= b.r THEN 1 ELSE 0 END
       + CASE WHEN b.death_s < b.t0 THEN 2 ELSE 0 END
       + CASE WHEN b.period_start IS NULL THEN 4 ELSE 0 END
       + CASE WHEN CASE WHEN b.period_start IS NULL THEN -1
                        ELSE greatest((b.t0 / 86400) - (b.period_start / 86400), 0) END < q.min_prior_obs_days
              THEN 8 ELSE 0 END AS mask,
       b.r AS r,
       least(b.c, coalesce(b.death_s, b.c)) AS f
FROM bound AS b, policy AS q
ORDER BY b.study_id
