"""Sizes that a header declares are checked before anything of that size is allocated."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from presage_platform.volumes.catalogue import Verdict
from tests.lib.dicom_archive import Archive, scan_archive
from tests.lib.dicom_factory import Spec, setting, write_series

MEGABYTE = 1_000_000


def declaring(folder: Path, *, max_volume_gb: float = 8.0, **elements: Any) -> Archive:
    """Return a scanned series of eight slices whose headers lie."""
    write_series(folder / "archive", Spec(change=setting(**elements)))
    return scan_archive(folder / "archive", folder / "work", max_volume_gb=max_volume_gb)


@pytest.mark.parametrize(
    "elements",
    [{"Rows": 65_535, "Columns": 65_535}, {"Rows": 4097}, {"Columns": 4097}, {"Rows": 0}, {"NumberOfFrames": 65_537}],
    ids=["65,535 squared", "rows", "columns", "empty", "frames"],
)
def test_i46_a_declared_size_beyond_the_limits_is_refused_without_allocation(
    elements: dict[str, int], tmp_path: Path
) -> None:
    write_series(tmp_path / "archive", Spec(change=setting(**elements)))
    tracemalloc.start()
    archive = scan_archive(tmp_path / "archive", tmp_path / "work")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert any(reason.startswith("declared_size: 8 of 8 slices") for reason in archive.only.reasons)
    assert archive.only.verdict.status == "rejected" and peak < 100 * MEGABYTE
    with pytest.raises(ValueError, match="it has no volume"):
        archive.native(archive.only)


def test_i46_the_limit_itself_is_legal(tmp_path: Path) -> None:
    reasons = declaring(tmp_path, Rows=4096, Columns=4096).only.reasons
    assert not any(reason.startswith("declared_size") for reason in reasons)


def test_i46_a_whole_series_has_a_limit_too(tmp_path: Path) -> None:
    """Eight slices of 4,096 x 4,096 pixels of two bytes: 0.27 GB."""
    archive = declaring(tmp_path, max_volume_gb=0.2, Rows=4096, Columns=4096)
    assert archive.only.verdict == Verdict.UNDECODABLE
    assert "declared_size: 0.3 GB decoded, at most 0.2 GB" in archive.only.reasons
