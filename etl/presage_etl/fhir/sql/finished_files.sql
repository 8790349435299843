-- finished_files.sql: files that a finished run read with the same policies, mappings and vocabulary (E77).
-- why:     none from before the last change of older rows: such a file may hold what would win again (E78)
-- params:  source_no smallint, transform_no integer, extracted_on date, hashes bytea[]
-- returns: SHA-256 and counts of the latest such load, its run, whether copies competed in it, and its files
SELECT DISTINCT ON (f.sha256)
       f.sha256,
       f.counts,
       r.run_no,
       coalesce(CAST(r.counts ->> 'competing' AS boolean), false) AS is_competing,
       (SELECT array_agg(DISTINCT o.sha256) FROM source_file AS o WHERE o.run_no = r.run_no AND o.form <> 'empty')
           AS run_hashes
FROM source_file AS f
JOIN run AS r ON r.run_no = f.run_no
JOIN source AS s ON s.source_no = r.source_no
WHERE r.source_no = %(source_no)s
  AND r.transform_no = %(transform_no)s
  AND r.state = 'finished'
  AND r.extracted_on = %(extracted_on)s
  AND r.run_no >= coalesce(s.changed_by_run, 0)
  AND f.state IN ('finished', 'skipped')
  AND f.sha256 = ANY(%(hashes)s)
ORDER BY f.sha256, f.run_no DESC
