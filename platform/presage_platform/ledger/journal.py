"""The ledger's line about one run of a command that writes: begun, and how it ended."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from presage_platform.postgres.connection import Database

_BEGIN = """
INSERT INTO run (command, started_at, state, phase, presage_version, policies, timezone, host, pid)
VALUES (%(command)s, now(), 'running', 'reading', %(version)s, %(policies)s, %(timezone)s, %(host)s, %(pid)s)
RETURNING run_no
"""
_END = (
    "UPDATE run SET ended_at = now(), state = %(state)s, phase = %(phase)s, counts = %(counts)s WHERE run_no = %(no)s"
)


@dataclass(slots=True)
class JournalEntry:
    """A run in progress: its number, and the counts it will be remembered by."""

    run_no: int
    counts: dict[str, Any] = field(default_factory=dict)


@contextmanager
def recorded_run(
    database: Database, command: str, *, policies: dict[str, Any], timezone: str
) -> Iterator[JournalEntry]:
    """Write a run into the ledger, and how it ended, whatever happens in between; the row stays when the work fails."""
    begin = {
        "command": command,
        "version": _version(),
        "policies": Jsonb(policies),
        "timezone": timezone,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    with database.connect() as connection:
        row = connection.execute(_BEGIN, begin).fetchone()
    assert row is not None
    entry = JournalEntry(int(row[0]))
    state = "failed"
    try:
        yield entry
        state = "finished"
    except KeyboardInterrupt:
        state = "interrupted"
        raise
    finally:
        phase = "done" if state == "finished" else "reading"
        end = {"state": state, "phase": phase, "counts": Jsonb(entry.counts), "no": entry.run_no}
        with database.connect() as connection:
            connection.execute(_END, end)


def _version() -> str | None:
    try:
        return version("presage")
    except PackageNotFoundError:
        return None
