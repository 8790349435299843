"""The part of the vocabulary that labels need, from the database or from Parquet files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from presage_platform.errors import InputError
from presage_platform.labeling.ontology import MAX_REPLACEMENTS, Vocabulary
from presage_platform.labeling.statements import statement
from presage_platform.postgres.bulk import copy_out

CONCEPT_COLUMNS = (
    "concept_id",
    "concept_name",
    "domain_id",
    "vocabulary_id",
    "concept_class_id",
    "standard_concept",
    "concept_code",
)
PAIR = pa.schema([("concept_id_1", pa.int64()), ("concept_id_2", pa.int64())])
STEP = pa.schema([("ancestor_concept_id", pa.int64()), ("descendant_concept_id", pa.int64())])
Ids = NDArray[np.int64]


def from_database(connection: Any, present: Ids, version: str, *, with_parents: bool = False) -> Vocabulary:
    """Read what concerns the concepts present, filtered on the server, in the caller's transaction."""

    def pairs(kind: str, ids: Ids) -> pa.Table:
        return copy_out(connection, statement("relationships"), {"kind": kind, "ids": ids.tolist()}).cast(PAIR)

    def concepts(ids: Ids) -> pa.Table:
        return copy_out(connection, statement("concepts"), {"ids": ids.tolist()})

    def ancestors(ids: Ids) -> pa.Table:
        return copy_out(connection, statement("ancestors"), {"ids": ids.tolist()})

    def parents(ids: Ids) -> pa.Table:
        return copy_out(connection, statement("direct_parents"), {"ids": ids.tolist()}).cast(STEP)

    return _gather(present, version, pairs, concepts, ancestors, parents if with_parents else None)


def from_folder(folder: Path, present: Ids, *, with_parents: bool = False) -> Vocabulary:
    """Read `concept.parquet`, `concept_ancestor.parquet` and, where it exists, `concept_relationship.parquet`."""
    all_concepts = _parquet(folder / "concept.parquet", CONCEPT_COLUMNS)
    all_ancestors = _parquet(
        folder / "concept_ancestor.parquet",
        ("ancestor_concept_id", "descendant_concept_id", "min_levels_of_separation"),
    )
    path = folder / "concept_relationship.parquet"
    relations = _parquet(path, ("concept_id_1", "concept_id_2", "relationship_id")) if path.exists() else None

    def pairs(kind: str, ids: Ids) -> pa.Table:
        if relations is None:
            return PAIR.empty_table()
        rows = relations.filter(pc.equal(relations.column("relationship_id"), kind))
        return _among(rows, "concept_id_1", ids).select(["concept_id_1", "concept_id_2"]).cast(PAIR)

    def parents(ids: Ids) -> pa.Table:
        one_step = all_ancestors.filter(pc.equal(all_ancestors.column("min_levels_of_separation"), 1))
        return _among(one_step, "descendant_concept_id", ids).select(STEP.names).cast(STEP)

    return _gather(
        present,
        "",
        pairs,
        lambda ids: _among(all_concepts, "concept_id", ids),
        lambda ids: _among(all_ancestors, "descendant_concept_id", ids),
        parents if with_parents else None,
    )


def names_from_database(connection: Any, ids: list[int]) -> dict[int, str]:
    """Return the names of some concepts."""
    return _names(copy_out(connection, statement("concepts"), {"ids": ids}))


def names_from_folder(folder: Path, ids: list[int]) -> dict[int, str]:
    """Return the names of some concepts, from `concept.parquet`."""
    return _names(
        _among(_parquet(folder / "concept.parquet", CONCEPT_COLUMNS), "concept_id", np.array(ids, dtype=np.int64))
    )


def _names(concepts: pa.Table) -> dict[int, str]:
    columns = (concepts.column(name).to_pylist() for name in ("concept_id", "concept_name"))
    return dict(zip(*columns, strict=True))


def _gather(
    present: Ids,
    version: str,
    pairs: Callable[[str, Ids], pa.Table],
    concepts: Callable[[Ids], pa.Table],
    ancestors: Callable[[Ids], pa.Table],
    parents: Callable[[Ids], pa.Table] | None,
) -> Vocabulary:
    maps_to, replaced_by = [PAIR.empty_table()], [PAIR.empty_table()]
    reached = current = present
    for _ in range(MAX_REPLACEMENTS + 1):
        maps_to.append(pairs("Maps to", current))
        replaced_by.append(pairs("Concept replaced by", current))
        current = np.setdiff1d(_ids(replaced_by[-1], "concept_id_2"), reached)
        reached = np.union1d(reached, current)
        if len(current) == 0:
            break
    mapping = pa.concat_tables(maps_to)
    reached = np.union1d(reached, _ids(mapping, "concept_id_2"))
    above = ancestors(reached)
    if above.num_rows == 0:
        raise InputError(
            "cdm: concept_ancestor has no row for the concepts of this record, expected their hierarchy: load a "
            "vocabulary with `platform etl vocabulary`"
        )
    steps = None
    if parents is not None:
        steps, more, reached = _climb(reached, parents, lambda ids: pairs("Maps to", ids))
        mapping = pa.concat_tables([mapping, more])
    named = concepts(np.union1d(reached, _ids(above, "ancestor_concept_id")))
    return Vocabulary(named, above, mapping, pa.concat_tables(replaced_by), version, steps)


def _climb(
    reached: Ids, parents: Callable[[Ids], pa.Table], maps_to: Callable[[Ids], pa.Table]
) -> tuple[pa.Table, pa.Table, Ids]:
    """Return the direct parents above some concepts up to the roots, mappings met on the way, and all concepts met."""
    steps, mappings, open_ = [STEP.empty_table()], [PAIR.empty_table()], reached
    while len(open_):
        steps.append(parents(open_))
        mappings.append(maps_to(open_))
        met = np.union1d(_ids(steps[-1], "ancestor_concept_id"), _ids(mappings[-1], "concept_id_2"))
        open_ = np.setdiff1d(met, reached)
        reached = np.union1d(reached, met)
    return pa.concat_tables(steps), pa.concat_tables(mappings), reached


def _ids(table: pa.Table, name: str) -> Ids:
    return np.unique(np.asarray(table.column(name).combine_chunks()).astype(np.int64))


def _among(table: pa.Table, name: str, ids: Ids) -> pa.Table:
    return table.filter(pc.is_in(table.column(name).cast(pa.int64()), value_set=pa.array(ids, pa.int64())))


def _parquet(path: Path, columns: tuple[str, ...]) -> pa.Table:
    try:
        return pq.read_table(path, columns=list(columns))
    except (OSError, ValueError, KeyError):
        raise InputError(
            f"vocabulary: {path.name} cannot be read or lacks a column, expected Parquet with {', '.join(columns)}"
        ) from None
