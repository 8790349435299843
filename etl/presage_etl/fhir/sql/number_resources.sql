-- number_resources.sql: resources that go on, with their number; new ones are numbered in the order of their keys.
-- why:     the order of files, chunks and workers must not show in any id (E76)
-- params:  last_no bigint, highest number in use
-- needs:   candidate, dying
-- makes:   kept (as candidate, with resource_no and is_new)
CREATE TEMP TABLE kept ON COMMIT DROP AS
SELECT c.*,
       c.held_no IS NULL AS is_new,
       coalesce(
           c.held_no,
           CAST(%(last_no)s AS bigint) + row_number() OVER (
               PARTITION BY c.held_no IS NULL
               ORDER BY c.resource_type COLLATE "C", c.resource_id COLLATE "C"
           )
       ) AS resource_no
FROM candidate AS c
WHERE NOT EXISTS (SELECT FROM dying AS d WHERE d.stage_no = c.stage_no)
