"""From a volume store and a label store to batches: who may train, in what order, and the voxels of each batch.

Order is stateless: the position of a study in an epoch is the rank of a hash, so the whole state of the loader is three
integers (seed, epoch, cursor) and a batch is a pure function of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from presage_modeling.augment import WindowName
from presage_modeling.hashing import hash64
from presage_platform.errors import LabelStoreError, VolumeRecipeError, VolumeStoreError
from presage_platform.labeling.splits import persons_hash
from presage_platform.labeling.store import LabelStore, Risk
from presage_platform.labeling.views import view_mask
from presage_platform.settings import Section
from presage_platform.volumes.store import Store

SPLITS = ("train", "valid", "test")
LARGEST_MISSING_SHARE = 0.2
ANY_RECIPE = "any"


class InputRecipe(Section):
    """`[input]`: what of a volume the encoder sees."""

    volume_recipe: str = ANY_RECIPE
    shape_xyz: tuple[int, int, int] | None = None
    windows: tuple[WindowName, ...] = Field(default=("full",), min_length=1)


class LoaderRecipe(Section):
    """`[loader]`: how voxels reach the device; none of it changes a result."""

    reader_threads: int = Field(default=1, ge=1)
    prefetch_batches: int = Field(default=2, ge=1)
    cache_gb: float = Field(default=2.0, ge=0)
    one_per_person: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The studies of one split that training or validation uses, in ascending order of study id."""

    study_id: NDArray[np.int64]
    person_id: NDArray[np.int64]
    row: NDArray[np.int64]
    volume_id: list[str]

    def __len__(self) -> int:
        return len(self.study_id)


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Training and validation studies, and the count of every study that is neither."""

    parts: dict[str, Part]
    counts: dict[str, Any]

    def part(self, split: str) -> Part:
        """Return the studies of `train` or `valid`; the test split cannot be opened from here."""
        if split not in self.parts:
            raise LabelStoreError(
                f"training opens the splits train and valid, `{split}` was asked for: use `platform eval`"
            )
        return self.parts[split]


def build_cohort(labels: LabelStore, store: Store, *, risk: Risk, allow_missing: bool = False) -> Cohort:
    """Join labels and volumes on the study and decide who may train; every exclusion is counted.

    Raises
    ------
    LabelStoreError
        If persons are shared by splits, more than a fifth of the studies lack a volume, or nobody is left to train.
    """
    table = labels.studies
    study_id, person_id, split, mask, entry_s, end_s = (
        np.asarray(table.column(name)) for name in ("study_id", "person_id", "split", "mask", "entry_s", "end_s")
    )
    _check_persons(person_id, split)
    volume_of = first_volumes(store)
    masked = view_mask(mask.astype(np.uint16), risk) != 0
    no_follow_up = ~masked & (end_s <= entry_s)
    usable = ~masked & ~no_follow_up
    has_volume = np.array([study in volume_of for study in study_id.tolist()], dtype=np.bool_)
    counts: dict[str, Any] = {
        name: {
            "studies": int((split == number).sum()),
            "masked": int((masked & (split == number)).sum()),
            "no_follow_up": int((no_follow_up & (split == number)).sum()),
            "no_volume": int((usable & ~has_volume & (split == number)).sum()),
            "eligible": int((usable & has_volume & (split == number)).sum()),
        }
        for number, name in enumerate(SPLITS)
    }
    counts["volumes"] = {
        "in_store": len(store),
        "of_lower_rank": len(store) - len(volume_of),
        "without_labels": len(volume_of.keys() - set(study_id.tolist())),
    }
    _check_missing(int((usable & ~has_volume).sum()), int(usable.sum()), counts, allow_missing)
    parts = {}
    for number, name in enumerate(SPLITS[:2]):
        rows = np.flatnonzero(usable & has_volume & (split == number))
        rows = rows[np.argsort(study_id[rows])]
        ids = study_id[rows].astype(np.int64)
        volumes = [volume_of[study] for study in ids.tolist()]
        parts[name] = Part(ids, person_id[rows].astype(np.int64), rows.astype(np.int64), volumes)
    if len(parts["train"]) == 0:
        found = ", ".join(f"{key} {value}" for key, value in counts["train"].items())
        raise LabelStoreError(f"no study may train (split train: {found}): check labels, splits and volumes")
    return Cohort(parts, counts)


def check_bins_fitted_here(labels: LabelStore) -> None:
    """Refuse a store whose bins and rates were fitted on other persons than its training split."""
    split, person = (np.asarray(labels.studies.column(name)) for name in ("split", "person_id"))
    if persons_hash(np.unique(person[split == 0]).astype(np.int64)) != labels.bins.fitted_on:
        raise LabelStoreError(
            "label store: bins and rates were fitted on other persons than its train split: make the labels again"
        )


def check_volume_recipe(recipe: InputRecipe, store: Store) -> None:
    """Refuse a store that another preprocessing recipe made, naming both and the fields in which they differ."""
    if recipe.volume_recipe == ANY_RECIPE:
        return
    from presage_platform.volumes.recipe import named_recipe

    wanted = named_recipe(recipe.volume_recipe)
    if wanted.recipe_hash == store.recipe.recipe_hash:
        return
    ours, theirs = wanted.model_dump(exclude={"name"}), store.recipe.model_dump(exclude={"name"})
    differing = ", ".join(f"{key} {theirs[key]} (expected {ours[key]})" for key in ours if ours[key] != theirs[key])
    raise VolumeRecipeError(
        f"volume store has recipe {store.recipe.short_hash}, the run expects {wanted.short_hash} "
        f"({recipe.volume_recipe}): {differing}; "
        f"convert again with `platform etl dicom --recipe {recipe.volume_recipe}`"
    )


def first_volumes(store: Store) -> dict[int, str]:
    """Return the volume of the lowest rank of each study."""
    index = store.index
    columns = (index.column(name).to_pylist() for name in ("study_id", "rank", "volume_id"))
    chosen: dict[int, tuple[int, str]] = {}
    for study, rank, volume in zip(*columns, strict=True):
        if study is not None and (study not in chosen or (rank, volume) < chosen[study]):
            chosen[study] = (rank, volume)
    return {study: volume for study, (_, volume) in chosen.items()}


def order(part: Part, *, seed: int, epoch: int, one_per_person: bool = False) -> NDArray[np.int64]:
    """Return the positions of a split's studies in the order of an epoch: rank of ``hash64(seed, epoch, study)``."""
    rank = hash64(seed, epoch, part.study_id)
    positions = np.lexsort((part.study_id, rank))
    if not one_per_person:
        return positions
    _, first = np.unique(part.person_id[positions], return_index=True)
    return positions[np.sort(first)]


def batch_positions(epoch_order: NDArray[np.int64], *, cursor: int, size: int, rank: int = 0, world: int = 1) -> Any:
    """Return the positions of one global step that belong to one of `world` processes."""
    return epoch_order[cursor : cursor + size][rank::world]


class VolumeReader:
    """Voxels of studies by position; held in memory when the whole split fits into the cache."""

    def __init__(self, store: Store, part: Part, recipe: InputRecipe, loader: LoaderRecipe) -> None:
        self.store, self.part, self.threads = store, part, loader.reader_threads
        self.shape_zyx = input_shape_zyx(store, recipe)
        self._crops = self._crop_starts()
        nbytes = len(part) * 2 * int(np.prod(self.shape_zyx))
        self._cache = self._load_all() if 0 < nbytes <= loader.cache_gb * 1e9 else None

    def read(self, positions: NDArray[np.int64]) -> torch.Tensor:
        """Return int16 volumes, shape = (B, Z, Y, X)."""
        if self._cache is not None:
            return torch.from_numpy(self._cache[positions])
        return torch.from_numpy(self._read(positions))

    def _load_all(self) -> NDArray[np.int16]:
        return self._read(np.arange(len(self.part)))

    def _read(self, positions: NDArray[np.int64]) -> NDArray[np.int16]:
        ids = [self.part.volume_id[position] for position in positions.tolist()]
        try:
            if self._crops is None:
                return self.store.read_batch(ids, threads=self.threads, verify=True)
            starts = [self._crops[volume] for volume in ids]
            return self.store.crop_batch(ids, starts, self.shape_zyx, threads=self.threads)
        except VolumeStoreError as error:
            known = dict(zip(self.part.volume_id, self.part.study_id.tolist(), strict=True))
            study = next((known[volume] for volume in ids if volume[:16] in str(error)), None)
            raise VolumeStoreError(f"study {study}: {error}") from None

    def _crop_starts(self) -> dict[str, tuple[int, ...]] | None:
        starts = {
            volume: tuple((have - want) // 2 for have, want in zip(shape, self.shape_zyx, strict=True))
            for volume in self.part.volume_id
            if (shape := self.store.shape_zyx(volume))
        }
        return starts if any(any(start) for start in starts.values()) else None


def input_shape_zyx(store: Store, recipe: InputRecipe) -> tuple[int, int, int]:
    """Return the shape that the encoder sees: the recipe's, else the store's one shape."""
    if recipe.shape_xyz is not None:
        x, y, z = recipe.shape_xyz
        return z, y, x
    shapes = {tuple(shape) for shape in store.index.column("shape_zyx").to_pylist()}
    if len(shapes) != 1:
        raise VolumeRecipeError(
            f"volume store {store.recipe.short_hash} holds {len(shapes)} shapes, training needs one: "
            "set input.shape_xyz, or convert with a recipe that crops"
        )
    z, y, x = shapes.pop()
    return z, y, x


@dataclass(slots=True)
class Batch:
    """The studies of one optimiser step: positions in the split, and their int16 voxels (B, Z, Y, X)."""

    step: int
    epoch: int
    cursor: int
    positions: NDArray[np.int64]
    stored_BZYX: torch.Tensor  # noqa: N815 - shape suffix


@dataclass(slots=True)
class Feed:
    """Batches of a range of global steps, read ahead by a thread while the device works.

    `wait_s` adds up the seconds that the loop was blocked on the next batch.
    """

    part: Part
    reader: VolumeReader
    seed: int
    size: int
    prefetch: int = 2
    one_per_person: bool = False
    pin: bool = False
    wait_s: float = field(default=0.0, init=False)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps an epoch; the last one may be smaller."""
        count = len(np.unique(self.part.person_id)) if self.one_per_person else len(self.part)
        return -(-count // self.size)

    def place(self, step: int) -> tuple[int, int]:
        """Return the epoch and cursor of a global step."""
        epoch, number = divmod(step, self.steps_per_epoch)
        return epoch, number * self.size

    def batch(self, step: int) -> Batch:
        """Return the batch of a global step: a pure function of seed, epoch and cursor."""
        epoch, cursor = self.place(step)
        epoch_order = order(self.part, seed=self.seed, epoch=epoch, one_per_person=self.one_per_person)
        positions = batch_positions(epoch_order, cursor=cursor, size=self.size)
        voxels = self.reader.read(positions)
        return Batch(step, epoch, cursor, positions, voxels.pin_memory() if self.pin else voxels)

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Yield the batches of the global steps ``first … last - 1``."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="presage-reader") as pool:
            ahead: list[Future[Batch]] = []
            for step in range(first, last):
                while len(ahead) < self.prefetch and step + len(ahead) < last:
                    ahead.append(pool.submit(self.batch, step + len(ahead)))
                begin = time.perf_counter()
                batch = ahead.pop(0).result()
                self.wait_s += time.perf_counter() - begin
                yield batch


def _check_persons(person_id: NDArray[np.int64], split: NDArray[np.uint8]) -> None:
    roles = len(np.unique(np.stack([person_id, split.astype(np.int64)]), axis=1).T)
    shared = roles - len(np.unique(person_id))
    if shared:
        raise LabelStoreError(f"label store: {shared} persons are in two splits, expected none: make the splits again")


def _check_missing(missing: int, usable: int, counts: dict[str, Any], allow_missing: bool) -> None:
    share = missing / usable if usable else 0.0
    if share > LARGEST_MISSING_SHARE and not allow_missing:
        raise LabelStoreError(
            f"{missing} of {usable} labelled studies have no volume in a store of {counts['volumes']['in_store']}, "
            f"expected at most {LARGEST_MISSING_SHARE:.0%}: convert the rest, or accept it with --allow-missing"
        )
