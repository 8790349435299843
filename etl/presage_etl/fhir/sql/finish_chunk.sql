-- finish_chunk.sql: the mark that a partition is staged.
-- why:     in the transaction of its rows, so that a kill leaves both or neither (E94)
-- params:  run_no, chunk_no, file_no, start_offset bigint; counts, notes jsonb
INSERT INTO chunk (run_no, chunk_no, file_no, start_offset, counts, notes, seconds)
VALUES (%(run_no)s, %(chunk_no)s, %(file_no)s, %(start_offset)s, %(counts)s, %(notes)s, '{}')
