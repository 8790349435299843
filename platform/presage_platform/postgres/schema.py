"""The schema as the ground floor sees it: three names, and an owner that lives in the migrations.

Nobody may import the migrations, so their owner is found through the entry point `presage.schema`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol

from presage_platform.errors import DatabaseError

if TYPE_CHECKING:
    from presage_platform.postgres.connection import Database

SCHEMA_GROUP = "presage.schema"


@dataclass(frozen=True)
class Schemas:
    """The names that the three schemas have in this database."""

    cdm: str = "cdm"
    ledger: str = "ledger"
    results: str = "results"

    @property
    def translation(self) -> dict[str, str]:
        """Declared name → name here, for SQLAlchemy's schema_translate_map."""
        return {"cdm": self.cdm, "ledger": self.ledger, "results": self.results}


class SchemaState(Protocol):
    """Which revision a database has."""

    @property
    def revision(self) -> str | None: ...

    @property
    def head(self) -> str: ...

    @property
    def is_current(self) -> bool: ...

    @property
    def is_empty(self) -> bool: ...


class SchemaOwner(Protocol):
    """What the entry point `presage.schema` provides: the migrations, which the ground floor may not import."""

    def ensure(self, database: Database) -> None:
        """Create the schema in an empty database; refuse a lagging or foreign one."""

    def state(self, database: Database) -> SchemaState:
        """Read which revision the database has."""

    def upgrade(self, database: Database) -> None:
        """Bring the database to the newest revision."""


def schema_owner() -> SchemaOwner:
    """Return the object that the entry point `presage.schema` names."""
    found = list(entry_points(group=SCHEMA_GROUP))
    if len(found) != 1:
        raise DatabaseError(
            f"{len(found)} packages offer the schema (entry point {SCHEMA_GROUP}), expected one: "
            "install presage with pip, the source tree alone is not enough"
        )
    owner: SchemaOwner = found[0].load()
    return owner
