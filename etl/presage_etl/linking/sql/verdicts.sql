-- linking/sql/verdicts.sql: series by verdict.
-- why:     a linked study may have no usable series
-- params:  none
-- returns: one row a verdict
SELECT i.verdict, count(*) AS series FROM image_series AS i GROUP BY i.verdict ORDER BY i.verdict
