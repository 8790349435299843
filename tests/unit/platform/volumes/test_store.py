"""The volume store: layout, bytes, reading, faults."""

from __future__ import annotations

import dataclasses
import errno
import multiprocessing
import os
import pickle
import random
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from presage_platform.errors import DiskFullError, ExitCode, LockedError, VolumeRecipeError, VolumeStoreError
from presage_platform.volumes.index import INDEX_SCHEMA, read_index, read_manifest
from presage_platform.volumes.record import HEADER_NBYTES
from presage_platform.volumes.store import Store, StoreWriter
from presage_platform.volumes.verify import rebuild_index, reindex, verify_store
from tests.lib.volumes import fill_store, record, small_recipe, store_bytes

RECIPE = small_recipe()
SMALL_SHARD_GB = 2e-6  # about three records of these tests


def test_i61_shards_are_headers_and_aligned_records(tmp_path: Path) -> None:
    store = fill_store(tmp_path / "s", RECIPE, range(5))
    data = (tmp_path / "s" / "shard-00000.bin").read_bytes()
    assert data[:8] == b"PRESVOL1" and data[16:48].hex() == RECIPE.recipe_hash and len(data) % 64 == 0
    for row in store.index.to_pylist():
        offset = row["offset"]
        assert offset % 64 == 0 and data[offset - HEADER_NBYTES : offset - HEADER_NBYTES + 8] == b"PRESVREC"
        payload = data[offset : offset + row["nbytes"]]
        assert sha256(payload).hexdigest() == row["sha256"]
        expected = store[row["volume_id"]].array
        assert np.array_equal(np.frombuffer(payload, "<i2").reshape(4, 5, 6), expected)


def test_i61_the_manifest_counts_and_hashes_every_file(tmp_path: Path) -> None:
    fill_store(tmp_path / "s", RECIPE, range(7), shard_gb=SMALL_SHARD_GB)
    manifest = read_manifest(tmp_path / "s")
    files = store_bytes(tmp_path / "s")
    assert len(manifest.shards) > 1 and manifest.num_volumes == 7
    assert manifest.index_sha256 == sha256(files["index.parquet"]).hexdigest()
    assert manifest.shards == {n: sha256(b).hexdigest() for n, b in files.items() if n.startswith("shard-")}


def test_i62_the_index_has_its_columns_and_is_sorted(tmp_path: Path) -> None:
    store = fill_store(tmp_path / "s", RECIPE, [3, 1, 2])
    assert store.index.schema.equals(INDEX_SCHEMA) and store.ids == sorted(store.ids)
    assert not {"person_id", "person"} & set(store.index.column_names)


def test_i62_the_index_can_be_rebuilt_equal_to_the_original(tmp_path: Path) -> None:
    store = fill_store(tmp_path / "s", RECIPE, range(6), shard_gb=SMALL_SHARD_GB)
    names = ["series_key", "study_id", "rank", "study_uid", "series_uid", "image_dt", "verdict"]
    series = {row["series_key"]: row for row in store.index.select(names).to_pylist()}
    assert rebuild_index(tmp_path / "s", series).equals(store.index)
    (tmp_path / "s" / "index.parquet").unlink()
    assert reindex(tmp_path / "s", series) == 6
    assert read_index(tmp_path / "s").equals(store.index) and verify_store(tmp_path / "s").ok


def test_i62_rebuilding_refuses_a_series_that_the_ledger_does_not_know(tmp_path: Path) -> None:
    fill_store(tmp_path / "s", RECIPE, range(1))
    with pytest.raises(VolumeStoreError, match="not in image_series"):
        rebuild_index(tmp_path / "s", {})


def test_i63_a_volume_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    fill_store(tmp_path / "s", RECIPE, range(4))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").iterdir()}
    with StoreWriter(tmp_path / "s", RECIPE) as writer:
        assert not any(writer.add(record(number, RECIPE)) for number in range(4))
        assert writer.find(f"{2:032x}", [f"{2:032x}"]) == record(2, RECIPE).volume_id
        assert writer.find(f"{2:032x}", [f"{3:032x}"]) is None
    written = [name for name, mtime in before.items() if name.name != ".lock" and name.stat().st_mtime_ns != mtime]
    assert written == []


def test_i63_the_id_depends_on_recipe_headers_and_pixels() -> None:
    from presage_platform.volumes.record import make_volume_id

    slices = [("1.2", 0, "h", "p"), ("1.3", 0, "h", "p")]
    ids = {
        make_volume_id("r", slices),
        make_volume_id("q", slices),
        make_volume_id("r", slices[::-1]),
        make_volume_id("r", [("1.2", 0, "h", "q"), slices[1]]),
        make_volume_id("r", [("1.2", 0, "g", "p"), slices[1]]),
        make_volume_id("r", [("1.2", 1, "h", "p"), slices[1]]),
    }
    assert len(ids) == 6


def test_i64_a_codec_that_is_not_written_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(VolumeStoreError, match="codec 'blosc2' cannot be written: this release writes raw"):
        StoreWriter(tmp_path / "s", RECIPE, codec="blosc2")


def test_i65_the_order_of_writing_does_not_show(tmp_path: Path) -> None:
    numbers = list(range(9))
    fill_store(tmp_path / "a", RECIPE, numbers, shard_gb=SMALL_SHARD_GB)
    random.Random(5).shuffle(numbers)
    fill_store(tmp_path / "b", RECIPE, numbers, shard_gb=SMALL_SHARD_GB)
    assert store_bytes(tmp_path / "a") == store_bytes(tmp_path / "b")


def test_i66_only_one_writer_at_a_time(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", RECIPE), pytest.raises(LockedError), StoreWriter(tmp_path / "s", RECIPE):
        pass


def test_i66_an_error_leaves_the_store_as_it_was_and_staged_work_is_not_lost(tmp_path: Path) -> None:
    fill_store(tmp_path / "s", RECIPE, range(2))
    before = store_bytes(tmp_path / "s")
    with pytest.raises(RuntimeError), StoreWriter(tmp_path / "s", RECIPE) as writer:
        writer.add(record(7, RECIPE))
        raise RuntimeError
    assert store_bytes(tmp_path / "s") == before and verify_store(tmp_path / "s").ok
    with StoreWriter(tmp_path / "s", RECIPE) as writer:
        found = writer.find(f"{7:032x}", [f"{7:032x}"])
        assert found is not None
        writer.keep(found)
    assert np.array_equal(Store.open(tmp_path / "s")[found].array, record(7, RECIPE).array)


def test_i66_staged_volumes_that_nobody_wants_are_removed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), StoreWriter(tmp_path / "s", RECIPE) as writer:
        writer.add(record(7, RECIPE))
        raise RuntimeError
    store = fill_store(tmp_path / "s", RECIPE, range(1))
    assert len(store) == 1 and not (tmp_path / "s" / "staging").exists()


def _dying(function: Callable[..., Any], fatal: int, calls: list[int]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return wrapped


def _write_with_death(folder: Path, fatal: int) -> None:
    """Fill a store, and die by SIGKILL just before the `fatal`-th durable step."""
    calls = [0]
    os.fsync = _dying(os.fsync, fatal, calls)
    Path.replace = _dying(Path.replace, fatal, calls)  # type: ignore[method-assign]
    Path.unlink = _dying(Path.unlink, fatal, calls)  # type: ignore[method-assign]
    fill_store(folder, RECIPE, range(6), shard_gb=SMALL_SHARD_GB)


def _write_and_die(folder: Path, step: int) -> int:
    child = multiprocessing.get_context("fork").Process(target=_write_with_death, args=(folder, step))
    child.start()
    child.join(60)
    assert child.exitcode is not None
    return child.exitcode


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_i66_killed_at_any_step_the_store_opens_verifies_and_continues(tmp_path: Path) -> None:
    expected = fill_store(tmp_path / "whole", RECIPE, range(6), shard_gb=SMALL_SHARD_GB)
    total = _count_steps(tmp_path / "count")
    steps = sorted(random.Random(1).sample(range(1, total + 1), 20))
    for step in steps:
        folder = tmp_path / f"killed-{step}"
        assert _write_and_die(folder, step) == -9
        if (folder / "index.parquet").exists():
            assert verify_store(folder).ok, (step, [str(fault) for fault in verify_store(folder).faults])
            opened = Store.open(folder)
            assert all(np.array_equal(opened[i].array, expected[i].array) for i in opened.ids)
        fill_store(folder, RECIPE, range(6), shard_gb=SMALL_SHARD_GB)
        assert store_bytes(folder) == store_bytes(tmp_path / "whole"), step
        assert not list(folder.rglob("*.tmp"))


def _count_steps(folder: Path) -> int:
    """How many durable steps a whole run takes: below this number every run dies."""
    low, high = 1, 400
    assert _write_and_die(folder / "all", high) == 0
    while high - low > 1:
        middle = (low + high) // 2
        if _write_and_die(folder / str(middle), middle) == 0:
            high = middle
        else:
            low = middle
    return low


def test_i67_batches_are_in_the_order_asked_and_fill_a_given_buffer(tmp_path: Path) -> None:
    store = fill_store(tmp_path / "s", RECIPE, range(8), shard_gb=SMALL_SHARD_GB)
    ids = [store.ids[number] for number in (5, 0, 5, 7)]
    out = np.zeros((4, 4, 5, 6), np.int16)
    result = store.read_batch(ids, out=out, threads=3, verify=True)
    assert result is out
    assert all(np.array_equal(result[slot], store[volume_id].array) for slot, volume_id in enumerate(ids))


def test_i67_masks_come_back_and_are_absent_when_all_is_valid(tmp_path: Path) -> None:
    store = fill_store(tmp_path / "s", RECIPE, range(2))
    whole, masked = record(0, RECIPE), record(1, RECIPE, masked=True)
    assert store[whole.volume_id].mask is None
    assert np.array_equal(store[masked.volume_id].mask, masked.mask)


def test_i67_threads_read_one_store(tmp_path: Path) -> None:
    store = fill_store(tmp_path / "s", RECIPE, range(20), shard_gb=SMALL_SHARD_GB)
    expected = {volume_id: store[volume_id].array for volume_id in store.ids}
    with ThreadPoolExecutor(8) as pool:
        ids = store.ids * 10
        for volume_id, volume in zip(ids, pool.map(store.__getitem__, ids), strict=True):
            assert np.array_equal(volume.array, expected[volume_id])


def _sum_in_child(store: Store, queue: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    queue.put(sum(int(store[volume_id].array.sum()) for volume_id in store.ids))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_i67_a_forked_process_reads_the_store_it_inherited(tmp_path: Path) -> None:
    store = fill_store(tmp_path / "s", RECIPE, range(3))
    total = sum(int(store[volume_id].array.sum()) for volume_id in store.ids)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_sum_in_child, args=(store, queue))
    child.start()
    assert queue.get(timeout=20) == total
    child.join(20)
    assert sum(int(store[volume_id].array.sum()) for volume_id in store.ids) == total
    assert pickle.loads(pickle.dumps(store)).ids == store.ids


def test_i67_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    store = fill_store(tmp_path / "s", RECIPE, range(2))
    with pytest.raises(VolumeStoreError, match="is not in the store"):
        store["0" * 64]
    with pytest.raises(VolumeStoreError, match="contiguous int16"):
        store.read_batch(store.ids, out=np.zeros((2, 4, 5, 7), np.int16))


def test_i68_a_whole_store_verifies(tmp_path: Path) -> None:
    store = fill_store(tmp_path / "s", RECIPE, range(6), shard_gb=SMALL_SHARD_GB)
    report = store.verify()
    assert (report.ok, report.num_checked) == (True, 6)
    assert store.verify(sample=2).num_checked == 2


def test_i68_a_flipped_bit_anywhere_is_found_and_named(tmp_path: Path) -> None:
    fill_store(tmp_path / "s", RECIPE, range(4), shard_gb=SMALL_SHARD_GB)
    rng = random.Random(3)
    for name, content in store_bytes(tmp_path / "s").items():
        path = tmp_path / "s" / name
        places = sorted(rng.sample(range(len(content)), min(60, len(content))))
        for place in places:
            damaged = bytearray(content)
            damaged[place] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            faults = verify_store(tmp_path / "s").faults
            assert faults, (name, place)
            if name.startswith("shard-"):
                assert all(fault.file == name for fault in faults)
                assert place < 64 or any(fault.volume_id for fault in faults), (name, place)
        path.write_bytes(content)
    assert verify_store(tmp_path / "s").ok


def test_i68_missing_short_and_swapped_shards_are_found(tmp_path: Path) -> None:
    store = fill_store(tmp_path / "s", RECIPE, range(6), shard_gb=SMALL_SHARD_GB)
    first, second = (tmp_path / "s" / f"shard-0000{number}.bin" for number in (0, 1))
    whole, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    with pytest.raises(VolumeStoreError, match="another"):
        store[store.ids[0]]
    assert not store.verify().ok
    first.write_bytes(whole[:-64])
    assert not store.verify().ok
    first.unlink()
    assert "is missing" in str(store.verify().faults[0])


def test_i100_a_store_of_a_newer_format_names_the_version(tmp_path: Path) -> None:
    fill_store(tmp_path / "s", RECIPE, range(1))
    path = tmp_path / "s" / "MANIFEST.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(VolumeStoreError, match="has format 2, this release reads 1") as caught:
        read_manifest(tmp_path / "s")
    assert caught.value.exit_code is ExitCode.INTEGRITY


def test_i61_a_store_of_another_recipe_is_refused(tmp_path: Path) -> None:
    fill_store(tmp_path / "s", RECIPE, range(1))
    with (
        pytest.raises(VolumeRecipeError, match="each recipe has a folder"),
        StoreWriter(tmp_path / "s", small_recipe(version=2)),
    ):
        pass


def test_i63_a_changed_rank_changes_the_index_and_no_shard(tmp_path: Path) -> None:
    store = fill_store(tmp_path / "s", RECIPE, range(3))
    shards = {name: data for name, data in store_bytes(tmp_path / "s").items() if name.startswith("shard-")}
    with StoreWriter(tmp_path / "s", RECIPE) as writer:
        assert writer.refresh({store.ids[1]: {"rank": 2}}) == 1
    table = pq.read_table(tmp_path / "s" / "index.parquet")
    assert table.column("rank").to_pylist() == [1, 2, 1] and table.schema.equals(INDEX_SCHEMA)
    assert shards.items() <= store_bytes(tmp_path / "s").items() and verify_store(tmp_path / "s").ok


def test_i69_a_volume_written_as_nifti_reads_back_equal(tmp_path: Path) -> None:
    import nibabel

    from presage_platform.volumes.export import export_nifti

    affine = np.array([[1.5, 0.1, 0, -20.25], [-0.1, 1.5, 0, 7.5], [0, 0, 2.0, 3.125], [0, 0, 0, 1]])
    with StoreWriter(tmp_path / "s", RECIPE) as writer:
        writer.add(dataclasses.replace(record(3, RECIPE), affine_ras=affine))
    store = Store.open(tmp_path / "s")
    image = nibabel.load(export_nifti(store, store.ids[0], tmp_path / "out"))
    assert np.array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), store[store.ids[0]].array)
    assert np.allclose(image.affine, affine, atol=1e-6) and np.allclose(image.get_qform(), affine, atol=1e-6)
    assert image.header.get_data_dtype() == np.int16


def test_i66_a_full_disk_is_said_and_leaves_the_store_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_store(tmp_path / "s", RECIPE, range(2))
    before = store_bytes(tmp_path / "s")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DiskFullError) as caught, StoreWriter(tmp_path / "s", RECIPE) as writer:
            writer.add(record(5, RECIPE))
    assert caught.value.exit_code is ExitCode.DISK_FULL
    assert {name: data for name, data in store_bytes(tmp_path / "s").items() if not name.endswith(".tmp")} == before
    assert len(fill_store(tmp_path / "s", RECIPE, [5])) == 3 and not list((tmp_path / "s").rglob("*.tmp"))
