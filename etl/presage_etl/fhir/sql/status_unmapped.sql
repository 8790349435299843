-- status_unmapped.sql: codes without a standard concept, by code system.
SELECT system, count(*) AS codes, CAST(sum(count) AS bigint) AS uses
FROM unmapped_code
GROUP BY system
ORDER BY uses DESC, system
