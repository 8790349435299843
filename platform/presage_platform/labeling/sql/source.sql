-- labeling/sql/source.sql: how far the record reaches, and which vocabulary it is written in.
-- returns: one row; nulls where the database does not say
SELECT (SELECT extract(epoch FROM max(source_release_date))::bigint FROM cdm_source) AS release_day_s,
       (SELECT vocabulary_version FROM vocabulary WHERE vocabulary_id = 'None') AS vocabulary_version
