"""Identities: where the ids of CDM rows come from, and how identifiers are hashed."""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from typing import TYPE_CHECKING

from presage_platform.ledger.tables import TABLE_NUMBERS

if TYPE_CHECKING:
    import psycopg

RESOURCE_COUNTER = "resource"

_TAKE = """
INSERT INTO id_counter AS c (name, last_id) VALUES (%(name)s, %(count)s)
ON CONFLICT (name) DO UPDATE SET last_id = c.last_id + excluded.last_id
RETURNING last_id
"""


def next_ids(connection: psycopg.Connection, table: str, count: int) -> range:
    """Take `count` fresh ids of a CDM table, as the caller's transaction.

    Ids are dense and start at 1. Unlike a PostgreSQL sequence the counter rolls back with its transaction, so that a
    load which was killed and run again gives the ids of an undisturbed one.
    """
    if table not in TABLE_NUMBERS and table != RESOURCE_COUNTER:
        raise ValueError(f"no ids are kept for table {table}")
    if count == 0:
        return range(0)
    row = connection.execute(_TAKE, {"name": table, "count": count}).fetchone()
    assert row is not None
    last = int(row[0])
    return range(last - count + 1, last + 1)


def keyed_hash(secret: bytes, value: str, *, strip_leading_zeros: bool = False) -> str:
    """Return the HMAC-SHA256 of an identifier as 64 hex digits; NFKC, without surrounding blanks and NULs."""
    text = unicodedata.normalize("NFKC", value).replace("\0", "").strip()
    if strip_leading_zeros:
        text = text.lstrip("0")
    return hmac.new(secret, text.encode("utf-8"), hashlib.sha256).hexdigest()
