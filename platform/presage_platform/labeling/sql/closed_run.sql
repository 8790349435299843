-- labeling/sql/closed_run.sql: how far the ledger vouches for the persons that loads touched.
-- why:     a run that goes on, or may be continued, will still touch persons under its number
-- returns: one row: the last number of a load that is over (null without one), and whether a load is open
SELECT max(run_no) FILTER (WHERE state IN ('finished', 'abandoned')) AS last_run,
       coalesce(bool_or(state NOT IN ('finished', 'abandoned')), false) AS is_open
FROM run
WHERE command IN ('etl fhir', 'etl retry')
