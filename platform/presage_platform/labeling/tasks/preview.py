"""A look at what a task labels: counts of states, and for whoever may see patients the rows behind sampled states."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from presage_platform.errors import UsageError
from presage_platform.labeling.event import SECONDS_PER_DAY, Event
from presage_platform.labeling.store import LabelStore, open_labels
from presage_platform.labeling.tasks.compile import Compiled
from presage_platform.labeling.tasks.cost import CostGate
from presage_platform.labeling.tasks.definition import Task
from presage_platform.labeling.tasks.engine import prepare_in, run_ready, task_index
from presage_platform.labeling.tasks.execute import Evidence
from presage_platform.labeling.tasks.locks import Lock
from presage_platform.labeling.tasks.records import CLINICAL
from presage_platform.labeling.tasks.results import TaskIndex
from presage_platform.labeling.timeline import Snapshot
from presage_platform.postgres.connection import open_database

if TYPE_CHECKING:
    from presage_platform.settings import Settings

Row = dict[str, Any]
TABLE_BITS = 7
NO_EVENT: Row = {"time": None, "concept_id": None, "table": None, "row_id": None}
TABLES = ("condition_occurrence", "procedure_occurrence", "drug_exposure", "measurement", "observation",
          "device_exposure", "visit_occurrence", "death")  # fmt: skip
"""By the table bits of an event's flags (labeling L7)."""


def preview(settings: Settings, path: Path, *, number: int, show_patients: bool, seed: int) -> dict[str, Any]:
    """Run one task on the only label store.

    Returns
    -------
    dict
        `states` (counts), `dropped` (candidates by reason), `rows`: a seeded sample of `number` studies a state, each
        with its candidate events in order of time; empty unless `show_patients`. A row of evidence has study, state,
        days (from t0, negative before it), date, concept, table, row_id, and decided: the row that made the state.
    """
    store = open_labels(settings)
    with open_database(settings, command="tasks") as database:
        ready = prepare_in([path], database)
        snapshot = Snapshot.open(settings.timeline_dir / store.manifest["inputs"]["snapshot_id"])
        index = task_index(store.path)
        outcomes = run_ready(
            ready,
            index,
            data_cut_s=data_cut_s(store),
            snapshot=snapshot,
            database=database,
            gate=CostGate.of_settings(settings.labeling),
            keep_evidence=True,
        )
        for error in outcomes.failures.values():
            raise error
        (compiled, lock), (result,) = ready[0], outcomes.results.values()
        rows = result.rows.to_pylist()
        document: dict[str, Any] = {
            "states": dict(sorted(Counter(row["state"] for row in rows).items())),
            "dropped": result.dropped,
            "rows": [],
        }
        if show_patients:
            chosen = _sample(rows, number, seed)
            evidence = outcomes.evidence.get(compiled.task.name)
            found = (
                _events_of(lock, index, snapshot, chosen)
                if evidence is None
                else _candidates_of(compiled, evidence, chosen)
            )
            with database.connect() as connection:
                t0_s = index.facts.t0_s.tolist()
                start_s = (
                    [t0 + row["entry_s"] for t0, row in zip(t0_s, rows, strict=True)]
                    if evidence is None
                    else evidence.windows.risk_start_s.tolist()
                )
                document["rows"] = list(_shown(rows, t0_s, start_s, chosen, list(found), connection))
    return document


def write_privately(settings: Settings, path: Path, document: dict[str, Any]) -> None:
    """Write a preview to a file inside the workspace that nobody else can read.

    Raises
    ------
    UsageError
        If the file would lie elsewhere.
    """
    target = path.resolve()
    if not target.is_relative_to(settings.workspace.resolve()):
        raise UsageError(f"usage: --out {path} lies outside the workspace, expected a file within it")
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1, default=str)
        file.write("\n")


def data_cut_s(store: LabelStore) -> int:
    """Return the last second that the record of a label store covers."""
    return int(store.manifest["inputs"]["semantics"]["data_cut_s"])


def _sample(rows: list[Row], number: int, seed: int) -> list[int]:
    """Return the places of some studies of each state."""
    generator = np.random.default_rng(seed)
    chosen: list[int] = []
    for state in sorted({row["state"] for row in rows}):
        places = [place for place, row in enumerate(rows) if row["state"] == state]
        chosen += sorted(places[at] for at in generator.permutation(len(places))[:number].tolist())
    return chosen


def _candidates_of(compiled: Compiled, evidence: Evidence, chosen: list[int]) -> Iterator[Row]:
    """Yield the candidates of some studies: place of the study, time, concept, table and id, as the query gave them."""
    fetched, found = evidence.fetched, evidence.found
    concepts, ids = fetched.column("evidence_concept_id"), fetched.column("evidence_id")
    table = _table_of(compiled.task)
    wanted = set(chosen)
    for at in range(len(found.source)):
        place, source = int(found.candidates.row[at]), int(found.source[at])
        if place in wanted:
            yield {
                "place": place,
                "time": int(found.candidates.time_s[at]),
                "competing": bool(found.candidates.cause[at] == Event.COMPETING),
                "concept_id": concepts[source],
                "table": table,
                "row_id": ids[source],
            }


def _events_of(lock: Lock, index: TaskIndex, snapshot: Snapshot, chosen: list[int]) -> Iterator[Row]:
    """Yield the events of a concept task's set in the snapshot; a snapshot keeps no row ids."""
    members = np.array(lock.every_concept_id, dtype=np.int64)
    shards = snapshot.shards_of(index.facts.person_id[chosen])
    for place, number in zip(chosen, shards.tolist(), strict=True):
        events = snapshot.shard(number)
        low, high = events.ranges(index.facts.person_id[[place]])
        for at in range(int(low[0]), int(high[0])):
            concept = int(snapshot.concepts[events.concept[at]])
            if concept in members:
                yield {
                    "place": place,
                    "time": int(events.time[at]),
                    "competing": False,
                    "concept_id": concept,
                    "table": TABLES[int(events.flags[at]) & TABLE_BITS],
                    "row_id": None,
                }


def _table_of(task: Task) -> str | None:
    """Return the table that evidence ids are of: the only clinical one that a task reads."""
    if task.front.kind == "cohort":
        return "cohort"
    read = [table for table in (*CLINICAL, "death") if table in task.front.requires]
    return read[0] if len(read) == 1 else None


def _shown(
    rows: list[Row], t0_s: list[int], start_s: list[int], chosen: list[int], found: list[Row], connection: Any
) -> Iterator[Row]:
    names = _names(connection, sorted({row["concept_id"] for row in found if row["concept_id"] is not None}))
    for place in chosen:
        row = rows[place]
        events = [one for one in found if one["place"] == place]
        events.sort(key=lambda one: (one["time"], str(one["row_id"])))
        decided = _decided(row, events, start_s[place])
        for at, one in enumerate(events or [NO_EVENT]):
            time = one["time"]
            yield {
                "study_id": row["study_id"],
                "state": row["state"],
                "days": None if time is None else (time - t0_s[place]) // SECONDS_PER_DAY,
                "date": None if time is None else str(np.datetime64(time, "s")),
                "concept": names.get(one["concept_id"]),
                "table": one["table"],
                "row_id": one["row_id"],
                "decided": at == decided,
            }


def _decided(row: Row, events: list[Row], start_s: int) -> int | None:
    """Return which of a study's candidates made its state: the last of the history, or the one at the time written.

    A bare date stands at its day's midnight among the candidates, also where its day's end counts.
    """
    if row["state"] == "prevalent":
        history = [at for at, one in enumerate(events) if one["time"] <= start_s and not one["competing"]]
        return history[-1] if history else None
    if row["state"] not in ("event", "competing"):
        return None
    seconds = row["time_s"] if row["state"] == "event" else row["end_s"]
    wanted = start_s - int(row["entry_s"]) + int(seconds)
    for at, one in enumerate(events):
        exact = one["competing"] == (row["state"] == "competing") and wanted - SECONDS_PER_DAY < one["time"] <= wanted
        if exact and (one["time"] == wanted or one["time"] % SECONDS_PER_DAY == 0):
            return at
    return None


def _names(connection: Any, concepts: list[int]) -> dict[int, str]:
    found = connection.execute(
        "SELECT concept_id, concept_name FROM concept WHERE concept_id = ANY(%s)", [concepts]
    ).fetchall()
    return {int(concept): str(name) for concept, name in found}
