"""A byte walker over DICOM headers, twenty times as fast as a full parse; what it is not sure of it leaves to pydicom.

It reads little endian headers by length, skips sequences, and gives up (returns None) on everything unusual: the
caller then asks pydicom. A differential test holds both readers to the same result on every fixture and real file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import blake2b
from struct import Struct, error
from typing import Any

from presage_etl.dicom.elements import (
    CODE,
    DEEP,
    DEFLATED,
    ELEMENTS,
    ENHANCED_CT,
    EXPLICIT_BE,
    IMPLICIT_LE,
    INTEGER,
    LEGACY_CONVERTED_CT,
    NUMBER,
    PIXEL_GROUP,
    PRESENT,
    SHORT,
    TEXT,
    Header,
)

PREFIX_BYTES = 64 * 1024
MAX_PREFIX_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 32
UNDEFINED = 0xFFFFFFFF

_IMPLICIT = Struct("<II").unpack_from  # key, length; key = element << 16 | group
_EXPLICIT = Struct("<I2sH").unpack_from
_LONG = Struct("<I").unpack_from


def _key(tag: int) -> int:
    return (tag & 0xFFFF) << 16 | tag >> 16


_WANTED = {_key(tag): (name, kind) for name, (tag, kind) in ELEMENTS.items()}
_DEEP = frozenset(_key(tag) for tag in DEEP)
_ITEM, _ITEM_END, _SEQUENCE_END = _key(0xFFFEE000), _key(0xFFFEE00D), _key(0xFFFEE0DD)
_PIXELS = frozenset(_key(tag) for tag in (0x7FE00008, 0x7FE00009, 0x7FE00010))
_LAST_META_GROUP, _FIRST_ODD_GROUP, _FIRST_OVERLAY, _LAST_OVERLAY = 0x0002, 0x6000, 0x6000, 0x60FF
_OVERLAY_DATA, _DELIMITER_GROUP = 0x3000, 0xFFFE
_GROUP_LENGTH, _META_CLASS, _META_SOP, _META_SYNTAX = map(_key, (0x00020000, 0x00020002, 0x00020003, 0x00020010))
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT_VRS = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()  # two-byte lengths
)
_VRS_OF_KIND = {  # b"": an implicit data set names none
    TEXT: frozenset({b"", b"LO", b"SH", b"UC"}),
    CODE: frozenset({b"", b"CS", b"UI", b"DA", b"TM", b"DT", b"AS", b"SH"}),
    NUMBER: frozenset({b"", b"DS"}),
    INTEGER: frozenset({b"", b"IS"}),
    SHORT: frozenset({b"", b"US", b"SS"}),
    PRESENT: frozenset({b"", b"LO", b"SQ"}),
}
_PLAIN_CHARSETS = {"": "latin-1", "ISO_IR 6": "latin-1", "ISO_IR 100": "latin-1", "ISO_IR 192": "utf-8"}


class _UnsureError(Exception):
    """The walker meets something that only pydicom should judge."""


class _ShortError(Exception):
    """The walk left the bytes at hand; more of the file is needed."""


def walk_header(descriptor: int, size: int) -> Header | None:
    """Read the header of an open file, or return None where pydicom must decide.

    Parameters
    ----------
    descriptor
        An open file descriptor; its position is not used.
    size
        Size of the file in bytes.
    """
    prefix_bytes = PREFIX_BYTES
    while True:
        prefix = os.pread(descriptor, min(prefix_bytes, size), 0)
        try:
            return _walk(prefix, size)
        except _ShortError:
            if len(prefix) >= size or prefix_bytes >= MAX_PREFIX_BYTES:
                return None
            prefix_bytes *= 4
        except (_UnsureError, error, IndexError):
            return None


def _walk(data: bytes, size: int) -> Header:
    if data[128:132] != b"DICM":
        raise _UnsureError
    header = Header()
    position = _walk_meta(data, header)
    syntax = header.transfer_syntax_uid or ""
    if not syntax.startswith(IMPLICIT_LE) or syntax in (DEFLATED, EXPLICIT_BE):
        raise _UnsureError
    implicit = syntax == IMPLICIT_LE
    raw: dict[str, tuple[str, bytes]] = {}
    end = _walk_data_set(data, position, header, raw, implicit=implicit)
    _take_values(header, raw)
    _take_pixels(header, data, end, size, implicit=implicit)
    return header


def _next_implicit(data: bytes, position: int) -> tuple[int, bytes, int, int]:
    key, length = _IMPLICIT(data, position)
    return key, b"", length, position + 8


def _next_explicit(data: bytes, position: int) -> tuple[int, bytes, int, int]:
    key, vr, length = _EXPLICIT(data, position)
    if vr in _SHORT_VRS:
        return key, vr, length, position + 8
    if vr in _LONG_VRS:
        return key, vr, _LONG(data, position + 8)[0], position + 12
    raise _UnsureError


def _walk_meta(data: bytes, header: Header) -> int:
    """Read group 0002; return where the data set starts."""
    key, _, length, position = _next_explicit(data, 132)
    if key != _GROUP_LENGTH or length != 4:
        raise _UnsureError
    end: int = position + 4 + _LONG(data, position)[0]
    position += 4
    found: dict[int, str] = {}
    while position < end:
        key, _, length, position = _next_explicit(data, position)
        if key & 0xFFFF != 2:
            raise _UnsureError
        if key in (_META_CLASS, _META_SOP, _META_SYNTAX):
            found[key] = data[position : position + length].decode("latin-1").strip(" \0")
        position += length
    if position != end:
        raise _UnsureError
    header.meta_sop_class_uid = found.get(_META_CLASS) or None
    header.meta_sop_uid = found.get(_META_SOP) or None
    header.transfer_syntax_uid = found.get(_META_SYNTAX) or None
    return end


def _walk_data_set(
    data: bytes, position: int, header: Header, raw: dict[str, tuple[str, bytes]], *, implicit: bool
) -> int:
    """Collect the bytes of the wanted elements into `raw`; return the place of the pixel data element."""
    step, wanted, end = _next_implicit if implicit else _next_explicit, _WANTED, len(data)
    overlays: dict[int, bool] = {}  # group → its planes have a data element of their own
    while position + 12 <= end:
        key, vr, length, value_at = step(data, position)
        group = key & 0xFFFF
        if group >= _FIRST_ODD_GROUP or key in _DEEP or group <= _LAST_META_GROUP:
            if group == PIXEL_GROUP and key in _PIXELS:
                header.overlay_in_pixels = not all(overlays.values())
                return position
            _see(key, length, overlays)
        entry = wanted.get(key)
        if length == UNDEFINED:
            position = _skip_sequence(data, value_at, vr, implicit=implicit)
            value = b"\1"
        else:
            position = value_at + length
            value = data[value_at:position] if entry else b""
        if entry is not None:
            if vr not in _VRS_OF_KIND[entry[1]] or (length == UNDEFINED and entry[1] != PRESENT):
                raise _UnsureError
            raw[entry[0]] = (entry[1], value)
    raise _ShortError


def _see(key: int, length: int, overlays: dict[int, bool]) -> None:
    """Judge the elements that matter by being there: overlays, sequences that are read, groups out of place."""
    group = key & 0xFFFF
    if _FIRST_OVERLAY <= group <= _LAST_OVERLAY:
        overlays[group] = overlays.get(group, False) or key >> 16 == _OVERLAY_DATA
    elif group <= _LAST_META_GROUP or group == _DELIMITER_GROUP or (key in _DEEP and length):
        raise _UnsureError


def _skip_sequence(data: bytes, position: int, vr: bytes, *, implicit: bool) -> int:
    if not implicit and vr != b"SQ":
        raise _UnsureError
    return _skip_items(data, position, implicit=implicit, depth=1)


def _skip_items(data: bytes, position: int, *, implicit: bool, depth: int) -> int:
    """Return the place after a sequence of undefined length."""
    if depth > MAX_DEPTH:
        raise _UnsureError
    while True:
        if position + 8 > len(data):
            raise _ShortError
        key, length = _IMPLICIT(data, position)
        position += 8
        if key == _SEQUENCE_END:
            return position
        if key != _ITEM:
            raise _UnsureError
        position = position + length if length != UNDEFINED else _skip_item(data, position, implicit, depth)


def _skip_item(data: bytes, position: int, implicit: bool, depth: int) -> int:
    """Return the place after an item of undefined length."""
    step = _next_implicit if implicit else _next_explicit
    while True:
        if position + 12 > len(data):
            raise _ShortError
        if _IMPLICIT(data, position)[0] == _ITEM_END:
            return position + 8
        _, vr, length, position = step(data, position)
        if length != UNDEFINED:
            position += length
        elif implicit or vr == b"SQ":
            position = _skip_items(data, position, implicit=implicit, depth=depth + 1)
        else:
            raise _UnsureError


def _take_values(header: Header, raw: dict[str, tuple[str, bytes]]) -> None:
    charset = raw.get("specific_character_set", ("", b""))[1].decode("latin-1").strip(" \0")
    for name, (kind, value) in raw.items():
        values = _CONVERTERS[kind](value, charset)
        if values:
            header.values[name] = values


def _text(value: bytes, charset: str) -> list[Any]:
    if not value.isascii() or b"\x1b" in value:
        encoding = _PLAIN_CHARSETS.get(charset)
        if encoding is None:
            raise _UnsureError
        return split_text(value.decode(encoding, errors="replace"))
    return split_text(value.decode("ascii"))


def _code(value: bytes, charset: str) -> list[Any]:
    return split_text(value.decode("latin-1"))


def split_text(text: str) -> list[str]:
    """Return the values of a text element without blanks; an empty list when none has any."""
    values = [part.strip(" \0") for part in text.split("\\")]
    return values if any(values) else []


def _number(value: bytes, charset: str) -> list[Any]:
    try:
        return [float(part) for part in split_text(value.decode("latin-1"))]
    except ValueError:
        return []


def _integer(value: bytes, charset: str) -> list[Any]:
    numbers = _number(value, charset)
    return [int(number) for number in numbers] if all(number.is_integer() for number in numbers) else []


def _short(value: bytes, charset: str) -> list[Any]:
    if len(value) % 2:
        raise _UnsureError
    return [int.from_bytes(value[at : at + 2], "little") for at in range(0, len(value), 2)]


def _present(value: bytes, charset: str) -> list[Any]:
    return [True] if value.strip(b" \0") else []


_CONVERTERS: dict[str, Callable[[bytes, str], list[Any]]] = {
    TEXT: _text,
    CODE: _code,
    NUMBER: _number,
    INTEGER: _integer,
    SHORT: _short,
    PRESENT: _present,
}


def _take_pixels(header: Header, data: bytes, position: int, size: int, *, implicit: bool) -> None:
    """Note where the pixel value lies, and hash what stands before its element."""
    if header.values.get("sop_class_uid", [header.meta_sop_class_uid])[0] in (ENHANCED_CT, LEGACY_CONVERTED_CT):
        raise _UnsureError
    _, vr, length, value_at = (_next_implicit if implicit else _next_explicit)(data, position)
    if not implicit and vr not in _LONG_VRS:
        raise _UnsureError
    header.has_pixels = True
    header.pixel_offset = value_at
    header.pixel_length = size - value_at if length == UNDEFINED else length
    header.header_hash = blake2b(data[:position], digest_size=16).hexdigest()
