"""The accounts of a run in the ledger: written with the merge, read back for the report (E93, E95)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from presage_etl.fhir.ledger import Begun
from presage_etl.fhir.merge import Merged
from presage_etl.fhir.report import Account, LoadReport, accounts_by_file, accounts_by_type
from presage_platform.errors import InputError

Skipped = dict[int, dict[str, Any]]
"""file number → its counts when it was read."""


def write_accounts(
    connection: psycopg.Connection[Any], begun: Begun, merged: Merged, skipped: Skipped, *, competing: bool
) -> dict[str, Any]:
    """Write exclusions, notes and the counts of each file; return those of the run.

    Parameters
    ----------
    skipped
        Files that were not read again: what they held counts as unchanged.
    competing
        Whether copies of one resource competed in the runs that read the skipped files.
    """
    read_, notes = _read_counts(connection, begun.run_no)
    ended = [(o.file_no, o.resource_type, o.outcome, o.reason, o.count) for o in merged.outcomes]
    accounts = accounts_by_file(read_, ended)
    competing = competing or any(a.excluded["superseded"] for kinds in accounts.values() for a in kinds.values())
    for file_no, counts in skipped.items():
        kinds = accounts.setdefault(file_no, {})
        for kind, values in counts.items():
            kinds.setdefault(kind, Account()).add(values, unchanged=True)
    _write_files(connection, begun, accounts, skipped)
    types = accounts_by_type(accounts)
    excluded = [
        (begun.run_no, kind, reason, number)
        for kind, account in types.items()
        for reason, number in account.excluded.items()
    ]
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO exclusion VALUES (%s, %s, %s, %s)", excluded)
        cursor.executemany(
            "INSERT INTO run_note VALUES (%s, %s, %s, %s, %s, %s)",
            [(begun.run_no, *key, number) for key, number in notes.items()],
        )
    return {
        "types": {kind: account.as_dict() for kind, account in types.items()},
        "tables": merged.changes.as_dict(),
        "competing": competing,
    }


def _write_files(
    connection: psycopg.Connection[Any], begun: Begun, accounts: dict[int, dict[str, Account]], skipped: Skipped
) -> None:
    rows = []
    for file in begun.files:
        kinds = accounts.get(file.file_no, {})
        state = "skipped" if file.file_no in skipped else "finished"
        counts = {kind: account.as_dict() for kind, account in kinds.items()}
        rows.append((state, sum(account.num_in for account in kinds.values()), Jsonb(counts), file.file_no))
    with connection.cursor() as cursor:
        cursor.executemany("UPDATE source_file SET state = %s, resources = %s, counts = %s WHERE file_no = %s", rows)


def _read_counts(
    connection: psycopg.Connection[Any], run_no: int
) -> tuple[list[tuple[int, str, int]], Counter[tuple[str, str, str, str]]]:
    read_: Counter[tuple[int, str]] = Counter()
    notes: Counter[tuple[str, str, str, str]] = Counter()
    for counts, noted in connection.execute("SELECT counts, notes FROM chunk WHERE run_no = %s", [run_no]):
        for file_no, kind, number in counts:
            read_[file_no, kind] += number
        for *key, number in noted:
            notes[tuple(key)] += number
    return [(file_no, kind, number) for (file_no, kind), number in read_.items()], notes


def read_report(connection: psycopg.Connection[Any], run_no: int) -> LoadReport:
    """Return the report of a merged run from the ledger."""
    row = connection.execute(
        "SELECT s.name, r.counts, r.extracted_on, r.vocabulary_release, r.policy_hash, r.timezone, r.workers "
        "FROM run AS r JOIN source AS s USING (source_no) WHERE r.run_no = %s",
        [run_no],
    ).fetchone()
    if row is None or row[1] is None:
        raise InputError(f"run {run_no} has no report: `platform etl status` lists the runs")
    source, counts, extracted_on, vocabulary, policy_hash, zone, workers = row
    types = {kind: _account_of(values) for kind, values in counts["types"].items()}
    by_file = {
        file_no: {kind: _account_of(values) for kind, values in (kinds or {}).items()}
        for file_no, kinds in connection.execute("SELECT file_no, counts FROM source_file WHERE run_no = %s", [run_no])
    }
    states = dict(
        connection.execute(
            "SELECT state, count(*) FROM source_file WHERE run_no = %s GROUP BY state", [run_no]
        ).fetchall()
    )
    empty = connection.execute(
        "SELECT count(*) FROM source_file WHERE run_no = %s AND resources = 0", [run_no]
    ).fetchone()
    notes = Counter(
        {
            (kind, word, element, detail): number
            for kind, word, element, detail, number in connection.execute(
                "SELECT resource_type, kind, element, detail, count FROM run_note WHERE run_no = %s", [run_no]
            )
        }
    )
    seconds: Counter[str] = Counter()
    for (laps,) in connection.execute("SELECT seconds FROM chunk WHERE run_no = %s", [run_no]):
        for stage, spent in laps.items():
            seconds[f"{stage} (all workers)"] += spent
    facts = {
        "files": f"{states.get('finished', 0)} read, {states.get('skipped', 0)} unchanged and skipped, "
        f"{empty[0] if empty else 0} without resources",
        "extraction date": str(extracted_on),
        "vocabulary": vocabulary,
        "policies": policy_hash,
        "timezone": zone,
        "workers": workers,
    }
    return LoadReport(run_no, source, types, by_file, counts["tables"], notes, dict(seconds), facts)


def _account_of(values: dict[str, Any]) -> Account:
    account = Account()
    account.add(values)
    return account
