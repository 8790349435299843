"""What one worker does with one partition: read, gate, resolve, map, stage (E88).

Nothing depends on which worker takes a partition, or when: a partition leaves the same rows in the stage tables, and
its line in `ledger.chunk`, in one transaction, or nothing.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import psycopg
import zstandard
from psycopg.types.json import Jsonb

from presage_etl.fhir.coding import CodingSet
from presage_etl.fhir.context import Context, open_context
from presage_etl.fhir.identify import Held, Resource, identify, judge, kill
from presage_etl.fhir.mapping import collect, decode, map_decoded
from presage_etl.fhir.outcome import Dead, Excluded, Loaded, Note, Outcome, Row
from presage_etl.fhir.reader import Entry, Partition, read
from presage_etl.fhir.reference import reference_key
from presage_etl.fhir.stage import Batch
from presage_etl.policies import Policies
from presage_platform.ledger.identity import keyed_hash
from presage_platform.postgres.bulk import copy_in
from presage_platform.postgres.failures import translate_errors

if TYPE_CHECKING:
    from presage_platform.postgres.connection import Database
    from presage_platform.settings import Settings

STAGE_BITS = 24
"""`stage_no` = partition number, then the place of the resource in it: the order of paths and offsets."""

SQL = files("presage_etl.fhir") / "sql"


@dataclass(frozen=True, slots=True)
class Load:
    """What every worker of a run must know."""

    database: Database
    settings: Settings
    policies: Policies
    run_no: int
    source_no: int
    transform_no: int
    extraction_date: date
    run_date: date
    secret: bytes = field(repr=False)
    is_first: bool
    """The ledger holds nothing of this source: no look-up is needed."""
    ignore_hashes: bool
    keep_payload: bool
    main_pid: int

    @property
    def bases(self) -> frozenset[str]:
        """Base URLs that are this export's own."""
        return frozenset(base.rstrip("/") for base in self.settings.etl.bases)


@dataclass(frozen=True, slots=True)
class Task:
    """One partition of one run."""

    load: Load
    partition: Partition


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What became of a partition, in counts."""

    chunk_no: int
    num_resources: int
    num_dead: int
    num_excluded: int
    num_bytes: int


_STAGED_AS = {"drug_concept_id": "medication_key"}
"""References whose column holds a value of its own until the merge."""


class Stopwatch:
    """Seconds spent in each stage of a partition."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to a stage."""
        now = time.perf_counter()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self._since, 4)
        self._since = now


def process(task: Task) -> ChunkResult:
    """Take one partition from its bytes to the stage tables."""
    if os.getpid() != task.load.main_pid:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the group: the main process decides
    gc.disable()  # a partition makes many objects and no cycles: looking for them costs a tenth of the time
    try:
        with translate_errors(), task.load.database.connect() as connection:
            return _Worker(task, connection).run()
    finally:
        gc.enable()


class _Worker:
    def __init__(self, task: Task, connection: psycopg.Connection[Any]) -> None:
        self.load, self.partition, self.connection = task.load, task.partition, connection
        self.batch = Batch()
        self.watch = Stopwatch()
        self.notes: Counter[tuple[str, str, str, str]] = Counter()
        self._keys: dict[str, str | None] = {}
        self._bases = task.load.bases

    def run(self) -> ChunkResult:
        resources = self._read()
        self.watch.lap("read")
        for resource in resources:
            identify(resource)
        self._compare(resources)
        self.watch.lap("gate")
        context = self._context()
        codings = CodingSet()
        for resource in resources:
            self._decode(resource, context, codings)
        context.prefetch(codings)
        self.watch.lap("resolve")
        for resource in resources:
            if resource.decoded is not None:
                self._map(resource, context)
            self._record(resource)
        self.watch.lap("map")
        self._stage(resources)
        return self._result(resources)

    # --- read and gate ---

    def _read(self) -> list[Resource]:
        entries = self._letters() if self.partition.letters else read(self.partition, self._bases)
        first = self.partition.chunk_no << STAGE_BITS
        return [Resource(entry, first + place) for place, entry in enumerate(entries)]

    def _letters(self) -> list[Entry]:
        """Read what earlier runs could not load."""
        query = (SQL / "letters.sql").read_text()
        rows = self.connection.execute(query, {"letters": list(self.partition.letters)}).fetchall()
        unpack = zstandard.ZstdDecompressor()
        return [
            Entry(unpack.decompress(payload), file_no, offset, line, letter_no=letter_no, as_of_run=run_no)
            for letter_no, payload, file_no, offset, line, run_no in rows
        ]

    def _compare(self, resources: list[Resource]) -> None:
        """Ask the ledger, once, which resources are unchanged and which are older than what it holds (gate 7)."""
        if self.load.is_first:
            return
        asked = [r for r in resources if r.state in ("loaded", "deleted") and r.resource_id]
        parameters = {
            "source_no": self.load.source_no,
            "types": [r.resource_type for r in asked],
            "ids": [r.resource_id for r in asked],
        }
        for place, *held in self.connection.execute((SQL / "held.sql").read_text(), parameters):
            judge(asked[place - 1], Held(*held), self.load.transform_no, ignore_hashes=self.load.ignore_hashes)

    # --- resolve and map ---

    def _context(self) -> Context:
        load = self.load
        return open_context(
            self.connection,
            load.settings,
            extraction_date=load.extraction_date,
            run_date=load.run_date,
            policies=load.policies,
        )

    def _decode(self, resource: Resource, context: Context, codings: CodingSet) -> None:
        if resource.state != "loaded" or resource.resource_type is None:
            return
        if resource.readable is not resource.entry.raw:
            self.notes[(resource.resource_type, "nul-removed", "", "")] += 1
        decoded = decode(resource.resource_type, resource.readable, context)
        if isinstance(decoded, (Excluded, Dead)):
            self._end(resource, decoded)
            return
        resource.decoded = decoded
        collect(decoded, codings)

    def _map(self, resource: Resource, context: Context) -> None:
        assert resource.decoded is not None
        outcome = map_decoded(resource.decoded, context)
        resource.decoded = None
        if not isinstance(outcome, Loaded):
            self._end(resource, outcome)
            return
        if len({(row.table, row.slot) for row in outcome.rows}) != len(outcome.rows):
            kill(resource, "mapping-error", "slot")
            resource.died_at = "map"
            return
        for row in outcome.rows:
            self._add(resource, row)
        if all(row.table.startswith("ledger.") for row in outcome.rows):
            resource.reason = "used-by-reference"
        for ordinal, identifier in enumerate(outcome.identifiers):
            value = keyed_hash(self.load.secret, identifier.value)
            values = (resource.stage_no, ordinal, identifier.system, value, identifier.start, identifier.end)
            self.batch.append("stage_identifier", values)
        self._count(resource, outcome.notes)

    def _end(self, resource: Resource, outcome: Outcome) -> None:
        if isinstance(outcome, Excluded):
            resource.state, resource.reason = "excluded", outcome.reason
        elif isinstance(outcome, Dead):
            kill(resource, outcome.reason, outcome.path)
            resource.died_at = "map"

    def _add(self, resource: Resource, row: Row) -> None:
        if row.table.startswith("ledger."):
            self._add_to_ledger(resource, row)
            return
        values = row.values
        for column, text in row.refs.items():
            values[_STAGED_AS.get(column, column)] = self._key(text)
        if "medication_key" in values:
            values.setdefault("drug_concept_id", 0)
        self.batch.add_row(resource.stage_no, row)

    def _add_to_ledger(self, resource: Resource, row: Row) -> None:
        values = row.values
        if row.table == "ledger.medication":
            self.batch.append(
                "stage_medication",
                (
                    resource.stage_no,
                    row.slot,
                    values["rank"],
                    values["target_concept_id"],
                    values["source_concept_id"],
                    values.get("source_code"),
                ),
            )
        elif row.table == "ledger.diagnosis_role":
            key = self._key(row.refs["condition_occurrence_id"])
            if key is not None:
                concept_id = values["condition_status_concept_id"]
                source_value = values.get("condition_status_source_value")
                role = (resource.stage_no, values["rank"], key, concept_id, source_value)
                self.batch.append("stage_diagnosis_role", role)
        elif row.table == "ledger.person_alias":
            self.batch.append("stage_person_alias", (resource.stage_no, self._key(row.refs["person_id"])))
        else:
            raise ValueError(f"no stage for {row.table}")

    def _key(self, text: str) -> str | None:
        if text.startswith("slot:"):
            return text
        known = self._keys.get(text, "")
        if known == "":
            known = self._keys[text] = reference_key(text, self._bases, self._hash)
        return known

    def _hash(self, value: str) -> str:
        return keyed_hash(self.load.secret, value)

    def _count(self, resource: Resource, notes: list[Note]) -> None:
        if not notes:
            return
        unmapped: Counter[tuple[str, str, str, str | None]] = Counter()
        for note in notes:
            self.notes[(resource.resource_type or "", note.kind, note.element, note.detail)] += 1
            if note.kind == "unmapped":
                code = (note.code or note.display or "")[:1000]
                display = note.display if note.code else None
                unmapped[(note.system or "", code.replace("\0", ""), note.detail, display)] += 1
        for (system, code, reason, display), count in unmapped.items():
            shown = display.replace("\0", "") if display else None
            self.batch.append("stage_unmapped", (resource.stage_no, system, code, reason, shown, count))

    # --- stage ---

    def _record(self, resource: Resource) -> None:
        entry = resource.entry
        if resource.state == "dead":
            payload = zstandard.compress(entry.raw, 3) if self.load.keep_payload else None
            values = (resource.stage_no, entry.file_no, entry.offset, entry.line, resource.resource_type)
            died = (resource.died_at, resource.reason, resource.path, payload, entry.letter_no)
            self.batch.append("stage_dead", (*values, resource.resource_id, resource.content_hash, *died))
            return
        self.batch.append(
            "stage_resource",
            (
                resource.stage_no,
                entry.file_no,
                entry.offset,
                len(entry.raw),
                entry.line,
                resource.resource_type,
                resource.resource_id,
                resource.content_hash,
                resource.last_updated,
                resource.version_id,
                resource.state,
                resource.reason,
                entry.letter_no,
            ),
        )

    def _stage(self, resources: list[Resource]) -> None:
        connection, schema = self.connection, self.load.database.schemas.ledger
        run = {"run_no": self.load.run_no, "chunk_no": self.partition.chunk_no}
        marker = connection.execute("SELECT 1 FROM run_marker WHERE run_no = %(run_no)s FOR SHARE", run).fetchone()
        if marker is None:
            return  # the run was given up while this worker was still at it: leave nothing behind
        tables, cuts = self.batch.tables()
        for cut in cuts:
            kind = resources[cut.stage_no & ((1 << STAGE_BITS) - 1)].resource_type or ""
            self.notes[(kind, "text-cut", f"{cut.table}.{cut.column}", "")] += 1
        try:
            connection.execute((SQL / "finish_chunk.sql").read_text(), {**run, **self._counts(resources)})
        except psycopg.errors.UniqueViolation:
            connection.rollback()  # a worker of the interrupted run finished it after all
            return
        for stage, rows in tables.items():
            copy_in(connection, stage, rows, schema=schema)
        self.watch.lap("stage")
        connection.execute(
            "UPDATE chunk SET seconds = %(seconds)s WHERE run_no = %(run_no)s AND chunk_no = %(chunk_no)s",
            {**run, "seconds": Jsonb(self.watch.seconds)},
        )
        connection.commit()

    def _counts(self, resources: list[Resource]) -> dict[str, Any]:
        read_: Counter[tuple[int, str]] = Counter((r.entry.file_no, r.resource_type or "") for r in resources)
        part = self.partition.parts[0] if self.partition.parts else None
        return {
            "file_no": part.file_no if part else 0,
            "start_offset": part.offset if part else 0,
            "counts": Jsonb([[file_no, kind, count] for (file_no, kind), count in sorted(read_.items())]),
            "notes": Jsonb([[*key, count] for key, count in sorted(self.notes.items())]),
        }

    def _result(self, resources: list[Resource]) -> ChunkResult:
        states = Counter(resource.state for resource in resources)
        return ChunkResult(
            self.partition.chunk_no,
            len(resources),
            states["dead"],
            states["excluded"] + states["superseded"],
            sum(len(resource.entry.raw) for resource in resources),
        )
