"""The stored pixels of one slice: read where they lie, after a check that the file is the one that was scanned.

Uncompressed pixels go from `pixel_offset` of the catalogue straight into the volume; no header is parsed again.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from presage_etl.dicom.candidate import SliceRef
from presage_etl.dicom.codecs import OWN, chosen_plugin, decode_encapsulated, decode_with_pydicom
from presage_etl.dicom.elements import DEFLATED, EXPLICIT_BE, IMPLICIT_LE
from presage_platform.errors import StaleSeriesError


class UnusableSliceError(Exception):
    """One slice has no pixels that can be used; the text says why, in words of the product."""


def raw_frame(path: str, ref: SliceRef, out: NDArray[np.int16]) -> NDArray[Any]:
    """Return a frame as it is stored; uncompressed 16-bit pixels are read straight into `out` and returned as it.

    Raises
    ------
    UnusableSliceError
        When pixels are missing, cut off or cannot be decoded.
    StaleSeriesError
        When the file is gone or is not the one that was scanned.
    """
    plugin = chosen_plugin(ref.transfer_syntax_uid)
    if plugin is None:
        raise UnusableSliceError("no decoder")
    with _unchanged(path, ref) as descriptor:
        if plugin.name == OWN:
            return _read_plain(descriptor, ref, out)
        try:
            if ref.transfer_syntax_uid in (EXPLICIT_BE, DEFLATED):
                frame = decode_with_pydicom(path, ref)
            else:
                payload = os.pread(descriptor, ref.pixel_length or 0, ref.pixel_offset or 0)
                frame = decode_encapsulated(payload, ref, plugin)
        except Exception:  # decoders raise what they like on a broken codestream; its text may hold anything
            raise UnusableSliceError("decoder failed") from None
    if frame.shape != (ref.rows, ref.columns):
        raise UnusableSliceError("decoded shape differs from the header")
    return frame


def modality_lut(path: str) -> Any:
    """Return the data set whose modality LUT applies to a file's pixels."""
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's texts quote element values
        return pydicom.dcmread(path, stop_before_pixels=True, force=True)


@contextmanager
def _unchanged(path: str, ref: SliceRef) -> Iterator[int]:
    """Open a file if it still is the one that was scanned: size, mtime and all bytes before its pixels."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        raise _stale(ref) from None
    try:
        found = os.fstat(descriptor)
        if (found.st_size, found.st_mtime_ns) != (ref.size, ref.mtime_ns) or not _same_header(descriptor, ref):
            raise _stale(ref)
        yield descriptor
    finally:
        os.close(descriptor)


def _stale(ref: SliceRef) -> StaleSeriesError:
    return StaleSeriesError(
        f"file {ref.header_hash[:12]} is gone or has changed since it was scanned: run `platform etl dicom` again"
    )


def _same_header(descriptor: int, ref: SliceRef) -> bool:
    if ref.pixel_offset is None:
        return True
    element_bytes = 8 if ref.transfer_syntax_uid == IMPLICIT_LE else 12
    start = os.pread(descriptor, ref.pixel_offset - element_bytes, 0)
    return hashlib.blake2b(start, digest_size=16).hexdigest() == ref.header_hash


def _read_plain(descriptor: int, ref: SliceRef, out: NDArray[np.int16]) -> NDArray[Any]:
    expected = ref.rows * ref.columns * (ref.bits_allocated // 8)
    if (ref.pixel_length or 0) < expected:
        raise UnusableSliceError("pixel data is shorter than the image" if ref.pixel_length else "pixel data is empty")
    target: NDArray[Any] = out if ref.bits_allocated == 16 else np.empty(out.shape, np.uint8)
    if os.preadv(descriptor, [target.data.cast("B")], ref.pixel_offset or 0) < expected:
        raise UnusableSliceError("pixel data is cut off")
    return target
