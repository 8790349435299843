-- status_pending.sql: references whose target has not arrived, by column.
SELECT column_name, count(*) FROM pending_reference GROUP BY column_name ORDER BY column_name
