"""First schema: the CDM 5.4 with MI-CDM, the ledger, results, and the three roles."""

from __future__ import annotations

from typing import Any, cast

import psycopg
from alembic import context, op
from psycopg import sql

from presage_migrations.declared import DECLARED
from presage_platform.logs import get_logger
from presage_platform.postgres.roles import grant_roles
from presage_platform.postgres.schema import Schemas

revision = "r0001"
down_revision = None

log = get_logger(__name__)


def upgrade() -> None:
    """Create schemas, tables and roles."""
    schemas: Schemas = context.config.attributes["schemas"]
    driver = cast("psycopg.Connection[Any]", op.get_bind().connection.driver_connection)
    for name in schemas.translation.values():
        driver.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(name)))
    for metadata in DECLARED:
        metadata.create_all(op.get_bind(), checkfirst=False)
    refused = grant_roles(driver, schemas)
    if refused:
        log.warning("the login may not make the roles", extra={"fields": {"statements": len(refused)}})


def downgrade() -> None:
    """Drop every table; roles belong to the server and stay."""
    for metadata in reversed(DECLARED):
        metadata.drop_all(op.get_bind(), checkfirst=False)
