"""Cuts the files of an export into partitions of about 16 MiB, and partitions into resources (E1–E4, E88).

A partition is what one worker takes at a time; the same files always give the same partitions in the same order, so
that an interrupted run knows what it has done. Nothing is interpreted here but the envelope of Bundles.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from presage_etl.fhir.inputs import BLOCK_BYTES, Compression, InputFile, open_bytes, read_block
from presage_etl.fhir.large_bundle import pieces, spooled
from presage_etl.fhir.reference import base_of, settle

MAX_RESOURCE_BYTES = 64 << 20
MAX_BUNDLE_DEPTH = 3
HEAD_BYTES = 4096
"""Where the type of a resource is looked for before it is decoded."""
GROWTH = 12
"""How much a compressed file is expected to grow, when small files are put together."""


@dataclass(frozen=True, slots=True)
class Part:
    """Where a piece of a file begins, and its bytes when the one reader had to decompress them."""

    file_no: int
    path: Path
    form: str
    compression: Compression
    offset: int = 0
    stop: int | None = None
    line: int = 1
    data: bytes | None = None
    names: tuple[tuple[str, str], ...] = ()
    """`fullUrl` → `Type/id` of entries that lie in other pieces of the same Bundle."""


@dataclass(frozen=True, slots=True)
class Partition:
    """The unit of work of a run."""

    chunk_no: int
    parts: tuple[Part, ...]
    letters: tuple[int, ...] = ()
    """Dead letters of earlier runs to try again, instead of files."""
    deletes: tuple[str, ...] = ()
    """`Type/id` of resources to remove, instead of files."""


class Entry(msgspec.Struct, gc=False):
    """One resource as it stands in an input, or the reason why the bytes are none."""

    raw: bytes
    file_no: int
    offset: int
    line: int | None
    excluded: str | None = None
    dead: str | None = None
    path: str | None = None
    deleted: str | None = None
    """`Type/id` that a DELETE entry names."""
    letter_no: int | None = None
    as_of_run: int | None = None
    """The run that met it, when it comes from a dead letter."""


class _Request(msgspec.Struct):
    method: str | None = None
    url: str | None = None


class _Search(msgspec.Struct):
    mode: str | None = None


class _BundleEntry(msgspec.Struct):
    full_url: str | None = msgspec.field(name="fullUrl", default=None)
    resource: msgspec.Raw = msgspec.Raw()
    request: _Request | None = None
    search: _Search | None = None


class _Bundle(msgspec.Struct):
    type: str | None = None
    entry: list[_BundleEntry] = []


class _Name(msgspec.Struct):
    resource_type: str | None = msgspec.field(name="resourceType", default=None)
    id: str | None = None


DELETED = re.compile(r"(?:^|/)([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})$")

_bundle = msgspec.json.Decoder(_Bundle)
_name = msgspec.json.Decoder(_Name)
_array = msgspec.json.Decoder(list[msgspec.Raw])


# --- partitions ------------------------------------------------------------------------------------------------------


def partitions(files: Sequence[InputFile], *, first_no: int = 1) -> Iterator[Partition]:
    """Yield the partitions of an export, numbered in the order of paths and offsets."""
    number = first_no
    for parts in _groups(files):
        yield Partition(number, parts)
        number += 1


def _groups(files: Sequence[InputFile]) -> Iterator[tuple[Part, ...]]:
    small: list[Part] = []
    size = 0
    for file in files:
        expected = file.size_bytes * (GROWTH if file.compression else 1)
        if file.form == "empty":
            continue
        if expected > BLOCK_BYTES or size + expected > BLOCK_BYTES:
            if small:
                yield tuple(small)
            small, size = [], 0
        if expected <= BLOCK_BYTES:
            small.append(Part(file.file_no, file.path, file.form, file.compression))
            size += expected
        else:
            yield from ((part,) for part in _pieces(file))
    if small:
        yield tuple(small)


def _pieces(file: InputFile) -> Iterator[Part]:
    if file.form == "json":
        yield from _document_pieces(file)
    elif file.form != "ndjson":
        yield Part(file.file_no, file.path, file.form, file.compression)
    elif file.compression:
        yield from _decompressed_pieces(file)
    else:
        stops = [offset for offset, _ in file.cuts[1:]] + [file.size_bytes]
        for (offset, line), stop in zip(file.cuts, stops, strict=True):
            yield Part(file.file_no, file.path, file.form, "", offset, stop, line)


def _document_pieces(file: InputFile) -> Iterator[Part]:
    """A document that fits into memory is one piece, a larger Bundle is cut between its entries (E3)."""
    with spooled(file) as (plain, is_whole):
        size = plain.seek(0, os.SEEK_END)
        plain.seek(0)
        if size > MAX_RESOURCE_BYTES and is_whole and _BUNDLE_NAME.search(plain.read(HEAD_BYTES)):
            for piece in pieces(plain):
                yield Part(file.file_no, file.path, "json", "", piece.offset, data=piece.data, names=piece.names)
            return
    yield Part(file.file_no, file.path, file.form, file.compression)


def _decompressed_pieces(file: InputFile) -> Iterator[Part]:
    """One reader decompresses, workers take blocks of whole lines."""
    offset, line, carry = 0, 1, b""
    with open_bytes(file.path, file.compression) as stream:
        while True:
            block, damaged = read_block(stream, BLOCK_BYTES)
            data = carry + block
            end = len(data) if damaged or not block else data.rfind(b"\n") + 1
            if end:
                yield _block_part(file, data[:end], offset, line, damaged)
                offset, line = offset + end, line + data.count(b"\n", 0, end)
            elif damaged:
                yield _block_part(file, b"", offset, line, damaged)
            if damaged or not block:
                return
            carry = data[end:]


def _block_part(file: InputFile, data: bytes, offset: int, line: int, damaged: bool) -> Part:
    form = "truncated" if damaged else "ndjson"
    return Part(file.file_no, file.path, form, "", offset, None, line, data)


# --- resources -------------------------------------------------------------------------------------------------------


def read(partition: Partition, bases: frozenset[str] = frozenset()) -> Iterator[Entry]:
    """Yield the resources of a partition in the order in which they stand."""
    for key in partition.deletes:
        yield Entry(b"", 0, 0, None, deleted=key)
    for part in partition.parts:
        data, damaged = _bytes_of(part)
        form = part.form
        if form == "unusable":
            yield Entry(data[:MAX_RESOURCE_BYTES], part.file_no, 0, 1, dead="not-json")
        elif form in ("ndjson", "truncated"):
            yield from _lines(data, part, bases, damaged or form == "truncated")
        else:
            yield from _document(data, part, bases, damaged)


def _bytes_of(part: Part) -> tuple[bytes, bool]:
    if part.data is not None:
        return part.data, False
    if not part.compression:
        with part.path.open("rb") as raw:
            raw.seek(part.offset)
            return raw.read() if part.stop is None else raw.read(part.stop - part.offset), False
    with open_bytes(part.path, part.compression) as stream:
        pieces: list[bytes] = []
        while True:
            block, damaged = read_block(stream, BLOCK_BYTES)
            pieces.append(block)
            if damaged or not block:
                return b"".join(pieces), damaged


def _lines(data: bytes, part: Part, bases: frozenset[str], damaged: bool) -> Iterator[Entry]:
    """Yield the lines of NDJSON; in a damaged archive the cut line and the end of the file are one dead letter."""
    position = 3 if part.offset == 0 and data.startswith(b"\xef\xbb\xbf") else 0
    number, size = part.line, len(data)
    while position < size:
        end = data.find(b"\n", position)
        stop = size if end < 0 else end
        raw = data[position:stop].strip()
        if end < 0 and damaged:
            yield Entry(raw, part.file_no, part.offset + position, number, dead="truncated-file")
            return
        if raw:
            yield from _resource(raw, part.file_no, part.offset + position, number, bases)
        position, number = stop + 1, number + 1
    if damaged:
        yield Entry(b"", part.file_no, part.offset + size, number, dead="truncated-file")


def _resource(raw: bytes, file_no: int, offset: int, line: int | None, bases: frozenset[str]) -> Iterator[Entry]:
    if len(raw) > MAX_RESOURCE_BYTES:
        yield Entry(b"", file_no, offset, line, dead="too-large")
    elif _BUNDLE_NAME.search(raw, 0, HEAD_BYTES) and _resource_type(raw) == "Bundle":
        yield from _bundle_entries(raw, file_no, offset, line, bases, 1)
    else:
        yield Entry(settle(raw, {}, bases), file_no, offset, line)


_BUNDLE_NAME = re.compile(rb'"resourceType"\s*:\s*"Bundle"')


def _resource_type(raw: bytes) -> str | None:
    try:
        return _name.decode(raw).resource_type
    except (msgspec.DecodeError, RecursionError):
        return None


def _document(data: bytes, part: Part, bases: frozenset[str], damaged: bool) -> Iterator[Entry]:
    raw = data.removeprefix(b"\xef\xbb\xbf").strip()
    offset = data.find(raw[:1]) if raw else 0
    if damaged:
        yield Entry(raw[:MAX_RESOURCE_BYTES], part.file_no, offset, None, dead="truncated-file")
    elif raw[:1] == b"[":
        yield from _array_elements(raw, part, offset, bases)
    elif _resource_type(raw) == "Bundle":
        yield from _bundle_entries(raw, part.file_no, part.offset + offset, None, bases, 1, dict(part.names))
    elif raw:
        yield from _resource(raw, part.file_no, offset, None, bases)


def _array_elements(raw: bytes, part: Part, offset: int, bases: frozenset[str]) -> Iterator[Entry]:
    try:
        elements = _array.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        yield Entry(raw, part.file_no, offset, None, dead="not-json")
        return
    position = 0
    for element in elements:
        body = bytes(element)
        position = raw.find(body, position)
        yield from _resource(body, part.file_no, offset + position, None, bases)
        position += len(body)


def _bundle_entries(
    raw: bytes,
    file_no: int,
    offset: int,
    line: int | None,
    bases: frozenset[str],
    depth: int,
    elsewhere: dict[str, str] | None = None,
) -> Iterator[Entry]:
    try:
        bundle = _bundle.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        yield Entry(raw, file_no, offset, line, dead="not-json")
        return
    names, own_bases = _full_urls(bundle.entry)
    names |= elsewhere or {}
    known = bases | own_bases
    position = 0
    for entry in bundle.entry:
        if entry.request is not None and entry.request.method == "DELETE":
            yield _delete(entry.request.url or "", file_no, offset + position, line)
            continue
        body = bytes(entry.resource)
        if not body or body == b"null":
            continue
        position = raw.find(body, position)
        yield from _bundle_entry(entry, body, names, known, file_no, offset + position, line, depth)
        position += len(body)


def _delete(url: str, file_no: int, offset: int, line: int | None) -> Entry:
    """Return the wish to remove one resource; one that names it by a search is not guessed at."""
    match = DELETED.search(url)
    if match is None:
        return Entry(url.encode(), file_no, offset, line, dead="structure", path="Bundle.entry.request.url")
    return Entry(b"", file_no, offset, line, deleted=f"{match[1]}/{match[2]}")


def _bundle_entry(
    entry: _BundleEntry,
    body: bytes,
    names: dict[str, str],
    bases: frozenset[str],
    file_no: int,
    offset: int,
    line: int | None,
    depth: int,
) -> Iterator[Entry]:
    if entry.search is not None and entry.search.mode == "outcome":
        yield Entry(body, file_no, offset, line, excluded="not-a-match")
        return
    if depth < MAX_BUNDLE_DEPTH and _BUNDLE_NAME.search(body, 0, HEAD_BYTES) and _resource_type(body) == "Bundle":
        yield from _bundle_entries(body, file_no, offset, line, bases, depth + 1)
        return
    if len(body) > MAX_RESOURCE_BYTES:
        yield Entry(b"", file_no, offset, line, dead="too-large")
        return
    settled = settle(body, names, bases)
    own = names.get(entry.full_url or "")
    yield Entry(_with_id(settled, own), file_no, offset, line)


def _full_urls(entries: Sequence[_BundleEntry]) -> tuple[dict[str, str], frozenset[str]]:
    """Return what each `fullUrl` stands for, and the bases that occur in them."""
    names: dict[str, str] = {}
    bases: set[str] = set()
    for entry in entries:
        if entry.full_url is None or not bytes(entry.resource):
            continue
        try:
            name = _name.decode(entry.resource)
        except (msgspec.DecodeError, RecursionError):
            continue
        urn_id = entry.full_url.rpartition(":")[2] if entry.full_url.startswith("urn:") else None
        own_id = name.id or urn_id
        if name.resource_type and own_id:
            names[entry.full_url] = f"{name.resource_type}/{own_id}"
        base = base_of(entry.full_url)
        if base:
            bases.add(base)
    return names, frozenset(bases)


def _with_id(raw: bytes, own_key: str | None) -> bytes:
    """Give an entry without id the one of its `urn:uuid` (E18)."""
    if own_key is None:
        return raw
    try:
        if _name.decode(raw).id is not None:
            return raw
    except (msgspec.DecodeError, RecursionError):
        return raw
    return b'{"id":"' + own_key.partition("/")[2].encode() + b'",' + raw.lstrip()[1:]
