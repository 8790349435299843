"""The few kinds of column that the OMOP CDM is made of, so that table declarations read like the specification.

Keys and references between clinical tables are bigint (the CDM says integer): a hospital outgrows 2^31 measurements.
Concept ids stay integer, as published. Foreign keys into the vocabulary are never created: subsets and dumps point at
absent concepts.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Date, Double, ForeignKey, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.dialects.postgresql import TIMESTAMP

from presage_platform.ledger.metadata import NAMING_CONVENTION

cdm_metadata = MetaData(schema="cdm", naming_convention=NAMING_CONVENTION)

REQUIRED = True


def table(name: str, comment: str, *columns: Column, schema: str = "cdm") -> Table:  # type: ignore[type-arg]
    """Declare one table; columns that `reference` or `event_id` marked as sparse get an index of their filled rows."""
    declared = Table(name, cdm_metadata, *columns, schema=schema, comment=comment)
    for column in declared.columns:
        if column.info.get("sparse_index"):
            Index(None, column, postgresql_where=column.is_not(None))
    return declared


def key(name: str) -> Column[int]:
    """Primary key of a clinical table; its values come from a sequence of the ledger."""
    return Column(name, BigInteger, primary_key=True, autoincrement=False)


def reference(
    name: str, target: str, required: bool = False, *, index: bool = False, sparse_index: bool = False
) -> Column[int]:
    """Enforced reference to a key (`table.column`); `sparse_index` suits references that most rows leave empty."""
    foreign_key = ForeignKey(f"cdm.{target}", deferrable=True, initially="IMMEDIATE")
    info = {"sparse_index": sparse_index}
    return Column(name, BigInteger, foreign_key, nullable=not required, index=index or None, info=info)


def event_id(name: str, required: bool = False, *, index: bool = False) -> Column[int]:
    """Id of a row whose table is named by a concept beside it, or that the CDM leaves without a constraint."""
    return Column(name, BigInteger, nullable=not required, index=index or None)


def concept_id(name: str, required: bool = False, *, index: bool = False) -> Column[int]:
    """Concept id: 0 when nothing matches."""
    return Column(name, Integer, nullable=not required, index=index or None)


def concept_key(name: str) -> Column[int]:
    """Primary key of the concept table."""
    return Column(name, Integer, primary_key=True, autoincrement=False)


def integer(name: str, required: bool = False) -> Column[int]:
    """Whole number of 32 bits."""
    return Column(name, Integer, nullable=not required)


def real(name: str, required: bool = False) -> Column[float]:
    """The CDM's float: double precision, NaN and infinity included."""
    return Column(name, Double, nullable=not required)


def date(name: str, required: bool = False) -> Column:  # type: ignore[type-arg]
    """Calendar day at the bedside."""
    return Column(name, Date, nullable=not required)


def moment(name: str, required: bool = False) -> Column:  # type: ignore[type-arg]
    """The CDM's datetime: local wall-clock time without zone."""
    return Column(name, TIMESTAMP(timezone=False), nullable=not required)


def text(
    name: str, width: int | None, required: bool = False, *, index: bool = False, free_text: bool = False
) -> Column[str]:
    """Text of at most `width` characters; `free_text` columns are hidden from the role of SQL tasks."""
    kind = Text() if width is None else String(width)
    return Column(name, kind, nullable=not required, index=index or None, info={"free_text": free_text})


def text_key(name: str, width: int) -> Column[str]:
    """Primary key that is a word."""
    return Column(name, String(width), primary_key=True)
