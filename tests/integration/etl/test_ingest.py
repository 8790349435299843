"""`platform etl dicom` as a whole: counts that add up, bytes that depend on nothing, kills that leave no trace."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from presage_etl.dicom import ingest as ingest_module
from presage_etl.dicom import registry
from presage_etl.dicom.ingest import ingest
from presage_etl.dicom.source import dicom_source
from presage_platform.errors import InputError, VolumeRecipeError
from presage_platform.postgres.connection import open_database
from presage_platform.settings import Settings
from presage_platform.volumes.recipe import VolumeRecipe, named_recipe
from presage_platform.volumes.store import Store, open_store, store_folder
from presage_platform.volumes.verify import reindex, verify_store
from tests.lib.dicom_cases import c26_study_of_six
from tests.lib.dicom_factory import Spec, setting, write_series
from tests.lib.volumes import store_bytes

TINY = named_recipe("tiny")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine studies: plain, sharp beside soft, one whose best series has no pixels, rejected ones, and no images."""
    folder = tmp_path_factory.mktemp("archive")
    for number in range(5):
        write_series(
            folder / f"plain{number}", Spec(study=f"plain{number}", patient=f"p{number}", num_slices=5 + number)
        )
    c26_study_of_six(folder / "six")
    write_series(folder / "broken", Spec(study="broken", series="best", num_slices=12, change=_without_pixels))
    write_series(folder / "broken" / "second", Spec(study="broken", series="second", num_slices=6))
    write_series(folder / "gap", Spec(study="gap", offsets_mm=(0, 2, 4, 8, 10, 12)))
    write_series(
        folder / "mr", Spec(study="mr", change=setting(Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4"))
    )
    (folder / "notes.txt").write_text("no image")
    (folder / "old.zip").write_bytes(b"PK\x03\x04" + bytes(300))
    (folder / "empty.dcm").write_bytes(b"")
    return folder


def _without_pixels(data: Dataset, k: int) -> None:
    data.PixelData = b""


def volumes_of(settings: Settings, recipe: VolumeRecipe = TINY) -> dict[str, bytes]:
    return store_bytes(store_folder(settings.volumes_dir, recipe))


def ledger(settings: Settings, *, with_transactions: bool = False) -> list[Any]:
    """Rows of the image tables, without the columns that name a run."""
    extra = "ctid::text, xmin::text, " if with_transactions else ""
    with open_database(settings, command="test") as database, database.connect() as connection:
        studies = connection.execute(
            f"SELECT {extra} study_id, study_uid, num_patient_keys, study_dt FROM image_study ORDER BY study_uid"
        ).fetchall()
        series = connection.execute(
            f"SELECT {extra} series_key, study_id, verdict, verdict_stage, reasons, actions, rank, rank_reason,"
            " volume_id FROM image_series ORDER BY series_key"
        ).fetchall()
    return [*studies, *series]


def test_i92_every_file_ends_in_exactly_one_count(settings: Settings, archive: Path) -> None:
    report = ingest([archive], settings, recipes=["tiny"], workers=1)
    files = [path for path in archive.rglob("*") if path.is_file()]
    assert report.scan.num_files == len(files) == sum(report.four_counts.values())
    assert report.four_counts["not_an_image"] >= 2
    assert report.num_series == sum(report.verdicts.values())
    assert report.verdicts["rejected_undecodable"] == 1 and report.verdicts["rejected_missing_slices"] == 1
    lines = report.summary().splitlines()
    assert len(lines) <= 12 and lines[-1].startswith("next: platform ")
    assert f"files: {len(files)} seen" in lines[0]
    content = report.as_json()
    assert content["files"]["in_volumes"] > 0 and content["volumes"]["written"] == report.num_written


def test_i51_a_series_that_its_pixels_reject_gives_way_to_the_next(settings: Settings, archive: Path) -> None:
    ingest([archive / "broken"], settings, recipes=["tiny"], workers=1)
    with open_database(settings, command="test") as database, database.connect() as connection:
        rows = connection.execute(
            "SELECT num_slices, verdict, verdict_stage, rank, volume_id IS NOT NULL FROM image_series ORDER BY 1"
        ).fetchall()
    assert rows == [(6, "ok", "pixels", 1, True), (12, "rejected_undecodable", "pixels", None, False)]
    store = open_store(settings)
    assert len(store) == 1 and store.index.column("rank").to_pylist() == [1]


def test_i63_a_second_run_converts_nothing_and_changes_no_row(settings: Settings, archive: Path) -> None:
    first = ingest([archive], settings, recipes=["tiny"], workers=1)
    volumes, rows = volumes_of(settings), ledger(settings, with_transactions=True)
    again = ingest([archive], settings, recipes=["tiny"], workers=1)
    assert (again.num_converted, again.num_written, again.scan.num_read) == (0, 0, 0)
    assert again.num_known == first.num_written
    assert volumes_of(settings) == volumes and ledger(settings, with_transactions=True) == rows


@pytest.mark.parametrize("workers", [2, 3])
def test_i65_workers_and_file_order_do_not_show(
    settings: Settings, archive: Path, tmp_path: Path, workers: int
) -> None:
    ingest([archive], settings, recipes=["tiny", "native"], workers=1)
    moved = tmp_path / "moved"
    files = [path for path in archive.rglob("*") if path.is_file()]
    random.Random(workers).shuffle(files)
    for number, path in enumerate(files):
        target = moved / f"d{number % 3}" / f"{number:04d}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    other = settings.model_copy(update={"workspace": tmp_path / "other"})
    (tmp_path / "other").mkdir()
    shutil.copyfile(settings.workspace / "secret.key", other.workspace / "secret.key")
    ingest([moved], other, recipes=["tiny", "native"], workers=workers)
    for recipe in (TINY, named_recipe("native")):
        assert volumes_of(other, recipe) == volumes_of(settings, recipe)


def test_i55_one_decode_serves_several_recipes(settings: Settings, archive: Path) -> None:
    report = ingest([archive / "plain0"], settings, recipes=["tiny", "native", "tiny"], workers=1)
    assert (report.num_converted, report.num_written) == (1, 2)
    later = ingest([archive / "plain0"], settings, recipes=["presage", "native"], workers=1)
    assert (later.num_converted, later.num_written) == (1, 1)


def test_i55_series_all_ignores_the_choice_and_scan_only_reads_no_pixel(settings: Settings, archive: Path) -> None:
    scanned = ingest([archive / "six"], settings, recipes=["tiny"], scan_only=True)
    assert scanned.num_series == 6 and not settings.volumes_dir.exists()
    chosen = ingest([archive / "six"], settings, recipes=["tiny"], workers=1)
    everything = ingest([archive / "six"], settings, recipes=["tiny"], series="all", workers=1)
    assert (chosen.num_written, everything.num_written) == (1, 3)
    ranks = open_store(settings).index.column("rank").to_pylist()
    assert sorted(ranks) == [1, 2, 3, 4]


def test_i18_study_ids_follow_the_study_uids_and_stay(settings: Settings, archive: Path) -> None:
    ingest([archive / "plain3", archive / "plain1"], settings, scan_only=True)
    first = {row[1]: row[0] for row in ledger(settings) if isinstance(row[0], int)}
    assert [first[uid] for uid in sorted(first)] == [1, 2]
    ingest([archive], settings, scan_only=True)
    later = {row[1]: row[0] for row in ledger(settings) if isinstance(row[0], int)}
    assert first.items() <= later.items()
    new = sorted(uid for uid in later if uid not in first)
    assert [later[uid] for uid in new] == list(range(3, 3 + len(new)))


def test_i18_a_run_that_died_while_it_minted_ids_leaves_no_gap(
    settings: Settings, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: Any) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(registry, "_write_accessions", die)
        with pytest.raises(RuntimeError):
            ingest([archive / "plain0", archive / "plain1"], settings, scan_only=True)
    assert ledger(settings) == []
    ingest([archive / "plain0", archive / "plain1"], settings, scan_only=True)
    assert sorted(row[0] for row in ledger(settings) if isinstance(row[0], int)) == [1, 2]


def test_i62_the_index_is_rebuilt_from_shards_and_ledger(settings: Settings, archive: Path) -> None:
    from presage_platform.volumes.cli import _series

    ingest([archive], settings, recipes=["tiny"], series="all", workers=1)
    folder = store_folder(settings.volumes_dir, TINY)
    before = Store.open(folder).index
    (folder / "index.parquet").unlink()
    with open_database(settings, command="test") as database, database.connect() as connection:
        reindex(folder, _series(connection))
    assert Store.open(folder).index.equals(before) and verify_store(folder).ok


def test_i71_a_source_gives_the_volume_of_the_store_byte_for_byte(settings: Settings, archive: Path) -> None:
    ingest([archive], settings, recipes=["tiny"], workers=1)
    store = open_store(settings)
    found = list(dicom_source.read(archive, TINY))
    volumes = [one.volume for one in found if one.volume is not None]
    assert {volume.volume_id for volume in volumes} == set(store.ids)
    for volume in volumes:
        stored = store[volume.volume_id]
        assert np.array_equal(stored.array, volume.array) and np.array_equal(stored.affine, volume.affine_ras)
        assert (stored.mask is None) == (volume.mask is None)
    with open_database(settings, command="test") as database, database.connect() as connection:
        verdicts = dict(connection.execute("SELECT series_key, verdict FROM image_series").fetchall())
    assert {one.series_key: one.verdict for one in found} == verdicts


def test_i100_a_file_that_changed_since_the_scan_is_not_converted(
    settings: Settings, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(archive / "plain0", copy)

    def scan_then_change(*args: Any, **kwargs: Any) -> Any:
        report = scan(*args, **kwargs)
        path = min(copy.iterdir())
        path.write_bytes(path.read_bytes() + b"\0\0")
        return report

    scan = ingest_module.scan
    monkeypatch.setattr(ingest_module, "scan", scan_then_change)
    report = ingest([copy], settings, recipes=["tiny"], workers=1)
    assert (report.num_stale, report.num_written) == (1, 0) and "stale series: 1" in report.summary()
    monkeypatch.setattr(ingest_module, "scan", scan)
    assert ingest([copy], settings, recipes=["tiny"], workers=1).num_written == 1


def test_i100_bad_input_is_one_line_and_writes_nothing(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.dcm").write_text("no image")
    with pytest.raises(InputError):
        ingest([tmp_path / "absent"], settings)
    with pytest.raises(InputError, match="no DICOM image found"):
        ingest([tmp_path / "text"], settings)
    recipe = tmp_path / "r.toml"
    recipe.write_text('name = "r"\nspaceing_mm = [1, 1, 1]\n')
    with pytest.raises(VolumeRecipeError, match="'spaceing_mm'; the nearest known key is 'spacing_mm'"):
        ingest([tmp_path / "text"], settings, recipes=[str(recipe)])
    assert not settings.volumes_dir.exists()


def _counting(function: Callable[..., Any], fatal: int, calls: list[int], delta: int) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls[0] += delta
        if calls[0] >= fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return wrapped


def _ingest_with_death(archive: Path, settings: Settings, fatal: int) -> None:
    """Ingest, and die by SIGKILL just before the `fatal`-th step that can be seen from outside."""
    calls = [0]
    os.fsync = _counting(os.fsync, fatal, calls, 1)
    Path.replace = _counting(Path.replace, fatal, calls, 1)  # type: ignore[method-assign]
    Path.unlink = _counting(Path.unlink, fatal, calls, 1)  # type: ignore[method-assign]
    ingest_module.register = _counting(ingest_module.register, fatal, calls, 1)
    ingest([archive], settings, recipes=["tiny"], workers=1)


def _run(archive: Path, settings: Settings, fatal: int) -> int:
    child = multiprocessing.get_context("fork").Process(target=_ingest_with_death, args=(archive, settings, fatal))
    child.start()
    child.join(120)
    assert child.exitcode is not None
    return child.exitcode


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_i66_killed_again_and_again_the_result_is_that_of_an_undisturbed_run(
    settings: Settings, archive: Path, tmp_path: Path
) -> None:
    steps = sorted(random.Random(4).sample(range(2, 60), 9))
    codes = [_run(archive, settings, step) for step in steps]
    assert codes.count(-signal.SIGKILL) >= 6
    folder = store_folder(settings.volumes_dir, TINY)
    if folder.exists():
        assert verify_store(folder).ok
    ingest([archive], settings, recipes=["tiny"], workers=1)
    expected = Store.open(folder)
    undisturbed = {volume.volume_id: volume for one in dicom_source.read(archive, TINY) if (volume := one.volume)}
    assert set(expected.ids) == set(undisturbed) and verify_store(folder).ok
    rows = ledger(settings)
    shards = {name: data for name, data in volumes_of(settings).items() if name.startswith("shard")}
    assert not list(settings.workspace.rglob("*.tmp")) and not (folder / "staging").exists()

    for name in ("volumes", "catalogue"):
        shutil.rmtree(settings.workspace / name)
    with open_database(settings, command="test") as database, database.connect() as connection:
        connection.execute("TRUNCATE image_series, image_study, study_accession RESTART IDENTITY")
    ingest([archive], settings, recipes=["tiny"], workers=1)
    assert {name: data for name, data in volumes_of(settings).items() if name.startswith("shard")} == shards
    assert ledger(settings) == rows and Store.open(folder).index.equals(expected.index)
