"""Resources read once more from the files that they came from, if these are still there and the same."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import zstandard

from presage_etl.fhir.inputs import find_files
from presage_etl.fhir.reader import partitions, read

Pointer = tuple[int, str, bytes, int]
"""(a number of the caller, path, SHA-256 of the file, byte offset)"""


def read_again(pointers: Iterable[Pointer], bases: frozenset[str] = frozenset()) -> dict[int, bytes]:
    """Return the caller's number → the resource (zstd), for those whose file is unchanged."""
    by_file: dict[tuple[str, bytes], dict[int, int]] = defaultdict(dict)
    for number, path, sha256, offset in pointers:
        by_file[path, bytes(sha256)][offset] = number
    found: dict[int, bytes] = {}
    for (path, sha256), wanted in by_file.items():
        if _is_unchanged(Path(path), sha256):
            for partition in partitions(find_files([Path(path)])):
                for entry in read(partition, bases):
                    if entry.offset in wanted and entry.raw:
                        found[wanted[entry.offset]] = zstandard.compress(entry.raw, 3)
    return found


def _is_unchanged(path: Path, sha256: bytes) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest() == sha256
