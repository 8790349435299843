"""Walk an archive and catalogue every file of it by its header: incremental, killed and continued, never a pixel."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from presage_etl.dicom.header import read_header
from presage_etl.dicom.instances import Known, compact, locked_catalogue, next_batch_number, write_batch
from presage_etl.dicom.row import catalogue_row, empty_row
from presage_etl.dicom.walk import FoundFile, Skipped, Source, register_sources, walk_source
from presage_platform.errors import InputError
from presage_platform.logs import get_logger
from presage_platform.parallel import map_partitions, num_workers
from presage_platform.progress import Progress
from presage_platform.settings import Settings
from presage_platform.volumes.catalogue import INSTANCE_SCHEMA, ReadStatus

BATCH_FILES = 50_000
BATCH_SECONDS = 60.0
CHUNK_FILES = 400

log = get_logger(__name__)


@dataclass(slots=True)
class ScanReport:
    """What a scan saw; the counts of `statuses` sum to `num_files`."""

    num_files: int = 0
    num_read: int = 0  # opened in this run; the others are unchanged
    num_vanished: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    skipped: Skipped = field(default_factory=Skipped)

    @property
    def num_images(self) -> int:
        """Files that are images."""
        return self.statuses[ReadStatus.OK]

    def summary(self) -> str:
        """Return the counts in one line."""
        counts = ", ".join(f"{self.statuses[status]} {status.replace('_', ' ')}" for status in ReadStatus)
        return f"{self.num_files} files: {counts}; {self.num_read} read, {self.num_vanished} vanished"


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some files for one worker, and what it needs to know."""

    roots: dict[int, bytes]
    files: tuple[FoundFile, ...]
    run_no: int
    secret: bytes
    timezone: str
    strip_leading_zeros: bool


def scan(
    sources: Sequence[Path | str],
    settings: Settings,
    run_no: int,
    *,
    rehash: bool = False,
    follow_links: bool = False,
    workers: int | None = None,
) -> ScanReport:
    """Bring the catalogue up to date with the files under `sources`.

    Parameters
    ----------
    sources
        Folders, files, or a DICOMDIR (read as its folder).
    settings
        The workspace's settings; the catalogue lies in `settings.catalogue_dir`.
    run_no
        Number of this run; kept with the rows that it reads.
    rehash
        Open every file, whatever its size and mtime say.
    follow_links
        Follow symbolic links that leave a source.
    workers
        Processes; None = `parallel.workers`. The catalogue's bytes do not depend on it.

    Raises
    ------
    InputError
        When a source cannot be read (before any work), or no image is found.
    LockedError
        When another scan is at work.
    """
    started = time.monotonic()
    folder = settings.catalogue_dir
    report = ScanReport()
    with locked_catalogue(folder):
        places = register_sources(sources, folder)
        known = Known(folder)
        to_read = _to_read(places, known, report, rehash=rehash, follow_links=follow_links)
        chunks = _chunks(to_read, places, settings, run_no)
        tables = map_partitions(_read_chunk, chunks, workers=num_workers(workers or settings.parallel.workers))
        _commit_batches(tables, folder, report)
        report.num_vanished = compact(folder, known, places, run_no)
    report.seconds = time.monotonic() - started
    log.info("scan finished", extra={"fields": {"files": report.num_files, "read": report.num_read}})
    if not report.num_images:
        raise InputError(f"no DICOM image found: saw {report.summary()}: give a folder that holds images")
    return report


def _to_read(
    places: list[Source], known: Known, report: ScanReport, *, rehash: bool, follow_links: bool
) -> Iterator[FoundFile]:
    """Count every file that is there; yield those that must be opened."""
    for place in places:
        for file in walk_source(place, report.skipped, follow_links=follow_links):
            report.num_files += 1
            report.num_bytes += file.size
            status = known.unchanged_status(file)
            if status is None or rehash:
                yield file
            else:
                report.statuses[status] += 1


def _chunks(files: Iterator[FoundFile], places: list[Source], settings: Settings, run_no: int) -> Iterator[_Chunk]:
    roots = {place.root_id: os.fsencode(place.root) for place in places}
    secret, zone, strip = settings.secret_key(), settings.timezone, settings.link.strip_leading_zeros
    pending: list[FoundFile] = []
    for file in files:
        pending.append(file)
        if len(pending) == CHUNK_FILES:
            yield _Chunk(roots, tuple(pending), run_no, secret, zone, strip)
            pending = []
    if pending:
        yield _Chunk(roots, tuple(pending), run_no, secret, zone, strip)


def _read_chunk(chunk: _Chunk) -> pa.Table:
    rows = [_read_file(file, chunk) for file in chunk.files]
    columns = {name: [row[name] for row in rows] for name in INSTANCE_SCHEMA.names}
    return pa.Table.from_pydict(columns, schema=INSTANCE_SCHEMA)


def _read_file(file: FoundFile, chunk: _Chunk) -> dict[str, Any]:
    status, header = read_header(chunk.roots[file.root_id] + b"/" + file.rel_path, file.size)
    if header is None:
        row = empty_row()
    else:
        row = catalogue_row(
            header, secret=chunk.secret, timezone=chunk.timezone, strip_leading_zeros=chunk.strip_leading_zeros
        )
    row.update(
        root_id=file.root_id,
        rel_path=file.rel_path,
        size=file.size,
        mtime_ns=file.mtime_ns,
        scan_run=chunk.run_no,
        read_status=status.value,
    )
    return row


def _commit_batches(tables: Iterator[pa.Table], folder: Path, report: ScanReport) -> None:
    """Write what the workers return in batches of files or of time."""
    number = next_batch_number(folder)
    pending: list[pa.Table] = []
    last_commit = time.monotonic()
    with Progress("scan", unit="files") as bar:
        for table in tables:
            pending.append(table)
            report.num_read += table.num_rows
            report.statuses.update(table["read_status"].to_pylist())
            bar.advance(table.num_rows)
            if sum(part.num_rows for part in pending) >= BATCH_FILES or time.monotonic() - last_commit > BATCH_SECONDS:
                write_batch(folder, number, pa.concat_tables(pending))
                number, pending, last_commit = number + 1, [], time.monotonic()
    if pending:
        write_batch(folder, number, pa.concat_tables(pending))
