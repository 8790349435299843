"""Which files an export consists of, and what each is: found by content, not by extension alone (E1)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import zstandard

from presage_etl.fhir.manifest import expand_manifests
from presage_platform.errors import InputError

Form = Literal["ndjson", "json", "empty", "unusable"]
Compression = Literal["", "gzip", "zstd"]

BLOCK_BYTES = 16 << 20
PEEK_BYTES = 1 << 16
PACKED_BYTES = 1 << 14
"""Compressed bytes taken at a time: as much can be lost where an archive is damaged."""
DAMAGED = (OSError, EOFError, zlib.error, zstandard.ZstdError)
LINE_FORMS = (".ndjson", ".jsonl")
LOOKED_FOR = ".ndjson, .json, .gz, .zst"


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of an export."""

    path: Path
    size_bytes: int
    form: Form
    compression: Compression
    sha256: bytes = b""
    looks_like: str = ""
    cuts: tuple[tuple[int, int], ...] = ()
    """Plain NDJSON: (offset, line number) at which the ranges of about 16 MiB begin."""
    file_no: int = 0
    last_updated: str = ""
    """Largest calendar date of a `meta.lastUpdated` in it."""
    is_removal: bool = False
    """Listed by a manifest as deletions: applied after every other file (E5)."""


def find_files(paths: Sequence[Path]) -> list[InputFile]:
    """Return the files of an export in the order of their paths, each read once for its hash and its ranges.

    Raises
    ------
    InputError
        When a path does not exist, a manifest lists a missing file, or nothing usable is found.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"no FHIR resource found in {path} (looked for {LOOKED_FOR}): the path does not exist")
        found.extend(_walk(path) if path.is_dir() else [path])
    listing = expand_manifests(sorted(set(found)))
    with ThreadPoolExecutor(max_workers=4) as pool:
        examined = list(pool.map(_examine, sorted(listing.files)))
    files = [
        replace(
            file,
            last_updated=listing.made_on.get(file.path, file.last_updated),
            is_removal=file.path in listing.deleted,
        )
        for file in examined
    ]
    _refuse_unusable(paths, files)
    return files


def _walk(root: Path) -> Iterator[Path]:
    inside = root.resolve()
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder) / name
            if name.startswith(".") or not path.is_file():
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                continue
            yield path


def _refuse_unusable(paths: Sequence[Path], files: Sequence[InputFile]) -> None:
    if any(file.form in ("ndjson", "json") for file in files):
        return
    asked = ", ".join(str(path) for path in paths)
    kinds = sorted({file.looks_like or "empty file" for file in files})
    found = f": found {', '.join(kinds)}" if kinds else ""
    raise InputError(f"no FHIR resource found in {asked} (looked for {LOOKED_FOR}){found}")


class ByteStream(Protocol):
    """What is read from a file, decompressed if need be."""

    def read(self, size: int = -1, /) -> bytes:
        """Return some bytes, at most about `size`; none at the end."""

    def close(self) -> None:
        """Close the file."""


@contextmanager
def open_bytes(path: Path, compression: Compression) -> Iterator[ByteStream]:
    """Open a file for reading, decompressed; members and frames that follow each other are one stream."""
    with path.open("rb") as raw:
        yield _Decompressed(raw, compression) if compression else raw


class _Decompressed:
    """gzip or zstd, read so that everything before a damage is returned before the error is raised."""

    def __init__(self, raw: IO[bytes], compression: Compression) -> None:
        self._raw, self._compression = raw, compression
        self._decompress: Any = None
        self._pending = b""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes; EOFError when the archive ends early."""
        while True:
            self._pending = self._pending or self._raw.read(PACKED_BYTES)
            if not self._pending:
                if self._decompress is not None and not self._decompress.eof:
                    raise EOFError
                return b""
            if self._decompress is None or self._decompress.eof:
                if self._decompress is not None and not self._pending.strip(b"\0"):
                    self._pending = b""  # tapes and block devices leave zeros behind the last member
                    continue
                self._decompress = self._next_member()
            found: bytes = self._decompress.decompress(self._pending)
            self._pending = self._decompress.unused_data if self._decompress.eof else b""
            if found:
                return found

    def _next_member(self) -> Any:
        if self._compression == "gzip":
            return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        return zstandard.ZstdDecompressor().decompressobj()

    def close(self) -> None:
        """Close the file."""
        self._raw.close()


def read_block(stream: ByteStream, size: int) -> tuple[bytes, bool]:
    """Return about `size` bytes, less at the end only, and whether the archive breaks off within them."""
    pieces: list[bytes] = []
    missing = size
    while missing > 0:
        try:
            piece = stream.read(min(missing, 1 << 20))
        except DAMAGED:
            return b"".join(pieces), True
        if not piece:
            break
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces), False


def _examine(path: Path) -> InputFile:
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise InputError(f"a file of the export cannot be read: {error.strerror}") from None
    compression: Compression = ""
    if magic[:2] == b"\x1f\x8b":
        compression = "gzip"
    elif magic == b"\x28\xb5\x2f\xfd":
        compression = "zstd"
    form, looks_like = _form_of(path, compression)
    file = InputFile(path, size, form, compression, looks_like=looks_like)
    return _hash_and_cut(file)


def _form_of(path: Path, compression: Compression) -> tuple[Form, str]:
    with open_bytes(path, compression) as stream:
        head, damaged = read_block(stream, PEEK_BYTES)
        body = head.removeprefix(b"\xef\xbb\xbf").lstrip()
        if not body:
            if damaged:
                return "ndjson", ""  # nothing can be told: the reader makes one dead letter of it
            return ("empty", "") if len(head) < PEEK_BYTES else ("unusable", "blank text")
        if body[:1] == b"{":
            return ("ndjson" if _is_lines(path, body, stream) else "json"), ""
        if body[:1] == b"[":
            return "json", ""
        return "unusable", _looks_like(body)


def _is_lines(path: Path, body: bytes, stream: ByteStream) -> bool:
    if any(suffix in LINE_FORMS for suffix in path.suffixes[-2:]):
        return True
    line, newline, rest = body.partition(b"\n")
    while not newline and len(body) < BLOCK_BYTES * 4:
        more, damaged = read_block(stream, BLOCK_BYTES)
        if not more:
            return damaged and body[:1] == b"{" and b"\n" in body
        body += more
        line, newline, rest = body.partition(b"\n")
    if not line.rstrip().endswith(b"}") or not _is_object(line):
        return False
    following = rest.lstrip() or read_block(stream, PEEK_BYTES)[0].lstrip()
    return following[:1] == b"{"


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _looks_like(body: bytes) -> str:
    head = body[:400].lower()
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (fetch the file first)"
    if head.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if head.startswith(b"<"):
        return "XML (only JSON is read)"
    if b"," in head.partition(b"\n")[0] or b"\t" in head.partition(b"\n")[0]:
        return "a table of text (for OMOP tables use `platform etl omop`)"
    return "text or binary data that is not JSON"


_LAST_UPDATED = re.compile(rb'"lastUpdated"\s*:\s*"(\d{4}-\d{2}-\d{2})')
_OVERLAP = 64


def _hash_and_cut(file: InputFile) -> InputFile:
    digest = hashlib.sha256()
    cut = file.form == "ndjson" and not file.compression
    cuts: list[tuple[int, int]] = [(0, 1)] if cut else []
    offset, line, due, latest, tail = 0, 1, BLOCK_BYTES, b"", b""
    with file.path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            if cut:
                at = block.find(b"\n", max(0, due - offset)) if offset + len(block) > due else -1
                if at >= 0:
                    cuts.append((offset + at + 1, line + block.count(b"\n", 0, at + 1)))
                    due = offset + at + 1 + BLOCK_BYTES
                line += block.count(b"\n")
            offset += len(block)
            if not file.compression:
                latest = max([latest, *_LAST_UPDATED.findall(tail + block)])
                tail = block[-_OVERLAP:]
    if file.compression and file.form != "unusable":
        latest = _latest_inside(file)
    if cuts and cuts[-1][0] >= offset and len(cuts) > 1:
        cuts.pop()
    return replace(file, sha256=digest.digest(), cuts=tuple(cuts), last_updated=latest.decode())


def _latest_inside(file: InputFile) -> bytes:
    latest, tail, block = b"", b"", b"."
    with open_bytes(file.path, file.compression) as stream:
        while block:
            block, damaged = read_block(stream, 1 << 20)
            latest = max([latest, *_LAST_UPDATED.findall(tail + block)])
            tail = block[-_OVERLAP:]
            if damaged:
                break
    return latest
