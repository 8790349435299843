"""What one worker does with one partition: read, gate, resolve, map, stage (E88).

Nothing depends on which worker takes a partition, or when: a partition leaves the same rows in the stage tables, and
its line in `ledger.chunk`, in one transaction, or nothing.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime
from hashlib import blake2b
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
import zstandard
from psycopg.types.json import Jsonb

from presage_etl.fhir.coding import CodingSet
from presage_etl.fhir.context import Context, open_context
from presage_etl.fhir.mapping import Decoded, collect, decode, map_decoded
from presage_etl.fhir.outcome import Dead, Excluded, Loaded, Note, Outcome, Row
from presage_etl.fhir.reader import Entry, Partition, read
from presage_etl.fhir.reference import reference_key
from presage_etl.fhir.stage import Batch
from presage_etl.policies import Policies
from presage_platform.ledger.identity import keyed_hash
from presage_platform.ledger.tables import TABLE_NUMBERS
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


class _Meta(msgspec.Struct, gc=False):
    lastUpdated: str | None = None
    versionId: str | None = None


class _Envelope(msgspec.Struct, gc=False):
    resourceType: str | None = None
    id: str | None = None
    meta: _Meta | None = None


_envelope = msgspec.json.Decoder(_Envelope)


@dataclass(slots=True)
class _Resource:
    """One resource on its way through the stages."""

    entry: Entry
    stage_no: int
    resource_type: str | None = None
    resource_id: str | None = None
    content_hash: bytes = b""
    last_updated: datetime | None = None
    version_id: int | None = None
    state: str = "loaded"
    reason: str | None = None
    path: str | None = None
    died_at: str = "gate"
    decoded: Decoded | None = None


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
    with translate_errors(), task.load.database.connect() as connection:
        return _Worker(task, connection).run()


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
            self._gate(resource)
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

    def _read(self) -> list[_Resource]:
        entries = self._letters() if self.partition.letters else read(self.partition, self._bases)
        first = self.partition.chunk_no << STAGE_BITS
        return [_Resource(entry, first + place) for place, entry in enumerate(entries)]

    def _letters(self) -> list[Entry]:
        """Read what earlier runs could not load."""
        query = (SQL / "letters.sql").read_text()
        rows = self.connection.execute(query, {"letters": list(self.partition.letters)}).fetchall()
        unpack = zstandard.ZstdDecompressor()
        return [
            Entry(unpack.decompress(payload), file_no, offset, line, letter_no=letter_no, as_of_run=run_no)
            for letter_no, payload, file_no, offset, line, run_no in rows
        ]

    def _gate(self, resource: _Resource) -> None:
        """Tell what it is: type, id, version, hash (E23, gate 1)."""
        entry = resource.entry
        resource.content_hash = blake2b(entry.raw, digest_size=16).digest()
        if entry.deleted is not None:
            resource.resource_type, _, resource.resource_id = entry.deleted.partition("/")
            resource.state = "deleted"
            return
        if entry.dead is not None:
            _kill(resource, entry.dead, entry.path)
            return
        envelope = _read_envelope(entry.raw)
        if isinstance(envelope, Dead):
            _kill(resource, envelope.reason, envelope.path)
            return
        resource.resource_type, resource.resource_id = envelope.resourceType, envelope.id
        if entry.excluded is not None:
            resource.state, resource.reason = "excluded", entry.excluded
        elif envelope.resourceType is None:
            _kill(resource, "no-resource-type", None)
        elif not envelope.id and envelope.resourceType != "OperationOutcome":
            _kill(resource, "no-id", None)
        if envelope.meta is not None:
            resource.last_updated = _instant(envelope.meta.lastUpdated)
            version = envelope.meta.versionId
            resource.version_id = int(version) if version and version.isdecimal() and len(version) < 19 else None

    def _compare(self, resources: list[_Resource]) -> None:
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
            self._judge(asked[place - 1], _Held(*held))

    def _judge(self, resource: _Resource, held: _Held) -> None:
        if held.state != "deleted" and held.content_hash == resource.content_hash and resource.state == "loaded":
            if held.transform_no != self.load.transform_no or self.load.ignore_hashes:
                return
            resource.state, resource.reason = "unchanged", held.reason
        elif _is_older(resource, held):
            resource.state, resource.reason = "superseded", "superseded"

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

    def _decode(self, resource: _Resource, context: Context, codings: CodingSet) -> None:
        if resource.state != "loaded" or resource.resource_type is None:
            return
        decoded = decode(resource.resource_type, resource.entry.raw, context)
        if isinstance(decoded, (Excluded, Dead)):
            self._end(resource, decoded)
            return
        resource.decoded = decoded
        collect(decoded, codings)

    def _map(self, resource: _Resource, context: Context) -> None:
        assert resource.decoded is not None
        outcome = map_decoded(resource.decoded, context)
        resource.decoded = None
        if not isinstance(outcome, Loaded):
            self._end(resource, outcome)
            return
        if len({(row.table, row.slot) for row in outcome.rows}) != len(outcome.rows):
            _kill(resource, "mapping-error", "slot")
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
        for note in outcome.notes:
            if note.kind == "text-cut":
                self._keep_whole(resource, note, outcome.rows)

    def _keep_whole(self, resource: _Resource, note: Note, rows: list[Row]) -> None:
        """Keep a text that was cut whole, beside each row that holds its beginning (E37, E74)."""
        table, _, column = note.element.partition(".")
        whole = (note.code or "").replace("\0", "")
        for row in rows:
            kept = row.values.get(column) if row.table == table else None
            if kept and whole.startswith(kept):
                values = (resource.stage_no, TABLE_NUMBERS[table], row.slot, column, whole)
                self.batch.append("stage_long_value", values)

    def _end(self, resource: _Resource, outcome: Outcome) -> None:
        if isinstance(outcome, Excluded):
            resource.state, resource.reason = "excluded", outcome.reason
        elif isinstance(outcome, Dead):
            _kill(resource, outcome.reason, outcome.path)
            resource.died_at = "map"

    def _add(self, resource: _Resource, row: Row) -> None:
        if row.table.startswith("ledger."):
            self._add_to_ledger(resource, row)
            return
        references = {column: self._key(text) for column, text in row.refs.items()}
        if row.table == "drug_exposure" and "drug_concept_id" in references:
            row.values["medication_key"] = references["drug_concept_id"]
            row.values.setdefault("drug_concept_id", 0)
        if "part_of" in references:
            row.values["part_of"] = references["part_of"]
        self.batch.add_row(resource.stage_no, row, references)

    def _add_to_ledger(self, resource: _Resource, row: Row) -> None:
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

    def _count(self, resource: _Resource, notes: list[Note]) -> None:
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

    def _record(self, resource: _Resource) -> None:
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

    def _stage(self, resources: list[_Resource]) -> None:
        connection, schema = self.connection, self.load.database.schemas.ledger
        run = {"run_no": self.load.run_no, "chunk_no": self.partition.chunk_no}
        marker = connection.execute("SELECT 1 FROM run_marker WHERE run_no = %(run_no)s FOR SHARE", run).fetchone()
        if marker is None:
            return  # the run was given up while this worker was still at it: leave nothing behind
        try:
            connection.execute((SQL / "finish_chunk.sql").read_text(), {**run, **self._counts(resources)})
        except psycopg.errors.UniqueViolation:
            connection.rollback()  # a worker of the interrupted run finished it after all
            return
        for stage, rows in self.batch.tables():
            copy_in(connection, stage, rows, schema=schema)
        self.watch.lap("stage")
        connection.execute(
            "UPDATE chunk SET seconds = %(seconds)s WHERE run_no = %(run_no)s AND chunk_no = %(chunk_no)s",
            {**run, "seconds": Jsonb(self.watch.seconds)},
        )
        connection.commit()

    def _counts(self, resources: list[_Resource]) -> dict[str, Any]:
        read_: Counter[tuple[int, str]] = Counter((r.entry.file_no, r.resource_type or "") for r in resources)
        part = self.partition.parts[0] if self.partition.parts else None
        return {
            "file_no": part.file_no if part else 0,
            "start_offset": part.offset if part else 0,
            "counts": Jsonb([[file_no, kind, count] for (file_no, kind), count in sorted(read_.items())]),
            "notes": Jsonb([[*key, count] for key, count in sorted(self.notes.items())]),
        }

    def _result(self, resources: list[_Resource]) -> ChunkResult:
        states = Counter(resource.state for resource in resources)
        return ChunkResult(
            self.partition.chunk_no,
            len(resources),
            states["dead"],
            states["excluded"] + states["superseded"],
            sum(len(resource.entry.raw) for resource in resources),
        )


@dataclass(frozen=True, slots=True)
class _Held:
    """What the ledger holds of a resource."""

    content_hash: bytes
    transform_no: int
    state: str
    reason: str | None
    last_updated: datetime | None
    version_id: int | None
    run_no: int


def _is_older(resource: _Resource, held: _Held) -> bool:
    """Return whether the ledger's copy wins (E78); of equal copies the later run's wins."""
    if resource.state == "deleted":
        return False
    if resource.last_updated and held.last_updated and resource.last_updated != held.last_updated:
        return resource.last_updated < held.last_updated
    if held.state == "deleted":
        return True
    if resource.version_id is not None and held.version_id is not None and resource.version_id != held.version_id:
        return resource.version_id < held.version_id
    return resource.entry.as_of_run is not None and resource.entry.as_of_run < held.run_no


def _kill(resource: _Resource, reason: str, path: str | None) -> None:
    resource.state, resource.reason, resource.path = "dead", reason, path


def _instant(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _read_envelope(raw: bytes) -> _Envelope | Dead:
    """Return type, id and version, or why the bytes are no resource; UTF-8, NUL and surrogates are checked here."""
    if not raw.isascii():
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return Dead("not-json", f"byte {error.start}")
    if b"\0" in raw:
        return Dead("not-json", f"byte {raw.index(0)}")
    try:
        return _envelope.decode(raw)
    except msgspec.ValidationError as error:
        return _wrong_type(raw, str(error))
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return Dead("not-json")


def _wrong_type(raw: bytes, message: str) -> Dead:
    if not raw.lstrip().startswith(b"{"):
        return Dead("not-json")
    path = message.rpartition("$")[2].strip("`. ") or "resource"
    return Dead(f"structure:{path}", path)
