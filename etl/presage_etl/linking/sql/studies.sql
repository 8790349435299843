-- linking/sql/studies.sql: what the headers of each study say, as far as linking needs it.
-- why:     linking works on studies, whatever the verdict of their series
-- params:  none
-- returns: one row a study: its keyed hashes, demographics and times
SELECT s.study_id, s.study_uid, s.patient_key, s.issuer, s.other_patient_keys, s.accession_key, s.accession_issuer,
       s.sex, s.birth_year, s.study_dt, s.study_date_written, s.num_patient_keys,
       first.image_dt, first.image_dt_precision,
       coalesce(series.across_patients, false) AS across_patients,
       coalesce(accession.keys, '{}') AS more_accession_keys,
       coalesce(accession.issuers, '{}') AS more_accession_issuers
FROM image_study AS s
LEFT JOIN LATERAL (
    SELECT i.image_dt, i.image_dt_precision
    FROM image_series AS i
    WHERE i.study_id = s.study_id AND i.image_dt IS NOT NULL
    ORDER BY i.rank NULLS LAST, i.image_dt, i.series_key
    LIMIT 1
) AS first ON true
LEFT JOIN LATERAL (
    SELECT bool_or(i.verdict = 'rejected_uid_across_patients') AS across_patients
    FROM image_series AS i
    WHERE i.study_id = s.study_id
) AS series ON true
LEFT JOIN LATERAL (
    SELECT array_agg(a.accession_key ORDER BY a.accession_key) AS keys,
           array_agg(a.issuer ORDER BY a.accession_key) AS issuers
    FROM study_accession AS a
    WHERE a.study_id = s.study_id
) AS accession ON true
ORDER BY s.study_id
