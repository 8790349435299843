"""How the pixels of a slice are written: plain, deflated, or encapsulated in RLE, JPEG-LS or JPEG 2000, all lossless.

Run-length encoding is done here. JPEG encoders are optional; where one is missing, series are written plainly and truth
says so.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

EXPLICIT, IMPLICIT, RLE, DEFLATED, JPEG_LS, JPEG_2000 = (
    "explicit",
    "implicit",
    "rle",
    "deflated",
    "jpeg_ls",
    "jpeg_2000",
)
PIXEL_DATA = struct.pack("<HH", 0x7FE0, 0x0010)
ITEM, DELIMITER = struct.pack("<HH", 0xFFFE, 0xE000), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
UNDEFINED = 0xFFFFFFFF
DEFLATE_LEVEL = 1


@dataclass(frozen=True)
class Syntax:
    """A transfer syntax: its UID, the share of series that use it, the package that encodes it."""

    uid: str
    share: float
    package: str | None = None


SYNTAXES = {
    EXPLICIT: Syntax("1.2.840.10008.1.2.1", 0.55),
    IMPLICIT: Syntax("1.2.840.10008.1.2", 0.20),
    RLE: Syntax("1.2.840.10008.1.2.5", 0.10),
    DEFLATED: Syntax("1.2.840.10008.1.2.1.99", 0.02),
    JPEG_LS: Syntax("1.2.840.10008.1.2.4.80", 0.08, "jpeg_ls"),
    JPEG_2000: Syntax("1.2.840.10008.1.2.4.90", 0.05, "openjpeg"),
}


def drawn_syntax(quantile: float) -> str:
    """The syntax at a quantile of all series, between 0 and 1."""
    reached = 0.0
    for name, syntax in SYNTAXES.items():
        reached += syntax.share
        if quantile < reached:
            return name
    return EXPLICIT


@cache
def is_writable(name: str) -> bool:
    """Whether the encoder of a syntax is installed."""
    package = SYNTAXES[name].package
    return package is None or find_spec(package) is not None


def pixel_element(name: str, pixels: NDArray[Any], bits_stored: int) -> bytes:
    """The pixel data element of one slice; pixels of shape (rows, columns) hold 16 bits each, in stored form."""
    encoder = ENCODERS.get(name)
    if encoder is None:
        vr = b"" if name == IMPLICIT else b"OW\0\0"
        return b"".join((PIXEL_DATA, vr, struct.pack("<I", pixels.nbytes), pixels.tobytes()))
    frame = encoder(np.ascontiguousarray(pixels), bits_stored)
    frame += b"\0" * (len(frame) % 2)
    head = PIXEL_DATA + b"OB\0\0" + struct.pack("<I", UNDEFINED) + ITEM + struct.pack("<I", 0)
    return b"".join((head, ITEM, struct.pack("<I", len(frame)), frame, DELIMITER))


def deflated(dataset: bytes) -> bytes:
    """A data set after its file meta information, as the deflated syntax wants it."""
    packer = zlib.compressobj(DEFLATE_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    content = packer.compress(dataset) + packer.flush()
    return content + b"\0" * (len(content) % 2)


def _run_length(pixels: NDArray[Any], bits_stored: int) -> bytes:
    """DICOM's RLE: the bytes of each significance are a segment of their own, the highest first; rows stand alone."""
    planes = pixels.view(np.uint8).reshape(*pixels.shape, 2)
    segments = []
    for significance in (1, 0):
        packed = np.empty(2 * planes[..., 0].size + 16, dtype=np.uint8)
        length = _pack_bits(np.ascontiguousarray(planes[..., significance]), packed)
        segments.append(packed[: length + length % 2].tobytes())
    offsets = [2, 64, 64 + len(segments[0])] + [0] * 13
    return struct.pack("<16I", *offsets) + b"".join(segments)


def _jpeg_ls(pixels: NDArray[Any], bits_stored: int) -> bytes:
    from jpeg_ls import encode_pixel_data

    rows, columns = pixels.shape
    return bytes(
        encode_pixel_data(
            pixels.tobytes(),
            lossy_error=0,
            interleave_mode=0,
            rows=rows,
            columns=columns,
            samples_per_pixel=1,
            bits_allocated=16,
            bits_stored=bits_stored,
            photometric_interpretation="MONOCHROME2",
        )
    )


def _jpeg_2000(pixels: NDArray[Any], bits_stored: int) -> bytes:
    from openjpeg.utils import encode_array

    return bytes(encode_array(pixels, bits_stored=bits_stored))


ENCODERS: dict[str, Callable[[NDArray[Any], int], bytes]] = {
    RLE: _run_length,
    JPEG_LS: _jpeg_ls,
    JPEG_2000: _jpeg_2000,
}


@njit(cache=True)
def _pack_bits(plane: Any, out: Any) -> int:
    """PackBits of each row after the other; return the number of bytes written, the last one zeroed if odd."""
    rows, columns = plane.shape
    at = 0
    for j in range(rows):
        i = 0
        while i < columns:
            run = 1
            while i + run < columns and run < 128 and plane[j, i + run] == plane[j, i]:
                run += 1
            if run > 2:
                out[at], out[at + 1] = 257 - run, plane[j, i]
                at += 2
                i += run
                continue
            start = i
            while i < columns and i - start < 128:  # literals, up to the next run of three
                if i + 2 < columns and plane[j, i] == plane[j, i + 1] and plane[j, i] == plane[j, i + 2]:
                    break
                i += 1
            out[at] = i - start - 1
            for place in range(start, i):
                out[at + 1 + place - start] = plane[j, place]
            at += 1 + i - start
    if at % 2:
        out[at] = 0
    return at
