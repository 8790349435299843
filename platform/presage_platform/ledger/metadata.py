"""The one collection on which every ledger table registers, so that migrations see them all together.

The schema name is a token: connections translate it to the configured name (`database.schemas`).
"""

from __future__ import annotations

from sqlalchemy import MetaData

NAMING_CONVENTION = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}

ledger_metadata = MetaData(schema="ledger", naming_convention=NAMING_CONVENTION)
