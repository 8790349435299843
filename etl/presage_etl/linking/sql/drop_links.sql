-- linking/sql/drop_links.sql: links of studies that went into quarantine.
-- why:     a study is linked or in quarantine, never both
-- params:  ids bigint[], studies
-- returns: nothing
DELETE FROM study_link WHERE study_id = ANY (%(ids)s)
