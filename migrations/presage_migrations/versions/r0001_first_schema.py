"""First schema: the CDM 5.4 with MI-CDM, the ledger, results, and the three roles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import psycopg
from alembic import context, op
from psycopg import sql

from presage_platform.logs import get_logger
from presage_platform.postgres.roles import grant_roles
from presage_platform.postgres.schema import Schemas

revision = "r0001"
down_revision = None

log = get_logger(__name__)

STATEMENTS = Path(__file__).with_suffix(".sql")


def upgrade() -> None:
    """Create schemas, tables and roles."""
    schemas: Schemas = context.config.attributes["schemas"]
    driver = cast("psycopg.Connection[Any]", op.get_bind().connection.driver_connection)
    for name in schemas.translation.values():
        driver.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(name)))
    driver.execute(sql.SQL(STATEMENTS.read_text(encoding="utf-8")).format(**_names(schemas)))
    refused = grant_roles(driver, schemas)
    if refused:
        log.warning("the login may not make the roles", extra={"fields": {"statements": len(refused)}})


def downgrade() -> None:
    """Drop every table; roles belong to the server and stay."""
    schemas: Schemas = context.config.attributes["schemas"]
    driver = cast("psycopg.Connection[Any]", op.get_bind().connection.driver_connection)
    for table in reversed(re.findall(r"^CREATE (?:UNLOGGED )?TABLE (\S+)", STATEMENTS.read_text(), re.MULTILINE)):
        driver.execute(sql.SQL("DROP TABLE " + table + " CASCADE").format(**_names(schemas)))


def _names(schemas: Schemas) -> dict[str, sql.Identifier]:
    return {declared: sql.Identifier(name) for declared, name in schemas.translation.items()}
