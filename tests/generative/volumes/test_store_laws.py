"""Laws of the volume store: what was written is read, and a crop is a slice of the padded whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from presage_platform.volumes.record import VolumeRecord, make_volume_id
from presage_platform.volumes.store import Store, StoreWriter
from tests.lib.volumes import fill_store, record, small_recipe

RECIPE = small_recipe(pad_value=-777)
SHAPE = (7, 6, 5)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("laws") / "s"
    with StoreWriter(folder, RECIPE) as writer:
        for number in range(3):
            writer.add(record(number, RECIPE, shape=SHAPE))
    return Store.open(folder)


@given(
    number=st.integers(0, 2),
    start=st.tuples(*[st.integers(-12, 12)] * 3),
    size=st.tuples(*[st.integers(1, 14)] * 3),
)
def test_i67_a_crop_is_a_slice_of_the_padded_volume(store: Store, number: int, start: Any, size: Any) -> None:
    volume_id = store.ids[number]
    padded = np.pad(store[volume_id].array, 30, constant_values=-777)
    expected = padded[tuple(slice(30 + s, 30 + s + length) for s, length in zip(start, size, strict=True))]
    assert np.array_equal(store.crop(volume_id, start, size), expected)
    batch = store.crop_batch([volume_id, volume_id], [start, (0, 0, 0)], size, threads=2)
    assert np.array_equal(batch[0], expected)


@settings(max_examples=25, deadline=None)
@given(
    array=st_numpy.arrays(np.int16, st.tuples(*[st.integers(1, 6)] * 3)),
    seed=st.integers(0, 9),
    codec=st.sampled_from(["raw"]),
)
def test_i61_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, array: Any, seed: int, codec: str
) -> None:
    folder: Path = tmp_path_factory.mktemp("roundtrip") / "s"
    mask = np.random.default_rng(seed).random(array.shape) < 0.5
    affine = np.random.default_rng(seed).normal(size=(4, 4))
    volume_id = make_volume_id(RECIPE.recipe_hash, [("1", seed, "h", "p")])
    with StoreWriter(folder, RECIPE, codec=codec) as writer:
        writer.add(VolumeRecord(volume_id, seed, array, affine, mask=mask))
    volume = Store.open(folder)[volume_id]
    assert np.array_equal(volume.array, array) and np.array_equal(volume.affine, affine)
    assert mask.all() if volume.mask is None else np.array_equal(volume.mask, mask)


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(list(range(7))))
def test_i65_any_order_gives_the_same_bytes(tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    folder = tmp_path_factory.mktemp("order")
    fill_store(folder / "a", RECIPE, range(7), shard_gb=2e-6)
    fill_store(folder / "b", RECIPE, order, shard_gb=2e-6)
    for path in (folder / "a").glob("shard-*.bin"):
        assert path.read_bytes() == (folder / "b" / path.name).read_bytes()
