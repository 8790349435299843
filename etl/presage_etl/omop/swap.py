"""New tables beside the old ones, then in their place: readers see old rows or new ones, nothing between (E15)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql

if TYPE_CHECKING:
    import psycopg

LOADING = "loading_"


def make_beside(connection: psycopg.Connection[Any], table: str) -> None:
    """Make an empty table like `table`, without its keys and indexes."""
    beside = sql.Identifier(f"{LOADING}{table}")
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(beside))
    connection.execute(
        sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING COMMENTS)").format(beside, sql.Identifier(table))
    )


def drop_duplicates(connection: psycopg.Connection[Any], table: str, key: list[str]) -> int:
    """Keep the first row of each key; return how many others there were."""
    if not key:
        return 0
    columns = sql.SQL(", ").join(sql.Identifier(name) for name in key)
    repeated = connection.execute(
        sql.SQL("SELECT 1 FROM {} GROUP BY {} HAVING count(*) > 1 LIMIT 1").format(
            sql.Identifier(f"{LOADING}{table}"), columns
        )
    ).fetchone()
    if repeated is None:
        return 0
    cursor = connection.execute(
        sql.SQL(
            """
            DELETE FROM {table} WHERE ctid IN (
                SELECT ctid
                FROM (SELECT ctid, row_number() OVER (PARTITION BY {columns} ORDER BY ctid) AS place FROM {table}) AS r
                WHERE place > 1
            )
            """
        ).format(table=sql.Identifier(f"{LOADING}{table}"), columns=columns)
    )
    return cursor.rowcount


def swap_in(connection: psycopg.Connection[Any], table: str) -> None:
    """Index the new table like the old one, put it in its place, and give it the old one's names and rights."""
    beside = sql.Identifier(f"{LOADING}{table}")
    indexes = _indexes(connection, table)
    for _, primary, columns in indexes:
        listed = sql.SQL(", ").join(sql.Identifier(column) for column in columns)
        statement = "ALTER TABLE {} ADD PRIMARY KEY ({})" if primary else "CREATE INDEX ON {} ({})"
        connection.execute(sql.SQL(statement).format(beside, listed))
    grants = _grants(connection, table)
    comment = connection.execute("SELECT obj_description(CAST(to_regclass(%s) AS oid), 'pg_class')", [table]).fetchone()
    connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(table)))
    connection.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(beside, sql.Identifier(table)))
    by_columns = {(primary, columns): name for name, primary, columns in indexes}
    for name, primary, columns in _indexes(connection, table):
        wanted = by_columns[(primary, columns)]
        if name != wanted:
            connection.execute(
                sql.SQL("ALTER INDEX {} RENAME TO {}").format(sql.Identifier(name), sql.Identifier(wanted))
            )
    if comment and comment[0]:
        connection.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(sql.Identifier(table), sql.Literal(comment[0])))
    for grantee, privilege in grants:
        connection.execute(
            sql.SQL("GRANT {} ON {} TO {}").format(sql.SQL(privilege), sql.Identifier(table), sql.Identifier(grantee))
        )
    connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(table)))


def _indexes(connection: psycopg.Connection[Any], table: str) -> list[tuple[str, bool, tuple[str, ...]]]:
    """Return (name, is primary key, columns) of a table's indexes; vocabulary tables have plain ones only."""
    rows = connection.execute(
        """
        SELECT c.relname, i.indisprimary,
               (SELECT array_agg(a.attname ORDER BY k.place)
                FROM unnest(i.indkey) WITH ORDINALITY AS k(number, place)
                JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number)
        FROM pg_index AS i
        JOIN pg_class AS c ON c.oid = i.indexrelid
        WHERE i.indrelid = CAST(to_regclass(%s) AS oid)
        ORDER BY NOT i.indisprimary, c.relname
        """,
        [table],
    ).fetchall()
    return [(str(name), bool(primary), tuple(str(column) for column in columns)) for name, primary, columns in rows]


def _grants(connection: psycopg.Connection[Any], table: str) -> list[tuple[str, str]]:
    rows = connection.execute(
        """
        SELECT r.rolname, a.privilege_type
        FROM pg_class AS c
        CROSS JOIN LATERAL aclexplode(c.relacl) AS a
        JOIN pg_roles AS r ON r.oid = a.grantee
        WHERE c.oid = CAST(to_regclass(%s) AS oid) AND a.grantee <> c.relowner
        """,
        [table],
    ).fetchall()
    return [(str(grantee), str(privilege)) for grantee, privilege in rows]
