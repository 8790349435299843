"""An Athena vocabulary into the database: read by header, loaded beside the old one, swapped in at once (E14, E15).

One transaction makes new tables, fills them by binary COPY, and renames them into place; whatever fails before leaves
the old vocabulary in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql
from sqlalchemy import Date, Double, Integer, Table

from presage_etl.omop.floor import apply_floor
from presage_etl.omop.swap import LOADING, drop_duplicates, make_beside, swap_in
from presage_etl.omop.vocabulary_files import VocabularyFile, find_files, open_blocks
from presage_platform.errors import VocabularyError
from presage_platform.logs import get_logger
from presage_platform.omop import terminology
from presage_platform.postgres.bulk import copy_in
from presage_platform.progress import Progress

if TYPE_CHECKING:
    import psycopg

log = get_logger(__name__)

TABLES: tuple[Table, ...] = (
    terminology.concept,
    terminology.vocabulary,
    terminology.domain,
    terminology.concept_class,
    terminology.relationship,
    terminology.concept_relationship,
    terminology.concept_ancestor,
    terminology.drug_strength,
)
MAPPINGS = ("Maps to", "Maps to value")


@dataclass
class VocabularyReport:
    """What a load brought, and what it met on the way."""

    release: str = ""
    rows: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return the lines that the command prints."""
        counts = [f"  {name:<22}{count:>12,}" for name, count in self.rows.items()]
        remarks = [f"  note: {remark}" for remark in self.remarks]
        return "\n".join([f"vocabulary {self.release}", *counts, *remarks])


def load_vocabulary(
    path: Path,
    connection: psycopg.Connection[Any],
    *,
    all_relationships: bool = False,
    synonyms: bool = False,
) -> VocabularyReport:
    """Replace the vocabulary of the database by the one at `path`; the caller commits.

    Parameters
    ----------
    path
        A folder of Athena files, plain or gzipped, or their `.zip`.
    all_relationships
        Load every relationship, not only Maps to and Maps to value.
    synonyms
        Load the synonyms, if the download has them.

    Raises
    ------
    InputError
        When the path does not exist or holds no vocabulary file.
    VocabularyError
        When a file is not tab separated, lacks a column, holds a value that does not fit, or contradicts the floor.
    """
    files = find_files(path)
    tables = (*TABLES, terminology.concept_synonym) if synonyms else TABLES
    if "concept" not in files:
        raise VocabularyError(f"{path} holds no CONCEPT.csv: expected the files of an Athena download")
    report = VocabularyReport()
    with Progress("vocabulary", total=len(tables), unit="files") as bar:
        for table in tables:
            _load_table(table, files.get(table.name), connection, report, all_relationships=all_relationships)
            bar.advance(1)
    report.rows["concept"] += apply_floor(connection, report.remarks)
    _remark_gaps(connection, report)
    report.release = _stamp_release(files, connection)
    for table in tables:
        swap_in(connection, table.name)
    log.info("vocabulary loaded", extra={"fields": {"concepts": report.rows["concept"], "release": report.release}})
    return report


def _load_table(
    table: Table,
    file: VocabularyFile | None,
    connection: psycopg.Connection[Any],
    report: VocabularyReport,
    *,
    all_relationships: bool,
) -> None:
    make_beside(connection, table.name)
    report.rows[table.name] = 0
    if file is None:
        report.remarks.append(f"no file for {table.name}: the table is empty")
        return
    cut = 0
    for block in open_blocks(file, [column.name for column in table.columns]):
        if table.name == "concept_relationship" and not all_relationships:
            block = block.filter(pc.is_in(block["relationship_id"], pa.array(MAPPINGS)))
        fitted, num_cut = _fit(block, table, file)
        cut += num_cut
        report.rows[table.name] += copy_in(connection, f"{LOADING}{table.name}", fitted)
    if cut:
        report.remarks.append(f"{cut:,} texts of {table.name} were longer than their column and are cut")
    dropped = drop_duplicates(connection, table.name, [column.name for column in table.primary_key.columns])
    if dropped:
        report.rows[table.name] -= dropped
        report.remarks.append(f"{dropped:,} rows of {table.name} repeat a key: the first of each is kept")


def _fit(block: pa.Table, table: Table, file: VocabularyFile) -> tuple[pa.Table, int]:
    """Give every text column its type; text that is too long is cut and counted."""
    columns: dict[str, pa.ChunkedArray] = {}
    num_cut = 0
    for column in table.columns:
        text = block[column.name]
        try:
            if isinstance(column.type, Date):
                columns[column.name] = _dates(text)
            elif isinstance(column.type, Integer):
                columns[column.name] = pc.cast(text, pa.int64())
            elif isinstance(column.type, Double):
                columns[column.name] = pc.cast(text, pa.float64())
            else:
                columns[column.name], cut = _text(text, getattr(column.type, "length", None), bool(column.nullable))
                num_cut += cut
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise VocabularyError(
                f"{file.name}: column {column.name} holds a value that is no {_kind(column.type)}"
            ) from None
        if not column.nullable and columns[column.name].null_count:
            raise VocabularyError(f"{file.name}: column {column.name} is empty in some rows, expected a value in each")
    return pa.table(columns), num_cut


def _kind(column_type: Any) -> str:
    if isinstance(column_type, Date):
        return "date (YYYYMMDD)"
    return "whole number" if isinstance(column_type, Integer) else "number"


def _dates(text: pa.ChunkedArray) -> pa.ChunkedArray:
    compact = pc.replace_substring(text, "-", "")
    return pc.cast(pc.strptime(compact, format="%Y%m%d", unit="s"), pa.date32())


def _text(text: pa.ChunkedArray, width: int | None, nullable: bool) -> tuple[pa.ChunkedArray, int]:
    if not nullable:  # an empty name or code is a value here; only nullable columns read empty as NULL
        text = pc.fill_null(text, "")
    if width is None:
        return text, 0
    num_long = pc.sum(pc.greater(pc.utf8_length(text), width)).as_py() or 0
    return (pc.utf8_slice_codeunits(text, 0, width), num_long) if num_long else (text, 0)


def _remark_gaps(connection: psycopg.Connection[Any], report: VocabularyReport) -> None:
    """Say what a subset leaves open: rows that point at absent concepts, CPT4 codes without their names (E15)."""
    for name in ("concept", "concept_ancestor", "concept_relationship"):  # millions of rows: let the planner know
        connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(f"{LOADING}{name}")))
    for table, columns in (
        ("concept_ancestor", ("ancestor_concept_id", "descendant_concept_id")),
        ("concept_relationship", ("concept_id_1", "concept_id_2")),
    ):
        statement = sql.SQL(
            """
            SELECT count(*)
            FROM {table} AS r
            LEFT JOIN {concept} AS a ON a.concept_id = r.{first}
            LEFT JOIN {concept} AS b ON b.concept_id = r.{second}
            WHERE a.concept_id IS NULL OR b.concept_id IS NULL
            """
        ).format(
            table=sql.Identifier(f"{LOADING}{table}"),
            concept=sql.Identifier(f"{LOADING}concept"),
            first=sql.Identifier(columns[0]),
            second=sql.Identifier(columns[1]),
        )
        num_orphans = _count(connection, statement)
        if num_orphans:
            report.remarks.append(f"{num_orphans:,} rows of {table} name a concept that is absent (a subset)")
    unnamed = _count(
        connection,
        sql.SQL("SELECT count(*) FROM {} WHERE vocabulary_id = 'CPT4' AND concept_name = concept_code").format(
            sql.Identifier(f"{LOADING}concept")
        ),
    )
    if unnamed:
        report.remarks.append(f"{unnamed:,} CPT4 concepts have no name: run the CPT4 tool of the Athena download")


def _count(connection: psycopg.Connection[Any], statement: sql.Composed) -> int:
    row = connection.execute(statement).fetchone()
    return int(row[0]) if row else 0


def _stamp_release(files: dict[str, VocabularyFile], connection: psycopg.Connection[Any]) -> str:
    """Return the release, written into the table when the files name none (E15)."""
    vocabulary = sql.Identifier(f"{LOADING}vocabulary")
    row = connection.execute(
        sql.SQL("SELECT vocabulary_version FROM {} WHERE vocabulary_id = 'None'").format(vocabulary)
    ).fetchone()
    if row is not None and row[0]:
        return str(row[0])
    release = f"unversioned-{_checksum(files['concept'])}"
    connection.execute(
        sql.SQL(
            """
            INSERT INTO {} (vocabulary_id, vocabulary_name, vocabulary_version, vocabulary_concept_id)
            VALUES ('None', 'OMOP Standardized Vocabularies', %(release)s, 0)
            """
        ).format(vocabulary)
        if row is None
        else sql.SQL("UPDATE {} SET vocabulary_version = %(release)s WHERE vocabulary_id = 'None'").format(vocabulary),
        {"release": release},
    )
    return release


def _checksum(file: VocabularyFile) -> str:
    digest = blake2b(digest_size=4)
    for chunk in _chunks(file):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(file: VocabularyFile) -> Iterator[bytes]:
    with file.open() as stream:
        while chunk := stream.read(1 << 20):
            yield chunk
