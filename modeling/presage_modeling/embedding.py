"""`platform embed`: the frozen encoder of a run over a volume store, one row of features a volume, in Parquet.

A row is keyed by volume, weights, preprocessing recipe and type; what is there already is not computed again, and parts
appear by rename, so a killed run continues without duplicates.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from presage_modeling.augment import Windows, volumes_to_device
from presage_modeling.data import InputRecipe, LoaderRecipe, Part, VolumeReader
from presage_modeling.encoders.interface import Encoder, build_encoder
from presage_modeling.hardware import autocast, open_device, set_threads
from presage_modeling.pretraining import WEIGHTS, run_recipe
from presage_modeling.recipe import Recipe
from presage_platform.errors import InputError, VolumeRecipeError
from presage_platform.progress import Progress
from presage_platform.runs import RunFolder, write_atomically
from presage_platform.volumes.recipe import read_recipe as read_volume_recipe

if TYPE_CHECKING:
    from presage_platform.volumes.store import Store

VOLUMES_A_PART = 512
KEY = ("volume_id", "weights_sha256", "volume_recipe_hash", "dtype")


@dataclass(frozen=True, slots=True)
class EmbedReport:
    """How many volumes were embedded now, and before."""

    run: Path
    embedded: int
    already_there: int
    width: int

    def to_json(self) -> dict[str, str | int]:
        """Return the report as JSON values."""
        return {
            "run": str(self.run),
            "embedded": self.embedded,
            "already_there": self.already_there,
            "width": self.width,
        }

    def summary(self) -> str:
        """Return one line for people."""
        counts = f"{self.embedded} volumes embedded, {self.already_there} already there"
        return f"{self.run.name}: {counts}, {self.width} features each"


def embed_run(run: Path, store: Store, *, batch_size: int = 16) -> EmbedReport:
    """Write the features of every volume of a store that the run has not embedded yet.

    Raises
    ------
    InputError
        If the folder is not a finished run.
    VolumeRecipeError
        If another preprocessing recipe made the store: volumes are never resized to fit.
    """
    recipe = run_recipe(run)
    _check_volume_recipe(run, store)
    encoder, weights_sha256 = read_encoder(run, recipe)
    device = open_device(recipe.precision)
    set_threads(recipe.memory)
    encoder.to(device).eval()
    with RunFolder(run):
        folder = run / "embeddings"
        folder.mkdir(mode=0o700, exist_ok=True)
        done = _embedded(folder, weights_sha256, store.recipe.recipe_hash, recipe.precision.dtype)
        rows = [row for row, volume in enumerate(store.index.column("volume_id").to_pylist()) if volume not in done]
        number = 1 + max((int(part.stem.removeprefix("part-")) for part in folder.glob("part-*.parquet")), default=-1)
        with Progress("embed", total=len(rows), unit="volumes") as bar:
            for low in range(0, len(rows), VOLUMES_A_PART):
                index = store.index.take(rows[low : low + VOLUMES_A_PART])
                features = _embed(index, store, encoder, recipe, device, batch_size)
                table = _table(index, features, weights_sha256, recipe.precision.dtype)
                _write(table, folder / f"part-{number:05d}.parquet")
                number += 1
                bar.advance(index.num_rows)
    return EmbedReport(run, len(rows), len(done), encoder.width)


def read_encoder(run: Path, recipe: Recipe) -> tuple[Encoder, str]:
    """Return the encoder of a finished run with its trained weights, and the sha256 of the weights file."""
    from safetensors.torch import load

    try:
        content = (run / WEIGHTS).read_bytes()
    except OSError:
        raise InputError(
            f"run {run.name} holds no {WEIGHTS}: finish it with `platform train --resume {run.name}`"
        ) from None
    tensors = load(content)
    own = {name.removeprefix("encoder."): tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
    if not own:
        raise InputError(f"run {run.name}: {WEIGHTS} holds no encoder")
    encoder = build_encoder(recipe.encoder, len(recipe.input.windows))
    encoder.load_state_dict(own)
    return encoder, hashlib.sha256(content).hexdigest()


def read_embeddings(run: Path) -> pa.Table:
    """Return all embeddings of a run; several preprocessing recipes or weights in one folder are refused."""
    parts = sorted((run / "embeddings").glob("part-*.parquet"))
    if not parts:
        raise InputError(f"run {run.name} holds no embeddings: make them with `platform embed {run.name}`")
    table = pa.concat_tables([pq.read_table(part) for part in parts])
    for name in KEY[1:]:
        if len(table.column(name).unique()) > 1:
            raise InputError(
                f"run {run.name}: embeddings of several kinds ({name} differs); embed again in a fresh run"
            )
    return table


def _embed(
    index: pa.Table, store: Store, encoder: Encoder, recipe: Recipe, device: torch.device, batch_size: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    studies = np.asarray(index.column("study_id").fill_null(-1)).astype(np.int64)
    part = Part(studies, studies, np.arange(len(studies)), index.column("volume_id").to_pylist())
    shape_xyz = recipe.input.shape_xyz
    reader = VolumeReader(store, part, InputRecipe(shape_xyz=shape_xyz), LoaderRecipe(cache_gb=0.0))
    windows, features = Windows(recipe.input.windows), []
    with torch.no_grad(), autocast(device, recipe.precision):
        for low in range(0, len(part), batch_size):
            stored = reader.read(np.arange(low, min(low + batch_size, len(part))))
            x_BCXYZ = windows(volumes_to_device(stored, device))
            features.append(encoder(x_BCXYZ).float().cpu().numpy())
    return np.concatenate(features)


def _table(
    index: pa.Table, features: np.ndarray[tuple[int, int], np.dtype[np.float32]], weights: str, dtype: str
) -> pa.Table:
    num_rows, width = features.shape
    columns = {name: index.column(name) for name in ("study_id", "rank", "series_key", "volume_id")}
    columns["weights_sha256"] = pa.array([weights] * num_rows)
    columns["volume_recipe_hash"] = index.column("recipe_hash")
    columns["dtype"] = pa.array([dtype] * num_rows)
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), width)
    return pa.table(columns)


def _embedded(folder: Path, weights: str, recipe_hash: str, dtype: str) -> set[str]:
    done: set[str] = set()
    for path in sorted(folder.glob("part-*.parquet")):
        part = pq.read_table(path, columns=list(KEY))
        for volume, *rest in zip(*(part.column(name).to_pylist() for name in KEY), strict=True):
            if tuple(rest) == (weights, recipe_hash, dtype):
                done.add(volume)
    return done


def _write(table: pa.Table, path: Path) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())


def _check_volume_recipe(run: Path, store: Store) -> None:
    recorded = run / "volume_recipe.toml"
    if not recorded.is_file():
        raise InputError(f"{run} is not a run folder of `platform train`: it holds no volume_recipe.toml")
    trained_on = read_volume_recipe(recorded)
    if trained_on.recipe_hash != store.recipe.recipe_hash:
        raise VolumeRecipeError(
            f"run {run.name} was trained on volumes of recipe {trained_on.short_hash}, this store has "
            f"{store.recipe.short_hash}: convert with the run's volume_recipe.toml"
        )
