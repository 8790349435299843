"""Laws that hold for any archive: order changes nothing, and no byte of a file can stop a scan."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from presage_etl.dicom.choice import rank
from presage_etl.dicom.elements import ELEMENTS
from presage_etl.dicom.header import read_header
from presage_etl.dicom.row import catalogue_row
from presage_etl.dicom.series import candidates
from presage_platform.settings import ChoiceSettings
from presage_platform.volumes.catalogue import INSTANCE_SCHEMA, ReadStatus
from tests.lib.dicom_archive import Archive, scan_archive, scan_fixture
from tests.lib.dicom_cases import FIXTURES
from tests.lib.dicom_factory import Spec, write_slice

CANARY = "zqx01k"
quick = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """One catalogue of many fixtures."""
    folder = tmp_path_factory.mktemp("mixed")
    for name in ("c02_axial_plus_coronal", "c04_one_gap", "c21_two_phases", "c03_same_file_twice", "c29_empty"):
        FIXTURES[name].build(folder / "archive" / name)
    return scan_archive(folder / "archive", folder / "work", missing_uid="derive")


@pytest.fixture(scope="module")
def header_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("slice")

    def change(data: Dataset, k: int) -> None:
        data.PatientName = data.StudyDescription = CANARY

    return write_slice(folder, Spec(change=change), 0).read_bytes()


@quick
@given(st.integers(0, 2**32 - 1))
def test_i30_case_30_any_order_of_rows_gives_the_same_candidates(mixed: Archive, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(mixed.instances.num_rows)
    shuffled = candidates(mixed.instances.take(pa.array(order)), mixed.settings.imaging.series)
    for found in (shuffled, mixed.candidates):
        rank(found, ChoiceSettings())
    assert repr(shuffled) == repr(mixed.candidates)


@settings(deadline=None, max_examples=8)
@given(st.permutations(range(8)))
def test_i30_case_30_any_names_of_files_give_the_same_volume(names: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for k, name in enumerate(names[:5]):
            write_slice(Path(folder) / "archive", Spec(num_slices=5), k, f"{name % 3}/{name}")
        archive = scan_archive(Path(folder) / "archive", Path(folder) / "work")
        np.testing.assert_array_equal(archive.native(archive.only).array, Spec(num_slices=5).volume_hu())


def judged(content: bytes, folder: Path) -> ReadStatus:
    path = folder / "file"
    path.write_bytes(content)
    status, header = read_header(path, len(content))
    if header is not None:
        row = catalogue_row(header, secret=b"k" * 32, timezone="UTC", strip_leading_zeros=False)
        pa.Table.from_pylist([row], schema=INSTANCE_SCHEMA)
        assert CANARY not in repr(row)
    assert (header is not None) == (status in (ReadStatus.OK, ReadStatus.NOT_IMAGE))
    return status


@settings(deadline=None, max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 4095), value=st.integers(0, 255), width=st.integers(1, 4))
def test_i102_no_changed_byte_stops_the_reader(
    header_bytes: bytes, tmp_path: Path, at: int, value: int, width: int
) -> None:
    at %= len(header_bytes)
    judged(header_bytes[:at] + bytes([value]) * width + header_bytes[at + width :], tmp_path)


def test_i102_no_cut_stops_the_reader(header_bytes: bytes, tmp_path: Path) -> None:
    statuses = {judged(header_bytes[:length], tmp_path) for length in range(0, min(len(header_bytes), 4096), 3)}
    assert {ReadStatus.NOT_DICOM, ReadStatus.UNREADABLE, ReadStatus.OK} <= statuses


LONG = "sixty-four kilobytes"
VALUES = st.one_of(
    st.none(), st.just(""), st.just(LONG), st.just("1\\2\\3"), st.just("nan"), st.just("1e400"), st.text(max_size=9)
)


@pytest.fixture(scope="module")
def four_slices(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("four")
    return [write_slice(folder, Spec(num_slices=4), k).read_bytes() for k in range(4)]


@quick
@given(st.dictionaries(st.sampled_from(sorted(ELEMENTS)), VALUES, max_size=6))
def test_i102_no_value_of_an_element_stops_scan_or_grouping(
    four_slices: list[bytes], values: dict[str, str | None]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "archive").mkdir()
        for k, content in enumerate(four_slices):
            (Path(folder) / "archive" / str(k)).write_bytes(with_values(content, values))
        archive = scan_archive(Path(folder) / "archive", Path(folder) / "work")
        assert sum(len(one.slices) + len(one.unused) for one in archive.candidates) == 4
        for one in archive.candidates:
            if one.verdict.status == "ok":
                archive.native(one)


def with_values(content: bytes, values: dict[str, str | None]) -> bytes:
    """Rewrite an explicit little endian file with other bytes in some elements; None takes one out."""
    wanted = {ELEMENTS[name][0]: value for name, value in values.items()}
    position = 144 + int.from_bytes(content[140:144], "little")
    parts = [content[:position]]
    while position < len(content):
        group, element = (int.from_bytes(content[position + at : position + at + 2], "little") for at in (0, 2))
        is_long = content[position + 4 : position + 6] in (b"OW", b"OB", b"SQ", b"UN")
        start = position + (12 if is_long else 8)
        length = int.from_bytes(content[position + (8 if is_long else 6) : start], "little")
        tag = group << 16 | element
        if tag not in wanted:
            parts.append(content[position : start + length])
        elif wanted[tag] is not None:
            parts.append(content[position : position + 6] + _sized(wanted[tag] or ""))
        position = start + length
    return b"".join(parts)


def _sized(value: str) -> bytes:
    encoded = (value if value != LONG else "x" * 65_000).encode("utf-8", errors="replace")
    encoded += b" " * (len(encoded) % 2)
    return len(encoded).to_bytes(2, "little") + encoded


def test_i102_a_fixture_of_each_case_is_counted_whole(tmp_path: Path) -> None:
    for name in ("c03_same_file_twice", "c19_text_file", "c26_study_of_six"):
        archive = scan_fixture(FIXTURES[name], tmp_path / name)
        images = archive.instances["read_status"].to_pylist().count("ok")
        assert sum(len(one.slices) + len(one.unused) for one in archive.candidates) == images
