"""The scan as a whole: incremental, killed and continued, the same bytes for any number of workers."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from presage_etl.dicom.instances import file_key, instance_parts, read_instances
from presage_etl.dicom.scan import ScanReport, scan
from presage_etl.dicom.series import candidates
from presage_platform.errors import InputError, LockedError
from presage_platform.settings import Settings
from presage_platform.volumes.catalogue import INSTANCE_SCHEMA, ReadStatus
from tests.lib.dicom_archive import image_settings
from tests.lib.dicom_factory import Spec, write_series


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six series in nested folders, and files that are no images."""
    folder = tmp_path_factory.mktemp("archive")
    for number in range(6):
        write_series(folder / f"{number % 2}" / f"s{number}", study=f"study {number % 3}", series=f"series {number}")
    (folder / "notes.txt").write_text("nothing to see " * 20)
    (folder / "old.zip").write_bytes(b"PK\x03\x04" + bytes(300))
    (folder / "broken.dcm").write_bytes(bytes(128) + b"DICM" + bytes(7))
    return folder


def digest(settings: Settings) -> list[str]:
    return [hashlib.sha256(part.read_bytes()).hexdigest() for part in instance_parts(settings.catalogue_dir)]


def keys(settings: Settings) -> set[str]:
    found = candidates(read_instances(settings.catalogue_dir), settings.imaging.series)
    return {one.series_key for one in found}


def copied(archive: Path, folder: Path) -> Path:
    return Path(shutil.copytree(archive, folder / "copy", copy_function=shutil.copy2))


def test_i01_every_file_is_counted_once(archive: Path, tmp_path: Path) -> None:
    settings = image_settings(tmp_path / "work")
    report = scan([archive], settings, 1)
    assert report.num_files == sum(report.statuses.values()) == 51
    assert {status: report.statuses[status] for status in ReadStatus} == {
        "ok": 48,
        "not_image": 0,
        "not_dicom": 1,
        "unreadable": 1,
        "archive_skipped": 1,
    }


def test_i07_the_catalogue_is_the_same_for_any_number_of_workers(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("presage_etl.dicom.scan.CHUNK_FILES", 7)
    digests = []
    for workers in (1, 2):
        settings = image_settings(tmp_path / f"work{workers}")
        scan([archive], settings, 1, workers=workers)
        digests.append(digest(settings))
    assert digests[0] == digests[1] != []


def test_i07_parts_hold_whole_studies_whatever_their_number(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = image_settings(tmp_path / "whole")
    scan([archive], whole, 1)
    monkeypatch.setattr("presage_etl.dicom.instances.PART_ROWS", 20)
    parted = image_settings(tmp_path / "parted")
    scan([archive], parted, 1)
    parts = instance_parts(parted.catalogue_dir)
    assert len(parts) == 3
    assert read_instances(parted.catalogue_dir).equals(read_instances(whole.catalogue_dir))
    studies = [set(pq.read_table(part)["study_uid"].drop_null().to_pylist()) for part in parts]
    assert sum(map(len, studies)) == len(set.union(*studies)) == 3


def test_i06_a_second_scan_opens_nothing_and_writes_nothing(archive: Path, tmp_path: Path) -> None:
    settings = image_settings(tmp_path / "work")
    scan([archive], settings, 1)
    before = {path: path.stat().st_mtime_ns for path in settings.catalogue_dir.rglob("*.parquet")}
    report = scan([archive], settings, 2)
    assert (report.num_read, report.num_files, report.num_images) == (0, 51, 48)
    assert {path: path.stat().st_mtime_ns for path in settings.catalogue_dir.rglob("*.parquet")} == before


def test_i06_a_touched_file_is_read_again_and_changes_no_series(archive: Path, tmp_path: Path) -> None:
    source, settings = copied(archive, tmp_path), image_settings(tmp_path / "work")
    scan([source], settings, 1)
    before = keys(settings)
    os.utime(source / "0/s0/003.dcm")
    assert scan([source], settings, 2).num_read == 1
    assert keys(settings) == before
    runs = read_instances(settings.catalogue_dir)["scan_run"].to_pylist()
    assert sorted(runs) == [1] * 50 + [2]


def test_i06_a_moved_file_is_absent_at_its_old_place_and_its_series_stays(archive: Path, tmp_path: Path) -> None:
    source, settings = copied(archive, tmp_path), image_settings(tmp_path / "work")
    scan([source], settings, 1)
    before = keys(settings)
    (source / "0/s0/003.dcm").rename(source / "elsewhere")
    report = scan([source], settings, 2)
    assert (report.num_read, report.num_vanished) == (1, 1)
    found = candidates(read_instances(settings.catalogue_dir), settings.imaging.series)
    assert {one.series_key for one in found} == before
    assert not any(one.stale for one in found)


def test_i06_a_vanished_file_is_marked_and_makes_its_series_stale(archive: Path, tmp_path: Path) -> None:
    source, settings = copied(archive, tmp_path), image_settings(tmp_path / "work")
    scan([source], settings, 1)
    before = keys(settings)
    gone = source / "0/s0/003.dcm"
    content = gone.read_bytes()
    gone.unlink()
    assert scan([source], settings, 2).num_vanished == 1
    instances = read_instances(settings.catalogue_dir)
    assert instances["absent_since"].drop_null().to_pylist() == [2]
    found = candidates(instances, settings.imaging.series)
    assert {one.series_key for one in found} == before
    assert [one.stale for one in found].count(True) == 1
    assert scan([source], settings, 3).num_vanished == 0
    gone.write_bytes(content)
    scan([source], settings, 4)
    assert read_instances(settings.catalogue_dir)["absent_since"].drop_null().to_pylist() == []


def test_i06_scanning_one_folder_says_nothing_about_another(archive: Path, tmp_path: Path) -> None:
    source, settings = copied(archive, tmp_path), image_settings(tmp_path / "work")
    scan([source], settings, 1)
    shutil.rmtree(source / "0")
    report = scan([source / "1"], settings, 2)
    assert (report.num_files, report.num_vanished) == (24, 0)


def test_i06_rehash_opens_everything(archive: Path, tmp_path: Path) -> None:
    settings = image_settings(tmp_path / "work")
    scan([archive], settings, 1)
    assert scan([archive], settings, 2, rehash=True).num_read == 51


KILLED = """
import sys, time
from pathlib import Path
import presage_etl.dicom.scan as module
from presage_platform.settings import read_settings

module.CHUNK_FILES, module.BATCH_FILES = 4, 8
read = module._read_file

def slow(file, chunk):
    time.sleep(0.02)
    return read(file, chunk)

module._read_file = slow
module.scan([sys.argv[1]], read_settings(Path(sys.argv[2])), 1, workers=1)
"""


def test_i08_a_killed_scan_continues_and_ends_in_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    undisturbed = image_settings(tmp_path / "undisturbed")
    scan([archive], undisturbed, 1)
    killed = image_settings(tmp_path / "killed")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(archive), str(killed.workspace)])
    deadline = time.monotonic() + 30
    while not list(killed.catalogue_dir.glob("batches/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    committed = len(list(killed.catalogue_dir.glob("batches/*.parquet")))
    assert committed and not instance_parts(killed.catalogue_dir)
    report = scan([archive], killed, 1)
    assert 0 < report.num_read < 51 and report.num_files == 51
    assert digest(killed) == digest(undisturbed)


def test_i08_a_catalogue_caught_between_two_renames_is_put_back(archive: Path, tmp_path: Path) -> None:
    settings = image_settings(tmp_path / "work")
    scan([archive], settings, 1)
    before = digest(settings)
    (settings.catalogue_dir / "instances").rename(settings.catalogue_dir / "instances.old")
    assert scan([archive], settings, 2).num_read == 0
    assert digest(settings) == before


def test_i07_two_scans_at_once_are_refused(archive: Path, tmp_path: Path) -> None:
    from presage_etl.dicom.instances import locked_catalogue

    settings = image_settings(tmp_path / "work")
    with locked_catalogue(settings.catalogue_dir), pytest.raises(LockedError, match="another scan"):
        scan([archive], settings, 1)


def test_i12_the_catalogue_is_readable_by_its_owner_only(archive: Path, tmp_path: Path) -> None:
    settings = image_settings(tmp_path / "work")
    scan([archive], settings, 1)
    for path in [settings.catalogue_dir, *settings.catalogue_dir.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path.name


def test_i09_the_catalogue_has_the_declared_columns_and_no_others(archive: Path, tmp_path: Path) -> None:
    settings = image_settings(tmp_path / "work")
    scan([archive], settings, 1)
    assert read_instances(settings.catalogue_dir).schema.equals(INSTANCE_SCHEMA)


def test_i84_identifiers_are_keyed_hashes(archive: Path, tmp_path: Path) -> None:
    one, other = image_settings(tmp_path / "one"), image_settings(tmp_path / "other")
    (other.workspace / "secret.key").write_bytes(b"another key of thirty-two bytes!")
    for settings in (one, other):
        scan([archive], settings, 1)
    hashes = [set(read_instances(s.catalogue_dir)["patient_key"].drop_null().to_pylist()) for s in (one, other)]
    assert all(len(found) == 1 for found in hashes) and hashes[0] != hashes[1]
    assert keys(one) == keys(other)


def test_i100_links_loops_and_special_files_are_skipped_and_counted(archive: Path, tmp_path: Path) -> None:
    source, settings = copied(archive, tmp_path), image_settings(tmp_path / "work")
    (source / "loop").symlink_to(source)
    (source / "again").symlink_to(source / "0/s0/000.dcm")
    (source / "out").symlink_to(archive)
    os.mkfifo(source / "fifo")
    report: ScanReport = scan([source], settings, 1)
    assert report.num_files == 51
    assert (report.skipped.links_inside, report.skipped.links_outside, report.skipped.special_files) == (2, 1, 1)
    followed = scan([source], image_settings(tmp_path / "follow"), 1, follow_links=True)
    assert followed.num_files == 102


def test_i100_names_are_bytes(tmp_path: Path) -> None:
    source, settings = tmp_path / "archive", image_settings(tmp_path / "work")
    write_series(source, Spec())
    os.rename(os.fsencode(source / "000.dcm"), os.fsencode(source) + b"/line\nbreak\xff")
    scan([source], settings, 1)
    assert b"line\nbreak\xff" in read_instances(settings.catalogue_dir)["rel_path"].to_pylist()
    (one,) = candidates(read_instances(settings.catalogue_dir), settings.imaging.series)
    assert one.verdict == "ok"


def test_i100_nothing_usable_is_one_line_that_says_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("x" * 200)
    settings = image_settings(tmp_path / "work")
    with pytest.raises(InputError, match="no DICOM image found: saw 0 files"):
        scan([tmp_path / "empty"], settings, 1)
    with pytest.raises(InputError, match="1 not dicom"):
        scan([tmp_path / "texts"], settings, 1)
    with pytest.raises(InputError, match="cannot be read"):
        scan([tmp_path / "missing"], settings, 1)
    with pytest.raises(InputError, match="DICOMweb"):
        scan(["https://pacs.example/dicom-web"], settings, 1)


def test_i06_files_are_known_by_root_and_path() -> None:
    assert file_key(1, b"a") != file_key(2, b"a") != file_key(2, b"b")
