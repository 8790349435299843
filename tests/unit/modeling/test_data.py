"""Who trains, in what order, and from which volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from presage_modeling.data import (
    Batch,
    Feed,
    InputRecipe,
    LoaderRecipe,
    Part,
    VolumeReader,
    batch_positions,
    build_cohort,
    check_bins_fitted_here,
    check_volume_recipe,
    first_volumes,
    input_shape_zyx,
    order,
)
from presage_platform.errors import LabelStoreError, VolumeRecipeError, VolumeStoreError
from presage_platform.labeling.store import LabelStore
from presage_platform.volumes.store import Store, StoreWriter
from tests.lib.cohort import DAY, SMALL, volume_record
from tests.lib.labels import Study, small_store

PART = Part(np.arange(100, 137), np.arange(37) // 2, np.arange(37), [str(n) for n in range(37)])


def write_volumes(folder: Path, ranks: dict[int, list[int]]) -> Store:
    with StoreWriter(folder, SMALL) as writer:
        for study, wanted in ranks.items():
            for rank in wanted:
                array = np.full((32, 32, 32), 100 * study + rank, dtype=np.int16)
                writer.add(volume_record(study, array, SMALL, rank))
    return Store.open(folder)


def open_small(folder: Path, studies: list[Study], num_tasks: int = 2) -> LabelStore:
    return LabelStore.open(small_store(folder, studies, num_tasks=num_tasks))


STUDIES = [
    Study(1, end_s=300 * DAY, events={0: 40 * DAY}),
    Study(2, end_s=300 * DAY, events={1: 9 * DAY}),
    Study(3, end_s=300 * DAY, mask=1),
    Study(4, end_s=300 * DAY, split="valid"),
    Study(5, end_s=300 * DAY, split="test"),
    Study(6, end_s=300 * DAY),
    Study(7, end_s=300 * DAY, mask=8),  # short history: out of the incident view only
]


def seen(batch: Batch) -> tuple[int, int, list[int], int]:
    return batch.epoch, batch.cursor, batch.positions.tolist(), int(batch.stored_BZYX.sum())


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [4, 16])
def test_m14_a_global_step_holds_the_same_studies_in_any_world(world: int, size: int) -> None:
    epoch_order = order(PART, seed=3, epoch=2)
    for cursor in range(0, len(PART), size):
        ranks = [batch_positions(epoch_order, cursor=cursor, size=size, rank=r, world=world) for r in range(world)]
        whole = batch_positions(epoch_order, cursor=cursor, size=size)
        assert sorted(np.concatenate(ranks)) == sorted(whole)
        assert all(np.array_equal(ranks[r], whole[r::world]) for r in range(world))


def test_m13_every_study_comes_once_an_epoch_and_epochs_differ() -> None:
    first, second = (order(PART, seed=3, epoch=epoch) for epoch in (0, 1))
    assert sorted(first) == list(range(37)) and not np.array_equal(first, second)


def test_m13_order_depends_on_ids_not_on_places() -> None:
    shuffled = np.random.default_rng(0).permutation(37)
    other = Part(PART.study_id[shuffled], PART.person_id[shuffled], PART.row, PART.volume_id)
    ids = PART.study_id[order(PART, seed=3, epoch=5)]
    assert np.array_equal(other.study_id[order(other, seed=3, epoch=5)], ids)


def test_m15_one_scan_a_person_and_another_in_another_epoch() -> None:
    chosen = [order(PART, seed=1, epoch=epoch, one_per_person=True) for epoch in range(4)]
    for positions in chosen:
        assert sorted(PART.person_id[positions]) == list(range(19))
    assert len({tuple(sorted(positions)) for positions in chosen}) > 1


def test_m11_every_study_is_counted_and_nobody_is_lost(tmp_path: Path) -> None:
    labels = open_small(tmp_path / "labels", STUDIES)
    store = write_volumes(tmp_path / "volumes", {1: [2, 1], 2: [1], 3: [1], 4: [1], 5: [1], 7: [1], 99: [1]})
    cohort = build_cohort(labels, store, risk="next")
    assert cohort.counts["train"] == {"studies": 5, "masked": 1, "no_follow_up": 0, "no_volume": 1, "eligible": 3}
    assert cohort.counts["volumes"] == {"in_store": 8, "of_lower_rank": 1, "without_labels": 1}
    assert cohort.part("train").study_id.tolist() == [1, 2, 7] and cohort.part("valid").study_id.tolist() == [4]
    assert build_cohort(labels, store, risk="incident").part("train").study_id.tolist() == [1, 2]


def test_m12_training_cannot_open_the_test_split(tmp_path: Path) -> None:
    labels = open_small(tmp_path / "labels", STUDIES)
    cohort = build_cohort(labels, write_volumes(tmp_path / "volumes", {n: [1] for n in range(1, 8)}), risk="next")
    with pytest.raises(LabelStoreError, match="`test` was asked for"):
        cohort.part("test")


def test_m12_persons_in_two_splits_are_refused(tmp_path: Path) -> None:
    shared = [Study(1, end_s=DAY, person_id=7), Study(2, end_s=DAY, person_id=7, split="valid")]
    with pytest.raises(LabelStoreError, match="1 persons are in two splits"):
        build_cohort(open_small(tmp_path / "l", shared), write_volumes(tmp_path / "v", {1: [1], 2: [1]}), risk="next")


def test_too_many_missing_volumes_are_refused_unless_accepted(tmp_path: Path) -> None:
    labels, store = open_small(tmp_path / "labels", STUDIES), write_volumes(tmp_path / "volumes", {1: [1]})
    with pytest.raises(LabelStoreError, match="5 of 6 labelled studies have no volume"):
        build_cohort(labels, store, risk="next")
    assert len(build_cohort(labels, store, risk="next", allow_missing=True).part("train")) == 1


def test_nobody_to_train_is_refused_with_the_counts(tmp_path: Path) -> None:
    labels = open_small(tmp_path / "labels", [Study(1, end_s=DAY, mask=1)])
    with pytest.raises(LabelStoreError, match="studies 1, masked 1"):
        build_cohort(labels, write_volumes(tmp_path / "volumes", {1: [1]}), risk="next")


def test_m39_bins_of_other_persons_are_refused(tmp_path: Path) -> None:
    import json

    labels = open_small(tmp_path / "labels", STUDIES)
    check_bins_fitted_here(labels)
    path = labels.path / "bins.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fitted_on": "0" * 64}))
    with pytest.raises(LabelStoreError, match="fitted on other persons"):
        check_bins_fitted_here(LabelStore.open(labels.path))


def test_m10_the_volume_of_the_lowest_rank_stands_for_the_study(tmp_path: Path) -> None:
    store = write_volumes(tmp_path, {1: [3, 2, 5], 2: [1]})
    chosen = first_volumes(store)
    assert [int(store[chosen[study]].array[0, 0, 0]) for study in (1, 2)] == [102, 201]


def test_m16_any_number_of_threads_and_the_cache_read_the_same(tmp_path: Path) -> None:
    store = write_volumes(tmp_path, {n: [1] for n in range(1, 10)})
    chosen = first_volumes(store)
    ids = np.arange(1, 10)
    part = Part(ids, ids, ids - 1, [chosen[n] for n in ids.tolist()])
    readers = [
        VolumeReader(store, part, InputRecipe(), LoaderRecipe(reader_threads=threads, cache_gb=cache))
        for threads, cache in ((1, 0.0), (2, 0.0), (8, 0.0), (1, 1.0))
    ]
    for size in (1, 4):
        feeds = [Feed(part, reader, seed=5, size=size, prefetch=prefetch) for reader in readers for prefetch in (1, 3)]
        streams = [[seen(batch) for batch in feed.batches(2, 13)] for feed in feeds]
        assert all(stream == streams[0] for stream in streams)
        assert [seen(batch) for batch in feeds[0].batches(7, 9)] == streams[0][5:7]  # after stopping at any cursor


def test_m16_a_damaged_record_names_its_study(tmp_path: Path) -> None:
    store = write_volumes(tmp_path, {1: [1], 2: [1]})
    chosen = first_volumes(store)
    offset = store.index.column("offset")[store.ids.index(chosen[2])].as_py()
    store.close()
    with (tmp_path / "shard-00000.bin").open("r+b") as file:
        file.seek(offset + 1000)
        file.write(b"\x55\x55")
    part = Part(np.array([1, 2]), np.array([1, 2]), np.array([0, 1]), [chosen[1], chosen[2]])
    with pytest.raises(VolumeStoreError, match="study 2: "):
        VolumeReader(Store.open(tmp_path), part, InputRecipe(), LoaderRecipe())


def test_m17_a_larger_input_is_padded_and_a_smaller_one_cropped_about_the_centre(tmp_path: Path) -> None:
    store = write_volumes(tmp_path, {1: [1]})
    part = Part(np.array([1]), np.array([1]), np.array([0]), list(store.ids))
    read = VolumeReader(store, part, InputRecipe(shape_xyz=(64, 32, 16)), LoaderRecipe()).read(np.array([0]))[0]
    assert read.shape == (16, 32, 64)
    assert (read[:, :, :16] == -1024).all() and (read[:, :, 16:48] == 101).all() and (read[:, :, 48:] == -1024).all()


def test_m17_another_volume_recipe_is_refused_with_what_differs(tmp_path: Path) -> None:
    store = write_volumes(tmp_path, {1: [1]})
    check_volume_recipe(InputRecipe(), store)
    with pytest.raises(VolumeRecipeError, match=r"spacing_mm \(10.0, 10.0, 10.0\) \(expected \(1.5, 1.5, 2.0\)\)"):
        check_volume_recipe(InputRecipe(volume_recipe="presage"), store)
    assert input_shape_zyx(store, InputRecipe()) == (32, 32, 32)
