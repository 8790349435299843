"""`platform train`: from a recipe and the stores of a workspace to a run folder.

The folder is named by a hash of recipe and data, so the same command finds its own run again: it resumes one that was
killed and leaves a finished one alone.

    runs/<recipe>-<arm>-<hash>/  recipe.toml  recipe.sha256  volume_recipe.toml  fingerprints.json  seeds.json
                                 cohort.json  metrics.jsonl  checkpoints/  weights.safetensors  finished.json
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from presage_modeling import checkpoint as ck
from presage_modeling.data import (
    Cohort,
    Feed,
    VolumeReader,
    build_cohort,
    check_bins_fitted_here,
    check_volume_recipe,
    input_shape_zyx,
)
from presage_modeling.encoders.interface import Encoder, build_encoder
from presage_modeling.encoders.weights import load_imported, read_card
from presage_modeling.hardware import device_fingerprint, open_device, set_threads
from presage_modeling.hashing import hash64
from presage_modeling.metrics_log import MetricsLog
from presage_modeling.objectives import build_objective
from presage_modeling.recipe import Recipe, check_sides, read_recipe
from presage_modeling.training import Trainer
from presage_platform.errors import InputError, RecipeError, WeightsError
from presage_platform.labeling.store import LabelStore
from presage_platform.runs import RunFolder, check_same, environment_fingerprint, sha256_json, write_atomically
from presage_platform.volumes.index import read_manifest
from presage_platform.volumes.store import Store

HASH_DIGITS = 8
WEIGHTS = "weights.safetensors"
ENCODER_SEED, HEAD_SEED = 1, 2


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run came to, as the command prints it."""

    path: Path
    arm: str
    already_finished: bool
    facts: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {"run": str(self.path), "arm": self.arm, "already_finished": self.already_finished, **self.facts}

    def summary(self) -> str:
        """Return one line for people."""
        done = "already finished" if self.already_finished else "finished"
        text = f"{done}: {self.path.name}, {self.facts['train_studies']} studies, {self.facts['steps']} steps"
        loss, null = self.facts.get("valid_loss"), self.facts.get("valid_null_loss")
        return (
            f"{text}, valid loss {loss:.4f} (base rates {null:.4f})" if loss is not None and null is not None else text
        )


def train_run(
    recipe: Recipe, *, labels: LabelStore, store: Store, runs_dir: Path, allow_missing: bool = False
) -> RunReport:
    """Train one arm, or continue the run that the same recipe and data began.

    Raises
    ------
    RecipeError, LabelStoreError, VolumeRecipeError, VolumeStoreError, HardwareError
        Before the first step, when recipe, labels, volumes or device do not fit each other.
    RequeueError
        When a signal asked to stop; a checkpoint is there.
    """
    fingerprints = data_fingerprints(recipe, labels, store)
    identity = sha256_json({"recipe": recipe.recipe_hash, **fingerprints})[:HASH_DIGITS]
    path = runs_dir / f"{recipe.name}-{recipe.objective.arm}-{identity}"
    return _run(recipe, path, labels=labels, store=store, fingerprints=fingerprints, allow_missing=allow_missing)


def resume_run(path: Path, *, labels: LabelStore, store: Store, allow_missing: bool = False) -> RunReport:
    """Continue a run folder; its recipe and data must be those it was started with."""
    recipe = run_recipe(path)
    recorded = RunFolder(path).read_json("fingerprints.json")
    if (path / "finished.json").is_file():
        raise RecipeError(f"run {path.name} is finished: start a new run instead of resuming it")
    fingerprints = data_fingerprints(recipe, labels, store)
    for name, value in fingerprints.items():
        check_same(name.replace("_", " "), found=value, expected=recorded["data"][name])
    return _run(recipe, path, labels=labels, store=store, fingerprints=fingerprints, allow_missing=allow_missing)


def train_group(
    recipes: list[Recipe], *, labels: LabelStore, store: Store, runs_dir: Path, allow_missing: bool = False
) -> list[RunReport]:
    """Train several arms on the same cohort in the same order, and write `<name>-<hash>.group.json` beside the runs."""
    reports = [
        train_run(recipe, labels=labels, store=store, runs_dir=runs_dir, allow_missing=allow_missing)
        for recipe in recipes
    ]
    members = {report.arm: report.path.name for report in reports}
    identity = sha256_json(members)[:HASH_DIGITS]
    RunFolder(runs_dir).write_json(f"{recipes[0].name}-{identity}.group.json", {"arms": members})
    return reports


def run_recipe(path: Path) -> Recipe:
    """Read the resolved recipe of a run folder and prove it by its hash."""
    try:
        expected = (path / "recipe.sha256").read_text(encoding="utf-8").strip()
    except OSError:
        raise InputError(f"{path} is not a run folder of `platform train`: it holds no recipe.sha256") from None
    recipe = read_recipe(str(path / "recipe.toml"))
    check_same("recipe.toml", found=recipe.recipe_hash, expected=expected)
    return recipe


def data_fingerprints(recipe: Recipe, labels: LabelStore, store: Store) -> dict[str, str]:
    """Return the hashes of all data that a run depends on; outcomes count for the arm that learns them."""
    found = {
        "label_store": labels.manifest["label_sha256"],
        "volume_store": read_manifest(store.path).index_sha256,
        "volume_recipe": store.recipe.recipe_hash,
    }
    if recipe.objective.arm == "multitask":
        found["outcomes"] = sha256_json(labels.outcome_hashes)
    return found


def new_encoder(recipe: Recipe, weights_dir: Path | None = None) -> Encoder:
    """Return the initial encoder of a recipe: the same for every arm, whatever was drawn before.

    A recipe that names imported weights starts from them; they lie in `weights_dir`, the workspace's `weights/`.
    """
    _seed(recipe.seed, ENCODER_SEED)
    encoder = build_encoder(recipe.encoder, len(recipe.input.windows))
    if recipe.encoder.weights is not None:
        if weights_dir is None:
            raise WeightsError(f"recipe {recipe.name} starts from imported weights, and no folder of weights is given")
        load_imported(encoder, weights_dir, recipe.encoder.weights)
    return encoder


def weights_folder(run: Path) -> Path:
    """Return where imported weights lie: `weights/` beside `runs/`."""
    return run.parent.parent / "weights"


def initial_weights(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """Return name, hash and licence of the weights that a recipe starts from; None for a random start."""
    if recipe.encoder.weights is None:
        return None
    card = read_card(folder / f"{recipe.encoder.weights}.safetensors")
    return {"name": recipe.encoder.weights, "sha256": card["sha256"], "licence": card["licence"]}


def _run(
    recipe: Recipe,
    path: Path,
    *,
    labels: LabelStore,
    store: Store,
    fingerprints: dict[str, str],
    allow_missing: bool,
) -> RunReport:
    folder = RunFolder(path)
    if (path / "finished.json").is_file():
        return RunReport(path, recipe.objective.arm, True, folder.read_json("finished.json"))
    device = open_device(recipe.precision)
    set_threads(recipe.memory)
    cohort = _checked_cohort(recipe, labels, store, allow_missing)
    with folder:
        _write_inputs(folder, recipe, store, labels, cohort, fingerprints, device)
        facts = _train(folder, recipe, labels, store, cohort, device)
        folder.write_json("finished.json", facts)
    return RunReport(path, recipe.objective.arm, False, facts)


def _checked_cohort(recipe: Recipe, labels: LabelStore, store: Store, allow_missing: bool) -> Cohort:
    check_volume_recipe(recipe.input, store)
    z, y, x = input_shape_zyx(store, recipe.input)
    try:
        check_sides((x, y, z), recipe.encoder.total_stride)
    except ValueError as error:
        raise RecipeError(f"recipe {recipe.name}: {error}") from None
    check_bins_fitted_here(labels)
    return build_cohort(labels, store, risk=recipe.objective.risk, allow_missing=allow_missing)


def _write_inputs(
    folder: RunFolder,
    recipe: Recipe,
    store: Store,
    labels: LabelStore,
    cohort: Cohort,
    fingerprints: dict[str, str],
    device: torch.device,
) -> None:
    write_atomically(folder.path / "recipe.toml", recipe.to_toml().encode())
    write_atomically(folder.path / "recipe.sha256", f"{recipe.recipe_hash}\n".encode())
    write_atomically(folder.path / "volume_recipe.toml", store.recipe.to_toml().encode())
    folder.write_json("cohort.json", cohort.counts)
    folder.write_json("seeds.json", {"seed": recipe.seed, "encoder": ENCODER_SEED, "head": HEAD_SEED})
    document = {
        "recipe": recipe.recipe_hash,
        "data": fingerprints,
        "labels": labels.manifest["inputs"],
        "split": labels.manifest.get("split_id"),
        "guard": labels.manifest.get("guard"),
        "initial_weights": initial_weights(recipe, weights_folder(folder.path)),
        "environment": environment_fingerprint(),
        "device": device_fingerprint(device),
    }
    folder.write_json("fingerprints.json", document)


def _train(
    folder: RunFolder, recipe: Recipe, labels: LabelStore, store: Store, cohort: Cohort, device: torch.device
) -> dict[str, Any]:
    encoder = new_encoder(recipe, weights_folder(folder.path)).to(device)
    objective = build_objective(labels, cohort.parts, recipe.objective, recipe.head, device)
    _seed(recipe.seed, HEAD_SEED)
    head = objective.build_head(encoder.width).to(device)
    facts: dict[str, Any] = {"train_studies": len(cohort.part("train")), "width": encoder.width, "steps": 0}
    facts |= objective.density()
    if objective.trains:
        checkpoints = ck.Checkpoints(folder.path, recipe.checkpoint)
        trainer = Trainer(
            recipe,
            encoder=encoder,
            head=head,
            objective=objective,
            feeds=_feeds(recipe, store, cohort, device),
            device=device,
            checkpoints=checkpoints,
            metrics=MetricsLog(folder.path),
            spacing_mm=store.recipe.spacing_mm or (1.0, 1.0, 1.0),
            pad_hu=float(store.recipe.pad_value),
        )
        try:
            trainer.run()
        finally:
            checkpoints.close()
        facts |= _facts(trainer)
    return {**facts, "weights_sha256": _write_weights(folder.path, {"encoder": encoder, "head": head})}


def _facts(trainer: Trainer) -> dict[str, Any]:
    valid = trainer.valid_loss() if "valid" in trainer.feeds else None
    return {
        "steps": trainer.at.step,
        "skipped_steps": trainer.at.skipped,
        "train_null_loss": trainer.null_loss,
        "valid_loss": valid,
        "valid_null_loss": trainer.valid_null_loss,
    }


def _feeds(recipe: Recipe, store: Store, cohort: Cohort, device: torch.device) -> dict[str, Feed]:
    return {
        split: Feed(
            part=part,
            reader=VolumeReader(store, part, recipe.input, recipe.loader),
            seed=recipe.seed,
            size=recipe.schedule.effective_batch,
            prefetch=recipe.loader.prefetch_batches,
            one_per_person=recipe.loader.one_per_person and split == "train",
            pin=device.type == "cuda",
        )
        for split, part in cohort.parts.items()
        if len(part)
    }


def _write_weights(path: Path, modules: dict[str, torch.nn.Module]) -> str:
    from safetensors.torch import save

    content = save(ck.host_copy(ck.model_tensors(modules)))
    write_atomically(path / WEIGHTS, content)
    return hashlib.sha256(content).hexdigest()


def _seed(seed: int, purpose: int) -> None:
    torch.manual_seed(int(hash64(seed, purpose)) >> 1)
