-- letters.sql: the payloads of dead letters that are tried again.
-- params:  letters bigint[], numbers of the letters
-- returns: letter, payload (zstd), and where it came from
SELECT letter_no, payload, coalesce(file_no, 0), coalesce(byte_offset, 0), line, last_run_no
FROM dead_letter
WHERE letter_no = ANY(%(letters)s) AND payload IS NOT NULL
ORDER BY letter_no
