"""What a labeling run reads: a snapshot, an index, a vocabulary; from the database, or from files alone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from psycopg import errors

from presage_platform.errors import InputError, IntegrityError
from presage_platform.labeling.exclusions import locked_concepts
from presage_platform.labeling.index import IndexRows, choose_t0, read_index_file
from presage_platform.labeling.ontology import Vocabulary
from presage_platform.labeling.overlap import Keys, image_keys
from presage_platform.labeling.paper_labels import PAPER_MODES
from presage_platform.labeling.side_tables import numbers
from presage_platform.labeling.statements import statement
from presage_platform.labeling.timeline import Snapshot
from presage_platform.labeling.vocabulary import from_database, from_folder, names_from_database, names_from_folder
from presage_platform.postgres.bulk import copy_out

if TYPE_CHECKING:
    from presage_platform.postgres.connection import Database
    from presage_platform.settings import Settings


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """Everything that labels are made from.

    `guard` maps outcome tasks to the concepts of their locks; `series` holds study_id and series_uid where there is a
    ledger; `names` the words of race and ethnicity concepts.
    """

    snapshot: Snapshot
    rows: IndexRows
    vocabulary: Vocabulary
    guard: dict[str, list[int]]
    series: pa.Table | None
    names: dict[int, str]
    volumes_dir: Path
    seconds: dict[str, float]

    def image_keys(self, rows: IndexRows) -> dict[str, Keys]:
        """Return image UIDs and volume contents by row of `rows`."""
        return image_keys(self.series, self.volumes_dir, rows.study_id)


def read_from_database(
    settings: Settings, database: Database, *, index_file: Path | None, guard: Path | None
) -> Inputs:
    """Extract (or find) the snapshot, then read index and vocabulary."""
    from presage_platform.labeling.extraction import extract_snapshot

    start = time.perf_counter()
    try:
        snapshot = extract_snapshot(database, settings.labeling, settings.timeline_dir)
    except (errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction, errors.DatatypeMismatch):
        raise InputError(
            "cdm: a table or column that labels are made from is missing or of another type, expected the CDM 5.4: run "
            "`platform db upgrade`"
        ) from None
    seconds = {"snapshot": round(time.perf_counter() - start, 3)}
    _refuse_empty(snapshot)
    paper = settings.labeling.mode in PAPER_MODES
    with database.connect() as connection:
        rows = _index(connection, snapshot, index_file)
        return Inputs(
            snapshot=snapshot,
            rows=rows,
            vocabulary=from_database(
                connection, snapshot.concepts, snapshot.manifest["vocabulary_version"], with_parents=paper
            ),
            guard=_guard(settings, guard),
            series=copy_out(connection, statement("image_uid")) if index_file is None else None,
            names=names_from_database(connection, _origin_concepts(snapshot)),
            volumes_dir=settings.volumes_dir,
            seconds=seconds,
        )


def read_from_files(
    settings: Settings, *, index_file: Path, snapshot_id: str, vocabulary: Path, guard: Path | None
) -> Inputs:
    """Read an index file, a snapshot that is there, and a vocabulary folder: no database is used."""
    snapshot = Snapshot.open(settings.timeline_dir / snapshot_id)
    _refuse_empty(snapshot)
    persons = numbers(snapshot.table("person"), "person_id")
    return Inputs(
        snapshot=snapshot,
        rows=read_index_file(index_file, data_cut_s=snapshot.data_cut_s, known_persons=persons),
        vocabulary=from_folder(vocabulary, snapshot.concepts, with_parents=settings.labeling.mode in PAPER_MODES),
        guard=_guard(settings, guard),
        series=None,
        names=names_from_folder(vocabulary, _origin_concepts(snapshot)),
        volumes_dir=settings.volumes_dir,
        seconds={},
    )


def _index(connection: Any, snapshot: Snapshot, index_file: Path | None) -> IndexRows:
    persons = numbers(snapshot.table("person"), "person_id")
    if index_file is not None:
        return read_index_file(index_file, data_cut_s=snapshot.data_cut_s, known_persons=persons)
    linked = copy_out(connection, statement("num_linked")).to_pylist()[0]
    rows = choose_t0(
        copy_out(connection, statement("linked_study")),
        data_cut_s=snapshot.data_cut_s,
        num_linked=(linked["studies"], linked["persons"]),
    )
    if len(rows.study_id) == 0:
        raise InputError(
            f"index: {linked['studies']} linked studies, {rows.num_usable[0]} with a usable series, none with an index "
            "time: expected at least one; run `platform etl dicom` and `platform link`, or name studies with --index"
        )
    if not np.isin(rows.person_id, persons).all():
        raise InputError("index: a linked study's person is not in the CDM: run `platform link` again")
    return rows


def _guard(settings: Settings, guard: Path | None) -> dict[str, list[int]]:
    folder = guard or settings.labeling.guard
    if folder is None:
        folder = settings.workspace / "tasks"
        return locked_concepts(folder) if folder.is_dir() else {}
    return locked_concepts(folder)


def _origin_concepts(snapshot: Snapshot) -> list[int]:
    person = snapshot.table("person")
    found = {c for name in ("race_concept_id", "ethnicity_concept_id") for c in person.column(name).to_pylist()}
    return sorted(concept for concept in found if concept)


def _refuse_empty(snapshot: Snapshot) -> None:
    if snapshot.manifest["num_events"] == 0:
        raise IntegrityError(
            "labels: the record holds no event with a concept, expected some: load records with `platform etl fhir` "
            "and a vocabulary with `platform etl vocabulary`"
        )
