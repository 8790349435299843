"""Dead letters of a merge: what could not stand is kept whole, its bytes read once more from its file (E96)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import psycopg
import pyarrow as pa

from presage_etl.fhir.merge_keys import MergeSession
from presage_platform.postgres.bulk import copy_in

Payloads = Callable[[set[int]], Iterable[tuple[int, bytes]]]
"""Reads resources once more, by their stage numbers: (stage_no, zstd payload)."""

BATCH = 5_000


def write_letters(session: MergeSession, connection: psycopg.Connection[Any], payloads: Payloads) -> None:
    """Write a dead letter for everything that was put aside; with payloads only where the load keeps them."""
    load = session.load
    session.cursor.execute("CREATE TEMP TABLE payload (stage_no bigint PRIMARY KEY, payload bytea) ON COMMIT DROP")
    if load.keep_payload:
        _read_payloads(session, connection, payloads)
    session.run("dead_letters", source_no=load.source_no, run_no=load.run_no)


def _read_payloads(session: MergeSession, connection: psycopg.Connection[Any], payloads: Payloads) -> None:
    """Read again what the merge put aside: only their pointers were staged."""
    session.cursor.execute(
        "SELECT d.stage_no FROM dying AS d JOIN stage_resource AS s USING (stage_no) WHERE s.letter_no IS NULL"
    )
    wanted = {int(row[0]) for row in session.cursor.fetchall()}
    if not wanted:
        return
    batch: list[tuple[int, bytes]] = []
    for item in payloads(wanted):
        batch.append(item)
        if len(batch) >= BATCH:
            _copy(connection, batch)
            batch = []
    _copy(connection, batch)


def _copy(connection: psycopg.Connection[Any], batch: list[tuple[int, bytes]]) -> None:
    if batch:
        numbers, payloads = zip(*batch, strict=True)
        rows = pa.table({"stage_no": pa.array(numbers, pa.int64()), "payload": pa.array(payloads, pa.binary())})
        copy_in(connection, "payload", rows)
