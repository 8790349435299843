"""Headers and pixels apart: a scan reads no pixel, and conversion reads pixels where the scan found them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from presage_etl.dicom import walker
from presage_etl.dicom.header import pydicom_header
from presage_platform.errors import StaleSeriesError
from tests.lib.dicom_archive import scan_archive
from tests.lib.dicom_factory import IMPLICIT, Spec, write_series, write_slice

SIDE = 1024  # two megabytes of pixels: far more than any reader looks ahead


class Watched(io.FileIO):
    """A file that remembers how far it was read."""

    furthest = 0

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        count = super().readinto(buffer) or 0
        self.furthest = max(self.furthest, self.tell())
        return count


def large_slice(folder: Path, syntax: str) -> Path:
    return write_slice(folder, Spec(rows=SIDE, columns=SIDE, syntax=syntax), 0)


@pytest.mark.parametrize("syntax", [Spec().syntax, IMPLICIT])
def test_i02_the_walker_reads_no_more_than_its_prefix(
    syntax: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, reads = large_slice(tmp_path, syntax), []

    class CountedOs:
        @staticmethod
        def pread(descriptor: int, length: int, offset: int) -> bytes:
            reads.append(offset + length)
            return os.pread(descriptor, length, offset)

    monkeypatch.setattr(walker, "os", CountedOs)
    with path.open("rb") as file:
        assert walker.walk_header(file.fileno(), path.stat().st_size) is not None
    assert reads == [walker.PREFIX_BYTES]


@pytest.mark.parametrize("syntax", [Spec().syntax, IMPLICIT])
def test_i02_pydicom_stops_where_the_pixels_begin(syntax: str, tmp_path: Path) -> None:
    path = large_slice(tmp_path, syntax)
    with Watched(path) as watched, io.BufferedReader(watched) as file:
        header = pydicom_header(file, path.stat().st_size)
    assert header.pixel_offset is not None and header.pixel_length == SIDE * SIDE * 2
    assert watched.furthest <= header.pixel_offset + 2 * io.DEFAULT_BUFFER_SIZE


def test_i02_the_catalogue_says_where_pixels_lie_and_conversion_parses_no_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_series(tmp_path / "archive")
    archive = scan_archive(tmp_path / "archive", tmp_path / "work")
    for ref, path in zip(archive.only.slices, paths, strict=True):
        assert ref.pixel_offset is not None and ref.pixel_length is not None
        content = path.read_bytes()[ref.pixel_offset : ref.pixel_offset + ref.pixel_length]
        assert content == pydicom.dcmread(path).PixelData
    monkeypatch.setattr(pydicom, "dcmread", None)
    np.testing.assert_array_equal(archive.native(archive.only).array, Spec().volume_hu())


def grow(path: Path, found: os.stat_result) -> None:
    path.write_bytes(path.read_bytes() + b"\0\0")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def touch(path: Path, found: os.stat_result) -> None:
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))


def alter_header(path: Path, found: os.stat_result) -> None:
    path.write_bytes(path.read_bytes().replace(b"B40f", b"B70f"))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("change", [grow, touch, alter_header])
def test_i02_size_mtime_and_header_must_still_agree(
    change: Callable[[Path, os.stat_result], None], tmp_path: Path
) -> None:
    paths = write_series(tmp_path / "archive")
    archive = scan_archive(tmp_path / "archive", tmp_path / "work")
    change(paths[3], paths[3].stat())
    with pytest.raises(StaleSeriesError, match="run `platform etl dicom` again"):
        archive.native(archive.only)
