"""What the commands `train` and `embed` do once their arguments are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from presage_modeling.data import ANY_RECIPE
from presage_modeling.embedding import EmbedReport, embed_run
from presage_modeling.encoders.weights import Imported, import_weights, read_card
from presage_modeling.objectives import ARMS
from presage_modeling.pretraining import RunReport, resume_run, run_recipe, train_group, train_run
from presage_modeling.recipe import Recipe, read_recipe
from presage_platform.errors import UsageError
from presage_platform.labeling.store import open_labels
from presage_platform.settings import Settings, read_settings
from presage_platform.volumes.index import INDEX_NAME
from presage_platform.volumes.recipe import VolumeRecipe, named_recipe
from presage_platform.volumes.recipe import read_recipe as read_volume_recipe
from presage_platform.volumes.store import Store, open_store

ALL_ARMS = "all"


def train_command(
    recipe: str | None,
    *,
    arm: str | None,
    labels: str | None,
    volumes: str | None,
    assignments: list[str],
    resume: str | None,
    allow_missing: bool,
    workspace: Path | None,
) -> list[RunReport]:
    """Train one arm or all of them, or resume a run."""
    settings = read_settings(workspace)
    if resume is not None:
        path = find_run(settings, resume)
        if recipe is not None or assignments or arm is not None:
            raise UsageError("--resume takes recipe and arm from the run folder: leave out the recipe, --arm and --set")
        run_recipe(path)
        opened = open_labels(settings, labels)
        return [
            resume_run(path, labels=opened, store=_store_of_run(settings, volumes, path), allow_missing=allow_missing)
        ]
    if recipe is None:
        raise UsageError("name a recipe, for example `platform train tiny`, or a run with --resume")
    arms = chosen_arms(arm)
    recipes = [read_recipe(recipe, [*assignments, *([f"objective.arm={name}"] if name else [])]) for name in arms]
    store, label_store = _store_of_recipe(settings, volumes, recipes[0]), open_labels(settings, labels)
    if len(arms) > 1:
        return train_group(
            recipes, labels=label_store, store=store, runs_dir=settings.runs_dir, allow_missing=allow_missing
        )
    return [
        train_run(recipes[0], labels=label_store, store=store, runs_dir=settings.runs_dir, allow_missing=allow_missing)
    ]


def chosen_arms(arm: str | None) -> tuple[str | None, ...]:
    """Return the arms that the command line names: `all`, one, or several with commas; None is the recipe's own."""
    if arm is None:
        return (None,)
    if arm == ALL_ARMS:
        return ARMS
    names = tuple(name.strip() for name in arm.split(","))
    wrong = [name for name in names if name not in ARMS]
    if wrong or len(set(names)) != len(names):
        raise UsageError(f"--arm {arm}: expected `{ALL_ARMS}` or a list of {', '.join(ARMS)} without repetition")
    return names


def embed_command(run: str, *, volumes: str | None, workspace: Path | None) -> EmbedReport:
    """Embed every volume of the workspace's store."""
    settings = read_settings(workspace)
    path = find_run(settings, run)
    run_recipe(path)
    return embed_run(path, _store_of_run(settings, volumes, path))


def import_command(
    source: Path,
    *,
    arch: str,
    map_name: str,
    licence: str,
    channels: int,
    sha256: str | None,
    workspace: Path | None,
) -> Imported:
    """Import foreign weights into the workspace."""
    return import_weights(
        source,
        arch=arch,
        map_name=map_name,
        licence=licence,
        folder=read_settings(workspace).workspace / "weights",
        channels=channels,
        sha256=sha256,
    )


def show_command(file: str, *, workspace: Path | None) -> dict[str, Any]:
    """Return the card of imported weights, by path or by name."""
    path = Path(file)
    return read_card(path if path.is_file() else read_settings(workspace).workspace / "weights" / f"{file}.safetensors")


def _store_of_recipe(settings: Settings, volumes: str | None, recipe: Recipe) -> Store:
    """Return the store that is asked for, else the one that the recipe's preprocessing made, else the only one."""
    if volumes is None and recipe.input.volume_recipe != ANY_RECIPE:
        return _store_made_by(settings, named_recipe(recipe.input.volume_recipe))
    return open_store(settings, volumes)


def _store_of_run(settings: Settings, volumes: str | None, run: Path) -> Store:
    if volumes is None and (run / "volume_recipe.toml").is_file():
        return _store_made_by(settings, read_volume_recipe(run / "volume_recipe.toml"))
    return open_store(settings, volumes)


def _store_made_by(settings: Settings, recipe: VolumeRecipe) -> Store:
    """Return the store of a preprocessing recipe; when there is none, the only store, which says how it differs."""
    made = (settings.volumes_dir / recipe.short_hash / INDEX_NAME).is_file()
    return open_store(settings, recipe.short_hash if made else None)


def find_run(settings: Settings, name: str) -> Path:
    """Return a run folder from a path, a name below the workspace's `runs/`, or the beginning of one name only."""
    candidates = [Path(name), settings.runs_dir / name, settings.workspace / name]
    for path in candidates:
        if (path / "recipe.toml").is_file():
            return path
    known = sorted(path.parent.name for path in settings.runs_dir.glob("*/recipe.toml"))
    begun = [run for run in known if run.startswith(name)]
    if len(begun) == 1:
        return settings.runs_dir / begun[0]
    raise UsageError(f"no run `{name}`: expected one of {', '.join(known) or 'none; train one first'}")
