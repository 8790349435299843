-- linking/sql/add_source.sql: the source under which rows made from images are kept.
-- why:     ids of the health record and of the archive never collide
-- params:  none
-- returns: nothing; does nothing when it is there
INSERT INTO source (name) VALUES ('dicom') ON CONFLICT (name) DO NOTHING
