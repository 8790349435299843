-- chosen_letters.sql: unsolved dead letters that `platform etl retry` tries again (E97).
-- params:  source_no smallint; reason, type text or NULL; run_no bigint or NULL
-- returns: letter numbers
SELECT letter_no
FROM dead_letter
WHERE source_no = %(source_no)s
  AND resolved_by_run IS NULL
  AND payload IS NOT NULL
  AND (CAST(%(reason)s AS text) IS NULL OR split_part(reason, ':', 1) = split_part(%(reason)s, ':', 1))
  AND (CAST(%(type)s AS text) IS NULL OR resource_type = %(type)s)
  AND (CAST(%(run_no)s AS bigint) IS NULL OR %(run_no)s IN (run_no, last_run_no))
ORDER BY letter_no
