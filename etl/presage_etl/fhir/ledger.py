"""The ledger's side of a run: who runs, what was begun, what may be skipped, and how a run ends (E77, E92–E94)."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.types.json import Jsonb

from presage_etl.fhir.inputs import InputFile
from presage_etl.fhir.mapping import MAPPING_VERSION
from presage_etl.fhir.stage import create_stage, drop_stage
from presage_etl.policies import Policies
from presage_platform.errors import LockedError, UsageError
from presage_platform.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from presage_platform.postgres.connection import Database

log = get_logger(__name__)

SQL = files("presage_etl.fhir") / "sql"
ETL_LOCK = 0x70726573  # "pres": one writer at a time
COMMANDS = ["etl fhir", "etl retry"]
UNFINISHED = ["running", "interrupted", "failed"]
FHIR_VERSION, IG_VERSION, CDM_VERSION = "4.0.1", "2.0.0-ballot", "5.4"


@dataclass(frozen=True, slots=True)
class Begun:
    """A run that may write: new, or continued."""

    run_no: int
    source_no: int
    transform_no: int
    started_on: date
    phase: str
    is_first: bool
    is_continued: bool
    files: tuple[InputFile, ...]


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a run is asked to do; equal requests continue each other."""

    command: str
    source: str
    extraction_date: date
    policies: Policies
    vocabulary_release: str
    options: Mapping[str, Any]
    workers: int

    def inputs_hash(self, inputs: Sequence[InputFile]) -> str:
        """Return a hash over everything that decides what the run will read and write."""
        digest = hashlib.sha256(repr(sorted(self.options.items())).encode())
        for part in (
            self.command,
            self.source,
            str(self.extraction_date),
            self.policies.digest,
            self.vocabulary_release,
        ):
            digest.update(part.encode() + b"\0")
        digest.update(str(MAPPING_VERSION).encode())
        for file in inputs:
            digest.update(file.sha256)
        return digest.hexdigest()


@contextmanager
def writer_lock(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """Hold the lock of the one writer for as long as the context lasts.

    Raises
    ------
    LockedError
        When another load is at work; its process and start time are named.
    """
    with database.connect(autocommit=True) as connection:
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", [ETL_LOCK]).fetchone()
        if not row or not row[0]:
            other = connection.execute(
                "SELECT pid, started_at FROM run WHERE state = 'running' AND command = ANY(%s) ORDER BY run_no "
                "DESC LIMIT 1",
                [COMMANDS],
            ).fetchone()
            who = f"process {other[0]}, since {other[1]:%Y-%m-%d %H:%M} UTC" if other else "another process"
            raise LockedError(f"another load is at work ({who}): wait for it to end, or stop it")
        yield connection


def source_number(connection: psycopg.Connection[Any], name: str) -> tuple[int, date | None]:
    """Return the number of a source, made if it is new, and the extraction date that is remembered for it."""
    connection.execute("INSERT INTO source (name) VALUES (%s) ON CONFLICT (name) DO NOTHING", [name])
    row = connection.execute("SELECT source_no, extracted_on FROM source WHERE name = %s", [name]).fetchone()
    assert row is not None
    return int(row[0]), row[1]


def transform_number(connection: psycopg.Connection[Any], request: RunRequest) -> int:
    """Return the number of (policies, mappings, vocabulary), made if it is new."""
    values = [request.policies.digest, str(MAPPING_VERSION), request.vocabulary_release]
    connection.execute(
        "INSERT INTO transform (policy_hash, mapping_version, vocabulary_release) VALUES (%s, %s, %s) "
        "ON CONFLICT DO NOTHING",
        values,
    )
    row = connection.execute(
        "SELECT transform_no FROM transform WHERE policy_hash = %s AND mapping_version = %s AND "
        "vocabulary_release = %s",
        values,
    ).fetchone()
    assert row is not None
    return int(row[0])


def refuse_policy_change(
    connection: psycopg.Connection[Any], source_no: int, policies: Policies, *, accepted: bool
) -> bool:
    """Return whether the policies differ from those of the rows that exist; refuse it unless it is accepted (E27)."""
    held = connection.execute(
        "SELECT policy_hash, policies FROM run WHERE source_no = %s AND state = 'finished' AND policy_hash IS NOT NULL "
        "ORDER BY run_no DESC LIMIT 1",
        [source_no],
    ).fetchone()
    if held is None or held[0] == policies.digest:
        return False
    if not accepted:
        before = held[1] or {}
        changed = sorted(name for name in policies if before.get(name) != policies[name])
        raise UsageError(
            f"policies differ from those of the rows that exist ({', '.join(changed)}): put them back, or repeat the "
            "command with --accept-policy-change to transform every resource again"
        )
    return True


def begin(
    database: Database,
    connection: psycopg.Connection[Any],
    request: RunRequest,
    inputs: Sequence[InputFile],
    *,
    policy_changed: bool,
) -> Begun:
    """Continue the run that an interruption left, if it is the same one, else open a new one."""
    source_no, _ = source_number(connection, request.source)
    transform_no = transform_number(connection, request)
    inputs_hash = request.inputs_hash(inputs)
    open_run = connection.execute(
        "SELECT run_no, inputs_hash, phase, started_at FROM run "
        "WHERE command = ANY(%s) AND state = ANY(%s) AND phase <> 'done' ORDER BY run_no DESC LIMIT 1",
        [COMMANDS, UNFINISHED],
    ).fetchone()
    is_first = not _exists(connection, "SELECT EXISTS (SELECT FROM resource WHERE source_no = %s)", [source_no])
    if open_run is not None and open_run[1] == inputs_hash:
        run_no, _, phase, started_at = open_run
        _continue(database, connection, run_no, phase)
        numbered = _files_of(connection, run_no, inputs)
        return Begun(run_no, source_no, transform_no, started_at.date(), phase, is_first, True, numbered)
    with connection.transaction():
        _abandon(connection, database.schemas.ledger)
        run_no, started_on = _open(connection, request, source_no, transform_no, inputs_hash)
        numbered = _register(connection, run_no, inputs)
        create_stage(connection, database.schemas.ledger)
        connection.execute("INSERT INTO run_marker VALUES (%s)", [run_no])
        if policy_changed:
            connection.execute(
                "INSERT INTO policy_change (changed_at, run_no, source_no, new_hash, policies) VALUES (now(), "
                "%s, %s, %s, %s)",
                [run_no, source_no, request.policies.digest, Jsonb(dict(request.policies))],
            )
    return Begun(run_no, source_no, transform_no, started_on, "reading", is_first, False, numbered)


def _exists(connection: psycopg.Connection[Any], query: str, parameters: Sequence[Any]) -> bool:
    row = connection.execute(query, parameters).fetchone()
    return bool(row and row[0])


def _abandon(connection: psycopg.Connection[Any], schema: str) -> None:
    """Drop what an interrupted run with other inputs had staged; workers that still live find no marker."""
    connection.execute("DELETE FROM run_marker")
    left = connection.execute(
        "UPDATE run SET state = 'abandoned', ended_at = now() WHERE command = ANY(%s) AND state = "
        "ANY(%s) RETURNING run_no",
        [COMMANDS, UNFINISHED],
    ).fetchall()
    if left:
        log.warning(
            "what an interrupted run with other inputs had read is dropped", extra={"fields": {"runs": len(left)}}
        )
    connection.execute("DELETE FROM chunk WHERE run_no = ANY(%s)", [[row[0] for row in left]])
    drop_stage(connection, schema)


def _continue(database: Database, connection: psycopg.Connection[Any], run_no: int, phase: str) -> None:
    """Take up an interrupted run; a crash of the server emptied the stage tables, then its chunks are read again."""
    with connection.transaction():
        connection.execute(
            "UPDATE run SET state = 'running', pid = %s, host = %s WHERE run_no = %s",
            [os.getpid(), platform.node(), run_no],
        )
        marked = _exists(connection, "SELECT EXISTS (SELECT FROM run_marker WHERE run_no = %s)", [run_no])
        if phase == "reading" and not marked:
            connection.execute("DELETE FROM chunk WHERE run_no = %s", [run_no])
            create_stage(connection, database.schemas.ledger)
            connection.execute("INSERT INTO run_marker VALUES (%s)", [run_no])


def _open(
    connection: psycopg.Connection[Any], request: RunRequest, source_no: int, transform_no: int, inputs_hash: str
) -> tuple[int, date]:
    row = connection.execute(
        """
        INSERT INTO run (
            command, source_no, started_at, state, phase, inputs_hash, transform_no, presage_version, fhir_version,
            ig_version, cdm_version, vocabulary_release, policy_hash, policies, mapping_version, timezone, extracted_on,
            host, pid, workers
        )
        VALUES (%s, %s, %s, 'running', 'reading', %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        RETURNING run_no, CAST(started_at AT TIME ZONE 'UTC' AS date)
        """,
        [
            request.command,
            source_no,
            datetime.now(UTC),
            inputs_hash,
            transform_no,
            version("presage"),
            FHIR_VERSION,
            IG_VERSION,
            CDM_VERSION,
            request.vocabulary_release,
            request.policies.digest,
            Jsonb(dict(request.policies)),
            str(MAPPING_VERSION),
            request.policies["timezone"],
            request.extraction_date,
            platform.node(),
            os.getpid(),
            request.workers,
        ],
    ).fetchone()
    assert row is not None
    return int(row[0]), row[1]


def _register(connection: psycopg.Connection[Any], run_no: int, inputs: Sequence[InputFile]) -> tuple[InputFile, ...]:
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO source_file (run_no, ordinal, path, size_bytes, sha256, form, state) "
            "VALUES (%s, %s, %s, %s, %s, %s, 'pending')",
            [
                (run_no, ordinal, str(file.path.absolute()), file.size_bytes, file.sha256, file.form)
                for ordinal, file in enumerate(inputs)
            ],
        )
    return _files_of(connection, run_no, inputs)


def _files_of(connection: psycopg.Connection[Any], run_no: int, inputs: Sequence[InputFile]) -> tuple[InputFile, ...]:
    rows = connection.execute("SELECT ordinal, file_no FROM source_file WHERE run_no = %s", [run_no]).fetchall()
    numbers = dict(rows)
    return tuple(replace(file, file_no=numbers[ordinal]) for ordinal, file in enumerate(inputs))


def skippable(
    connection: psycopg.Connection[Any], begun: Begun, extraction_date: date
) -> dict[bytes, tuple[dict[str, Any], bool]]:
    """Return SHA-256 → (counts, whether copies competed) of the files that need not be read again.

    Where copies of a resource competed, the order of files decided: those files are skipped together or not at all.
    """
    given = {file.sha256 for file in begun.files}
    rows = connection.execute(
        (SQL / "finished_files.sql").read_text(),
        {
            "source_no": begun.source_no,
            "transform_no": begun.transform_no,
            "extracted_on": extraction_date,
            "hashes": list(given),
        },
    ).fetchall()
    return {
        bytes(sha256): (counts, is_competing)
        for sha256, counts, _, is_competing, together in rows
        if not is_competing or given.issuperset(bytes(other) for other in together)
    }


def finished_chunks(connection: psycopg.Connection[Any], run_no: int) -> set[int]:
    """Return the partitions of a run that are staged."""
    return {int(row[0]) for row in connection.execute("SELECT chunk_no FROM chunk WHERE run_no = %s", [run_no])}


def set_state(connection: psycopg.Connection[Any], run_no: int, state: str) -> None:
    """Note how a run stands."""
    connection.execute(
        "UPDATE run SET state = %s, ended_at = now() WHERE run_no = %s AND state <> 'finished'", [state, run_no]
    )
