-- labeling/sql/num_linked.sql: how many studies and persons are linked, usable or not.
-- returns: one row of counts, the start of the attrition table
SELECT count(*) AS studies, count(DISTINCT person_id) AS persons FROM study_link
