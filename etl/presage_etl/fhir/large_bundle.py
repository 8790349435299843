"""Bundles above 64 MiB: a byte scanner cuts them between entries, so that memory follows the largest entry (E3).

Nothing is decoded here but the names of entries; each piece is a Bundle of its own for the workers, with the part of
the `fullUrl` names that its references need.
"""

from __future__ import annotations

import mmap
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import msgspec

from presage_etl.fhir.inputs import BLOCK_BYTES, InputFile, open_bytes, read_block

PREFIX = b'{"resourceType":"Bundle","entry":['
SUFFIX = b"]}"
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]', re.DOTALL)
_URN = re.compile(rb'"(urn:(?:uuid|oid):[^"\\]+)"')


@dataclass(frozen=True, slots=True)
class Piece:
    """Some consecutive entries as a Bundle; `offset` is where its first byte would stand in the file."""

    data: bytes
    offset: int
    names: tuple[tuple[str, str], ...]


class _Name(msgspec.Struct, rename="camel"):
    resource_type: str | None = None
    id: str | None = None


class _Entry(msgspec.Struct, rename="camel"):
    full_url: str | None = None
    resource: _Name | None = None


_entry = msgspec.json.Decoder(_Entry)


@contextmanager
def spooled(file: InputFile) -> Iterator[tuple[IO[bytes], bool]]:
    """Yield the file as plain bytes on disk, and whether its archive is whole."""
    if not file.compression:
        with file.path.open("rb") as plain:
            yield plain, True
        return
    with tempfile.TemporaryFile() as spool, open_bytes(file.path, file.compression) as stream:
        damaged = False
        while not damaged:
            block, damaged = read_block(stream, BLOCK_BYTES)
            if not block:
                break
            spool.write(block)
        spool.flush()
        yield spool, not damaged


def pieces(plain: IO[bytes]) -> Iterator[Piece]:
    """Cut a Bundle between its entries into pieces of about 16 MiB; nothing when the file holds no array of entries."""
    with mmap.mmap(plain.fileno(), 0, access=mmap.ACCESS_READ) as data:
        spans = list(_spans(data))
        names = dict(_names(data, spans))
        for group in _grouped(spans):
            yield _piece(data, group, names)


def _spans(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Yield where each element of the top-level `entry` array begins and ends."""
    depth, start, key, inside = 0, 0, b"", False
    for token in _TOKEN.finditer(data):
        text = token[0]
        if text in (b"{", b"["):
            if depth == 1 and text == b"[" and key == b'"entry"':
                inside = True
            elif depth == 2 and inside:
                start = token.start()
            depth += 1
        elif text in (b"}", b"]"):
            depth -= 1
            if depth == 2 and inside:
                yield start, token.end()
            elif depth == 1:
                inside = False
        elif depth == 1:
            key = text


def _grouped(spans: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    group: list[tuple[int, int]] = []
    for span in spans:
        if group and span[1] - group[0][0] > BLOCK_BYTES:
            yield group
            group = []
        group.append(span)
    if group:
        yield group


def _names(data: mmap.mmap, spans: list[tuple[int, int]]) -> Iterator[tuple[str, str]]:
    for start, end in spans:
        try:
            entry = _entry.decode(data[start:end])
        except (msgspec.DecodeError, RecursionError):
            continue
        url, name = entry.full_url, entry.resource
        if url and url.startswith("urn:") and name is not None and name.resource_type:
            yield url, f"{name.resource_type}/{name.id or url.rpartition(':')[2]}"


def _piece(data: mmap.mmap, group: list[tuple[int, int]], names: dict[str, str]) -> Piece:
    start, end = group[0][0], group[-1][1]
    body = data[start:end]
    wanted = {match.decode() for match in _URN.findall(body)}
    known = tuple(sorted((url, names[url]) for url in wanted & names.keys()))
    return Piece(PREFIX + body + SUFFIX, start - len(PREFIX), known)
