-- linking/sql/add_transform.sql: the version of linking that makes rows.
-- why:     every row says by what it was made
-- params:  policy text, hash of the link settings
--          version text, version of linking
-- returns: nothing; does nothing when it is there
INSERT INTO transform (policy_hash, mapping_version, vocabulary_release)
VALUES (%(policy)s, %(version)s, '')
ON CONFLICT (policy_hash, mapping_version, vocabulary_release) DO NOTHING
