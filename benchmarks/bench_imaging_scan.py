"""Scan against a bare pydicom loop; native stacks against pydicom + numpy and against dcm2niix. Same run, same files.

    python benchmarks/bench_imaging_scan.py ../shared/data/chest_ct

Prints one line a comparison: medians, ratios (above 1 = presage is faster) and whether the gate holds (I15, I106).
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from presage_etl.dicom.decode import read_native
from presage_etl.dicom.instances import read_instances
from presage_etl.dicom.scan import scan
from presage_etl.dicom.series import candidates
from presage_etl.dicom.walk import read_roots
from presage_platform.settings import Settings, parse_settings


def main() -> None:
    """Run both comparisons on one archive of uncompressed series."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--copies", type=int, default=8, help="of the archive, to lengthen a scan")
    arguments = parser.parse_args()
    logging.getLogger("presage").setLevel(logging.WARNING)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
          f"pydicom {pydicom.__version__}, numpy {np.__version__}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        compare_scan(arguments.archive, Path(folder), arguments.repeats, arguments.copies)
        compare_stack(arguments.archive, Path(folder), arguments.repeats)


def compare_scan(archive: Path, folder: Path, repeats: int, copies: int) -> None:
    """Whole scan (walk, parse, hash, Parquet, one worker) against `dcmread(stop_before_pixels=True)` alone."""
    source = folder / "archive"
    for number in range(copies):
        shutil.copytree(archive, source / str(number))
    files = sorted(source.rglob("*.dcm"))
    serial = iter(range(10_000))

    def ours() -> None:
        scan([source], workspace(folder / f"scan{next(serial)}"), 1)

    def bare() -> None:
        for path in files:
            pydicom.dcmread(path, stop_before_pixels=True)

    own, other = medians([ours, bare], repeats)
    ratio, rate = other / own, len(files) / own
    print(f"scan       presage {per(own, files)}, bare pydicom {per(other, files)}: ratio {ratio:.2f} (gate 1.0)")
    print(f"           {rate:.0f} files/s (target 1,000)")


def compare_stack(archive: Path, folder: Path, repeats: int) -> None:
    """Native volumes from the catalogue against a plain pydicom + numpy stack, and dcm2niix on the same folders."""
    settings = workspace(folder / "stack")
    scan([archive], settings, 1)
    found = [one for one in candidates(read_instances(settings.catalogue_dir), settings.imaging.series) if one.geometry]
    roots = read_roots(settings.catalogue_dir)
    slices = [roots[ref.root_id] / ref.rel_path for one in found for ref in one.slices]
    written = folder / "native.bin"

    def ours() -> None:
        for one in found:
            read_native(one, roots)

    def ours_written() -> None:
        with written.open("wb", buffering=0) as file:
            for one in found:
                array: Any = read_native(one, roots).array
                file.write(array.data)

    def naive() -> None:
        for one in found:
            naive_stack([roots[ref.root_id] / ref.rel_path for ref in one.slices])

    def nifti() -> None:
        for series in sorted({path.parent for path in slices}):
            subprocess.run(
                ["dcm2niix", "-z", "n", "-b", "n", "-w", "1", "-o", str(folder), str(series)],
                check=True,
                capture_output=True,
            )

    has_oracle = shutil.which("dcm2niix") is not None
    times = medians([ours, ours_written, naive, *([nifti] if has_oracle else [])], repeats)
    print(f"stack      presage {per(times[0], slices)}, pydicom + numpy {per(times[2], slices)}: "
          f"ratio {times[2] / times[0]:.2f}")  # fmt: skip
    if has_oracle:
        print(f"convert    presage, written {per(times[1], slices)}, dcm2niix {per(times[3], slices)}: "
              f"ratio {times[3] / times[1]:.2f} (gate 1.0; process start of dcm2niix included)")  # fmt: skip


def naive_stack(paths: list[Path]) -> np.ndarray:
    """What a notebook does: read every file, apply slope and intercept, stack."""
    datasets = [pydicom.dcmread(path) for path in paths]
    return np.stack([data.pixel_array * data.RescaleSlope + data.RescaleIntercept for data in datasets]).astype(
        np.int16
    )


def medians(functions: list[Callable[[], None]], repeats: int) -> list[float]:
    """Return the median seconds of each function, run in turn after one warm-up of all."""
    times: list[list[float]] = [[] for _ in functions]
    for number in range(repeats + 1):
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            if number:
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def workspace(folder: Path) -> Settings:
    """Return settings of a fresh workspace that uses one process and no database."""
    folder.mkdir(mode=0o700)
    return parse_settings(folder, {"parallel": {"workers": 1}}, environment={})


def per(seconds: float, files: list[Path]) -> str:
    """Return seconds in words, for each file."""
    return f"{seconds / len(files) * 1e3:.3f} ms a file"


if __name__ == "__main__":
    main()
