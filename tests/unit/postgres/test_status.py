"""What is shown of a connection never holds its password."""

from __future__ import annotations

import pytest

from presage_platform.postgres.connection import Database, Schemas
from presage_platform.postgres.status import masked_url


@pytest.mark.parametrize(
    ("conninfo", "shown"),
    [
        ("postgresql://u:secret@db.example:5433/cdm", "postgresql://u:***@db.example:5433/cdm"),
        ("host=/run/pg user=u dbname=cdm password=secret", "postgresql://u:***@/cdm?host=/run/pg"),
        ("host=h dbname=d sslmode=require", "postgresql://h/d?sslmode=require"),
        ("postgresql://a%40b:secret@h/d?connect_timeout=3", "postgresql://a%40b:***@h/d"),
    ],
)
def test_p13_password_is_masked(conninfo: str, shown: str) -> None:
    assert masked_url(conninfo) == shown


def test_p13_database_does_not_show_its_connection_string() -> None:
    database = Database("password=secret", "password=secret", Schemas(), run_name="presage/test/0")
    assert "secret" not in repr(database)
