-- linking/sql/visits.sql: the visits of persons, as an earliest start and a latest end.
-- why:     a date without a clock time is some time that day
-- params:  ids bigint[], persons
-- returns: one row a visit
SELECT v.visit_occurrence_id, v.person_id,
       coalesce(v.visit_start_datetime, v.visit_start_date::timestamp) AS earliest,
       coalesce(v.visit_end_datetime, v.visit_end_date::timestamp + interval '1 day' - interval '1 microsecond') AS latest
FROM visit_occurrence AS v
WHERE v.person_id = ANY (%(ids)s)
