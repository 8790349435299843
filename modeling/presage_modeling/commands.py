"""What the commands `train` and `embed` do once their arguments are read."""

from __future__ import annotations

from pathlib import Path

from presage_modeling.embedding import EmbedReport, embed_run
from presage_modeling.objectives import ARMS
from presage_modeling.pretraining import RunReport, resume_run, run_recipe, train_group, train_run
from presage_modeling.recipe import read_recipe
from presage_platform.errors import UsageError
from presage_platform.labeling.store import open_labels
from presage_platform.settings import Settings, read_settings
from presage_platform.volumes.store import open_store

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
        opened = open_labels(settings, labels), open_store(settings, volumes)
        return [resume_run(path, labels=opened[0], store=opened[1], allow_missing=allow_missing)]
    if recipe is None:
        raise UsageError("name a recipe, for example `platform train tiny`, or a run with --resume")
    arms = ARMS if arm == ALL_ARMS else (arm,)
    recipes = [read_recipe(recipe, [*assignments, *([f"objective.arm={name}"] if name else [])]) for name in arms]
    store, label_store = open_store(settings, volumes), open_labels(settings, labels)
    if arm == ALL_ARMS:
        return train_group(
            recipes, labels=label_store, store=store, runs_dir=settings.runs_dir, allow_missing=allow_missing
        )
    return [
        train_run(recipes[0], labels=label_store, store=store, runs_dir=settings.runs_dir, allow_missing=allow_missing)
    ]


def embed_command(run: str, *, volumes: str | None, workspace: Path | None) -> EmbedReport:
    """Embed every volume of the workspace's store."""
    settings = read_settings(workspace)
    path = find_run(settings, run)
    run_recipe(path)
    return embed_run(path, open_store(settings, volumes))


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
