"""From the files of an export to CDM rows: the seven stages of a load, how a run begins, ends, goes on (E88–E95).

read, gate, resolve, map, stage    in workers, partition by partition      partition.py
merge                              in the database, one transaction        merge.py
derive                             in the database, touched persons only   derive.py
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import zstandard
from psycopg.types.json import Jsonb

from presage_etl.fhir.accounts import read_report, write_accounts
from presage_etl.fhir.context import open_context
from presage_etl.fhir.derive import Derivation, analyze, derive
from presage_etl.fhir.inputs import InputFile, find_files
from presage_etl.fhir.ledger import (
    Begun,
    RunRequest,
    begin,
    finished_chunks,
    refuse_policy_change,
    set_state,
    skippable,
    source_number,
    writer_lock,
)
from presage_etl.fhir.merge import Merged, merge
from presage_etl.fhir.merge_rows import Changes
from presage_etl.fhir.partition import STAGE_BITS, ChunkResult, Load, Task, process
from presage_etl.fhir.reader import DELETED, Partition, partitions, read
from presage_etl.fhir.report import LoadReport
from presage_etl.fhir.stage import drop_stage
from presage_etl.fhir.stopping import Stop
from presage_etl.policies import Policies, read_policies
from presage_platform.errors import InputError, IntegrityError, InterruptedRun, QualityError, UsageError
from presage_platform.logs import get_logger
from presage_platform.omop.vocabulary import release
from presage_platform.parallel import map_partitions, num_workers
from presage_platform.postgres.connection import Database, open_database
from presage_platform.postgres.failures import translate_errors
from presage_platform.progress import Progress

if TYPE_CHECKING:
    from presage_platform.settings import Settings

log = get_logger(__name__)

SQL = files("presage_etl.fhir") / "sql"
FIRST_FILE_CHUNK = 1 << 20
"""Chunks below this number hold dead letters of earlier runs: they are older than any file (E78)."""
FIRST_REMOVAL_CHUNK = 1 << 36
"""What a manifest lists as deleted, after every other file (E5)."""
LAST_CHUNK = 1 << 37
"""What `--delete` removes, after every file."""
LETTERS_A_CHUNK = 5_000
MAX_DEAD = 0.01


@dataclass(frozen=True, slots=True)
class Options:
    """How a load is done; every field has the default of the command line."""

    source: str | None = None
    extracted_on: date | None = None
    policies: tuple[str, ...] = ()
    accept_policy_change: bool = False
    full: bool = False
    max_dead: float = MAX_DEAD
    keep_payload: bool = True
    workers: int | None = None
    deletes: tuple[str, ...] = ()
    letters: LetterChoice | None = None


@dataclass(frozen=True, slots=True)
class LetterChoice:
    """Which dead letters `platform etl retry` tries again."""

    reason: str | None = None
    resource_type: str | None = None
    run_no: int | None = None


def load_export(paths: Sequence[Path] | Path, *, settings: Settings, options: Options | None = None) -> LoadReport:
    """Load files into the CDM; run it again to bring the CDM up to date.

    Raises
    ------
    InputError
        Nothing usable, or a missing path; nothing was written.
    VocabularyError, LockedError, UsageError
        Before anything is written.
    QualityError
        More dead letters than `max_dead`, or a truncated archive; what is good stays loaded.
    IntegrityError
        The accounts do not balance: a bug.
    InterruptedRun
        Ctrl-C or SIGTERM; the same call continues.
    """
    options = options or Options()
    for key in options.deletes:
        if DELETED.fullmatch(key) is None:
            raise UsageError("--delete expects Type/id, for example Observation/123")
    chosen = [paths] if isinstance(paths, Path) else list(paths)
    _require(chosen)
    policies = read_policies(settings.etl.policies, options.policies)
    with open_database(settings, command="etl-fhir") as database:
        return _Run(database, settings, policies, options).load(chosen)


def _require(paths: Sequence[Path]) -> None:
    for path in paths:
        if not path.exists():
            raise InputError(f"no FHIR resource found in {path}: the path does not exist")


@dataclass(slots=True)
class _Times:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 3)


class _Run:
    def __init__(self, database: Database, settings: Settings, policies: Policies, options: Options) -> None:
        self.database, self.settings, self.policies, self.options = database, settings, policies, options
        self.times = _Times()
        self.skipped: dict[int, dict[str, Any]] = {}
        self.competing = False

    def load(self, paths: Sequence[Path]) -> LoadReport:
        with writer_lock(self.database) as connection:
            vocabulary = release(connection)
            with self.times.measure("find"):
                inputs = find_files(paths) if paths else []
            request = self._request(connection, inputs, vocabulary)
            source_no, _ = source_number(connection, request.source)
            changed = refuse_policy_change(
                connection, source_no, self.policies, accepted=self.options.accept_policy_change
            )
            open_context(connection, self.settings, extraction_date=request.extraction_date, policies=self.policies)
            begun = begin(self.database, connection, request, inputs, policy_changed=changed)
            if begun.is_continued:
                log.warning("continuing an interrupted run", extra={"fields": {"run": begun.run_no}})
            try:
                with Stop() as stop:
                    return self._go(connection, begun, request, stop)
            except InterruptedRun:
                set_state(connection, begun.run_no, "interrupted")
                raise
            except (IntegrityError, psycopg.Error):
                if not connection.closed:
                    set_state(connection, begun.run_no, "failed")
                raise

    def _request(self, connection: psycopg.Connection[Any], inputs: Sequence[InputFile], vocabulary: str) -> RunRequest:
        name = self.options.source or self.settings.etl.source
        _, remembered = source_number(connection, name)
        options = {"full": self.options.full, "deletes": self.options.deletes, "letters": repr(self.options.letters)}
        return RunRequest(
            command="etl retry" if self.options.letters else "etl fhir",
            source=name,
            extraction_date=self._extraction_date(inputs, remembered),
            policies=self.policies,
            vocabulary_release=vocabulary,
            options=options,
            workers=num_workers(self.options.workers),
        )

    def _extraction_date(self, inputs: Sequence[InputFile], remembered: date | None) -> date:
        """Return the day on which the source was exported (E6)."""
        if self.options.extracted_on is not None:
            return self.options.extracted_on
        days = [remembered] if remembered else []
        for file in inputs:
            try:
                days.append(date.fromisoformat(file.last_updated))
            except ValueError:
                continue
        return max(days) if days else date.today()

    # --- stages ---

    def _go(self, connection: psycopg.Connection[Any], begun: Begun, request: RunRequest, stop: Stop) -> LoadReport:
        load = self._load(begun, request)
        self._find_skipped(connection, begun, request)
        if begun.phase == "reading":
            with self.times.measure("read to stage"):
                self._stage(connection, load, begun, stop)
            with self.times.measure("merge"):
                self._merge(load, begun)
        with self.times.measure("derive"):
            self._derive(load, begun, request)
        return self._finish(connection, begun, request)

    def _load(self, begun: Begun, request: RunRequest) -> Load:
        return Load(
            database=self.database,
            settings=self.settings,
            policies=self.policies,
            run_no=begun.run_no,
            source_no=begun.source_no,
            transform_no=begun.transform_no,
            extraction_date=request.extraction_date,
            run_date=begun.started_on,
            secret=self.settings.secret_key(),
            is_first=begun.is_first,
            ignore_hashes=self.options.full,
            keep_payload=self.options.keep_payload,
            main_pid=os.getpid(),
        )

    def _find_skipped(self, connection: psycopg.Connection[Any], begun: Begun, request: RunRequest) -> None:
        if self.options.full or begun.is_first:
            return
        known = skippable(connection, begun, request.extraction_date)
        for file in begun.files:
            if file.sha256 in known and file.form != "empty":
                self.skipped[file.file_no], is_competing = known[file.sha256]
                self.competing |= is_competing

    def _partitions(self, begun: Begun) -> Iterator[Partition]:
        wanted = [file for file in begun.files if file.file_no not in self.skipped]
        yield from partitions([file for file in wanted if not file.is_removal], first_no=FIRST_FILE_CHUNK)
        yield from partitions([file for file in wanted if file.is_removal], first_no=FIRST_REMOVAL_CHUNK)

    def _stage(self, connection: psycopg.Connection[Any], load: Load, begun: Begun, stop: Stop) -> None:
        done = finished_chunks(connection, begun.run_no)
        total = sum(file.size_bytes for file in begun.files if file.file_no not in self.skipped)
        with Progress("etl fhir", total=total or None, unit="bytes") as bar:
            tasks = (Task(load, part) for part in self._partitions(begun) if part.chunk_no not in done)
            self._work(tasks, stop, bar)
            if self.options.deletes and LAST_CHUNK not in done:
                removal = Partition(LAST_CHUNK, (), deletes=self.options.deletes)
                self._work([Task(load, removal)], stop, bar)
            letters = self._letter_chunks(connection, begun, done)
            self._work((Task(load, part) for part in letters), stop, bar)

    def _work(self, tasks: Iterable[Task], stop: Stop, bar: Progress) -> None:
        workers = num_workers(self.options.workers)
        engine = self.settings.parallel.engine
        result: ChunkResult
        for result in map_partitions(process, stop.until_asked(tasks), workers=workers, engine=engine):
            bar.advance(result.num_bytes, dead=result.num_dead, excluded=result.num_excluded)
        if stop.asked:
            raise InterruptedRun("interrupted: what was read is kept; run the same command again to continue")

    def _letter_chunks(self, connection: psycopg.Connection[Any], begun: Begun, done: set[int]) -> Iterator[Partition]:
        """Yield dead letters to try again: those that are asked for, and those whose Patient has come (E20, E97)."""
        choice = self.options.letters
        if choice is not None:
            query = "chosen_letters"
            parameters = {"reason": choice.reason, "type": choice.resource_type, "run_no": choice.run_no}
        else:
            query, parameters = "healing", {}
        rows = connection.execute(
            (SQL / f"{query}.sql").read_text(), {"source_no": begun.source_no, **parameters}
        ).fetchall()
        numbers = [int(row[0]) for row in rows]
        for place, start in enumerate(range(0, len(numbers), LETTERS_A_CHUNK), start=1):
            if place not in done:
                yield Partition(place, (), tuple(numbers[start : start + LETTERS_A_CHUNK]))

    def _merge(self, load: Load, begun: Begun) -> None:
        """Merge, and write the accounts of the run, in one transaction (E79, E95)."""
        with translate_errors(), self.database.connect() as connection:
            nothing = Merged([], Changes())
            anything = finished_chunks(connection, begun.run_no)
            merged = merge(connection, load, partial(self._payloads, begun, load)) if anything else nothing
            counts = write_accounts(connection, begun, merged, self.skipped, competing=self.competing)
            connection.execute(
                "UPDATE run SET phase = 'merged', counts = %s WHERE run_no = %s", [Jsonb(counts), begun.run_no]
            )
            changed = {"updated", "deleted"} & {outcome.outcome for outcome in merged.outcomes}
            connection.execute(
                "UPDATE source SET extracted_on = %s, changed_by_run = CASE WHEN %s THEN %s ELSE changed_by_run END "
                "WHERE source_no = %s",
                [load.extraction_date, bool(changed), begun.run_no, begun.source_no],
            )
            drop_stage(connection, self.database.schemas.ledger)
            connection.execute("DELETE FROM run_marker")
            connection.commit()

    def _payloads(self, begun: Begun, load: Load, wanted: set[int]) -> Iterator[tuple[int, bytes]]:
        """Read again the resources that the merge put aside."""
        chunks = {stage_no >> STAGE_BITS for stage_no in wanted}
        for partition in self._partitions(begun):
            if partition.chunk_no not in chunks:
                continue
            first = partition.chunk_no << STAGE_BITS
            for place, entry in enumerate(read(partition, load.bases)):
                if first + place in wanted:
                    yield first + place, zstandard.compress(entry.raw, 3)

    def _derive(self, load: Load, begun: Begun, request: RunRequest) -> None:
        reference = f"presage {version('presage')} run {begun.run_no} policies {self.policies.digest[:8]}"
        derivation = Derivation(
            run_no=begun.run_no,
            extraction_date=request.extraction_date,
            run_date=begun.started_on,
            observation_period=str(self.policies["observation_period"]),
            vocabulary_release=request.vocabulary_release,
            reference=reference,
        )
        with translate_errors(), self.database.connect() as connection:
            derive(connection, derivation, self.settings.etl.cdm_source)
            connection.commit()

    # --- the end ---

    def _finish(self, connection: psycopg.Connection[Any], begun: Begun, request: RunRequest) -> LoadReport:
        report = read_report(connection, begun.run_no)
        report.seconds = {**self.times.seconds, **report.seconds}
        with self.times.measure("analyze"):
            analyze(connection, [*report.tables, *(("resource", "origin") if report.tables else ())])
        if not report.balances:
            set_state(connection, begun.run_no, "failed")
            raise IntegrityError(
                f"run {begun.run_no}: resources in differ from loaded + excluded + dead; this is a bug, please "
                "report it "
                "with the counts of `platform etl status`"
            )
        connection.execute(
            "UPDATE run SET state = 'finished', phase = 'done', ended_at = now() WHERE run_no = %s", [begun.run_no]
        )
        report.write(self.settings.reports_dir)
        log.info("load finished", extra={"fields": {"run": begun.run_no, "resources": report.total.num_in}})
        self._judge(report)
        return report

    def _judge(self, report: LoadReport) -> None:
        total = report.total
        if total.dead["truncated-file"]:
            raise QualityError(f"{report.summary()}; a compressed file ends early: export it again and load it")
        if total.num_in and total.num_dead > self.options.max_dead * total.num_in:
            raise QualityError(
                f"{report.summary()}; more dead letters than --max-dead {self.options.max_dead:g} allows: "
                "see `platform etl status`, what is good stays loaded"
            )
