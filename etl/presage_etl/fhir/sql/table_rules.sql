-- table_rules.sql: indexes and constraints of tables, with the statements that make them again.
-- why:     keys that other tables point to stay, and so does what is not about order or reference
-- params:  tables text[], names on the search path
-- returns: schema, table, name, kind (p primary key, u unique, f foreign key, i index), definition
WITH named AS (
    SELECT CAST(CAST(quote_ident(name) AS regclass) AS oid) AS table_id FROM unnest(%(tables)s::text[]) AS name
)
SELECT n.nspname, c.relname, k.conname, CAST(k.contype AS text), pg_get_constraintdef(k.oid)
FROM named
JOIN pg_class AS c ON c.oid = named.table_id
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_constraint AS k ON k.conrelid = c.oid AND k.contype IN ('p', 'u', 'f')
WHERE k.contype = 'f'
   OR NOT EXISTS (SELECT FROM pg_constraint AS other WHERE other.confrelid = c.oid AND other.conindid = k.conindid)
UNION ALL
SELECT n.nspname, c.relname, x.relname, 'i', pg_get_indexdef(x.oid)
FROM named
JOIN pg_index AS i ON i.indrelid = named.table_id
JOIN pg_class AS c ON c.oid = i.indrelid
JOIN pg_class AS x ON x.oid = i.indexrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid)
