"""The declarations as statements: what a revision is written from, so that it stays what it was when they change.

`python -m presage_migrations.statements > migrations/presage_migrations/versions/rNNNN_….sql` writes the statements of
all that is declared; a revision keeps those that are new. Schemas stand as `{cdm}` and `{ledger}`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable, SetColumnComment, SetTableComment

from presage_migrations.declared import DECLARED

SCHEMAS = ("cdm", "ledger", "results")


def statements() -> Iterator[str]:
    """Yield every CREATE and COMMENT of the declared tables, in an order in which they can run."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for metadata in DECLARED:
        for table in metadata.sorted_tables:
            for element in _elements(table):
                yield " ".join(str(element.compile(dialect=dialect)).split())


def text() -> str:
    """Return the statements as a file, one a paragraph, schema names as placeholders."""
    paragraphs = []
    for statement in statements():
        for schema in SCHEMAS:
            statement = statement.replace(f"{schema}.", f"{{{schema}}}.")
        paragraphs.append(statement + ";")
    return "\n".join(paragraphs) + "\n"


def _elements(table: Table) -> Iterator[Any]:
    yield CreateTable(table)
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        yield CreateIndex(index)
    if table.comment:
        yield SetTableComment(table)
    for column in table.columns:
        if column.comment:
            yield SetColumnComment(column)


if __name__ == "__main__":
    print(text(), end="")
