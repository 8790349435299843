"""A small workspace for modeling: volumes with planted marks, and labels whose hazards follow them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from presage_platform.volumes.recipe import VolumeRecipe
from presage_platform.volumes.store import StoreWriter, VolumeRecord, store_folder
from tests.lib.labels import Study, add_outcome, small_store

YEAR = 31_557_600
DAY = 86_400
SMALL = VolumeRecipe(name="small", spacing_mm=(10.0, 10.0, 10.0), crop="centre", shape=(32, 32, 32))


def planted_workspace(
    folder: Path,
    *,
    num_studies: int,
    num_tasks: int = 6,
    recipe: VolumeRecipe = SMALL,
    seed: int = 0,
    per_person: int = 1,
    flat: bool = False,
    outcomes: bool = False,
) -> NDArray[np.float64]:
    """Write a volume store and a label store below `folder` and return the planted scores, shape = (num_studies, 2).

    Score 0 is the size of a bright ball, score 1 the density of the background; task k follows score k % 2. `flat`
    volumes hold air alone. The visit of a scan holds the tasks whose score is above 0.5. `outcomes` adds the outcome
    `first_task`, which is task 0.
    """
    draw = np.random.default_rng(seed)
    scores = draw.normal(size=(num_studies, 2))
    (folder / "platform.toml").touch()
    with StoreWriter(store_folder(folder / "volumes", recipe), recipe) as writer:
        for study in range(num_studies):
            volume = planted_volume(scores[study], recipe, draw)
            writer.add(volume_record(study + 1, np.full_like(volume, -1024) if flat else volume, recipe))
    studies = [_study(number, scores[number], num_tasks, draw, per_person) for number in range(num_studies)]
    store = small_store(folder / "labels", studies, num_tasks=num_tasks, num_shards=2 if num_studies > 1 else 1)
    if outcomes:
        add_outcome(store, "first_task", {study.study_id: (study.events.get(0), study.end_s) for study in studies})
    return scores


def volume_record(study_id: int, array: NDArray[np.int16], recipe: VolumeRecipe, rank: int = 1) -> VolumeRecord:
    """Return a record with an invented series."""
    name = f"{recipe.recipe_hash}:{study_id}:{rank}"
    return VolumeRecord(
        volume_id=hashlib.sha256(name.encode()).hexdigest(),
        study_id=study_id,
        rank=rank,
        series_key=f"series-{study_id}-{rank}",
        array=array,
        affine_ras=np.diag([*(recipe.spacing_mm or (1.0, 1.0, 1.0)), 1.0]),
        native_shape=(1, 1, 1),
        native_affine=np.eye(4),
        source_min=int(array.min()),
        source_max=int(array.max()),
    )


def planted_volume(scores: NDArray[np.float64], recipe: VolumeRecipe, draw: np.random.Generator) -> NDArray[np.int16]:
    """Return a lung-like block: background density by one score, a ball whose radius is the other."""
    x, y, z = recipe.shape or (32, 32, 32)
    centre = np.array([z, y, x]) / 2 + draw.uniform(-2, 2, size=3)
    grid = np.stack(np.meshgrid(np.arange(z), np.arange(y), np.arange(x), indexing="ij"), axis=-1)
    radius = min(x, y, z) * (0.22 + 0.06 * np.clip(scores[0], -2.5, 2.5))
    ball = ((grid - centre) ** 2).sum(axis=-1) < radius**2
    volume = draw.normal(-840 + 30 * scores[1], 40, size=(z, y, x))
    volume[ball] = draw.normal(40, 30, size=int(ball.sum()))
    return np.clip(volume, -1024, 3071).astype(np.int16)


def _study(
    number: int, scores: NDArray[np.float64], num_tasks: int, draw: np.random.Generator, per_person: int
) -> Study:
    end_s = int(draw.uniform(0.5, 5) * YEAR)
    base_rates = np.linspace(0.1, 0.5, num_tasks)
    times = draw.exponential(YEAR / (base_rates * np.exp(1.8 * scores[np.arange(num_tasks) % 2])))
    events = {task: int(time) + DAY for task, time in enumerate(times) if time + DAY < end_s}
    person = number // per_person
    return Study(
        study_id=number + 1,
        person_id=person + 1,
        end_s=end_s,
        events=events,
        visit=[task for task in range(num_tasks) if scores[task % 2] > 0.5],
        split=("train", "train", "train", "valid", "test")[person % 5],
    )
