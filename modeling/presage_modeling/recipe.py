"""Training recipes: TOML in, one frozen tree out; what a run did is written back with every default spelled out.

`base = "tiny"` inherits one level from a shipped recipe; `--set a.b=c` is laid over the file before validation, so a
wrong type fails as it would in the file.
"""

from __future__ import annotations

import difflib
import json
import tomllib
import types
import typing
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from presage_modeling.augment import AugmentationRecipe
from presage_modeling.checkpoint import CheckpointRecipe
from presage_modeling.data import InputRecipe, LoaderRecipe
from presage_modeling.encoders.interface import EncoderRecipe
from presage_modeling.hardware import MemoryRecipe, PrecisionRecipe
from presage_modeling.objectives import ObjectiveRecipe
from presage_modeling.optimisation import OptimiserRecipe, ScheduleRecipe, ValidationRecipe
from presage_modeling.time_to_event import HeadRecipe
from presage_platform.errors import RecipeError
from presage_platform.runs import sha256_json
from presage_platform.settings import Section

SMALLEST_BATCH_FOR_BATCH_NORM = 4


class Recipe(Section):
    """Everything that decides a training run except its data."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    seed: int = Field(default=0, ge=0)
    encoder: EncoderRecipe
    input: InputRecipe = InputRecipe()
    augmentation: AugmentationRecipe = AugmentationRecipe()
    head: HeadRecipe = HeadRecipe()
    objective: ObjectiveRecipe = ObjectiveRecipe()
    optimiser: OptimiserRecipe = OptimiserRecipe()
    schedule: ScheduleRecipe = ScheduleRecipe()
    precision: PrecisionRecipe = PrecisionRecipe()
    memory: MemoryRecipe = MemoryRecipe()
    loader: LoaderRecipe = LoaderRecipe()
    checkpoint: CheckpointRecipe = CheckpointRecipe()
    validation: ValidationRecipe = ValidationRecipe()

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.input.shape_xyz is not None:
            check_sides(self.input.shape_xyz, self.encoder.total_stride)
        if self.schedule.effective_batch % self.micro_batch:
            raise ValueError(
                f"schedule.effective_batch {self.schedule.effective_batch} is not a multiple of memory.micro_batch "
                f"{self.micro_batch}: the effective batch is what is trained on, choose a divisor"
            )
        batch_norm = getattr(self.encoder, "norm", None) == "batch"
        if batch_norm and self.micro_batch < SMALLEST_BATCH_FOR_BATCH_NORM:
            raise ValueError(
                f"encoder.norm batch needs at least {SMALLEST_BATCH_FOR_BATCH_NORM} studies a step on a device, found "
                f"{self.micro_batch}: set encoder.norm = group, or frozen_batch with imported weights"
            )
        return self

    @property
    def micro_batch(self) -> int:
        """Studies in one forward pass."""
        return self.memory.micro_batch or self.schedule.effective_batch

    @property
    def recipe_hash(self) -> str:
        """The sha256 of the canonical JSON, 64 hex digits."""
        return sha256_json(self.model_dump(mode="json"))

    def to_toml(self) -> str:
        """Return the resolved recipe with every default written out (a value of None is an absent key)."""
        document = self.model_dump(mode="json", exclude_none=True)
        plain = [f"{key} = {_toml(value)}" for key, value in document.items() if not isinstance(value, dict)]
        for table, content in document.items():
            if isinstance(content, dict):
                plain += ["", f"[{table}]", *(f"{key} = {_toml(value)}" for key, value in content.items())]
        return "\n".join(plain) + "\n"


def check_sides(shape_xyz: tuple[int, int, int], total_stride: tuple[int, int, int]) -> None:
    """Refuse an input whose sides are not multiples of the encoder's total stride."""
    if any(side % stride for side, stride in zip(shape_xyz, total_stride, strict=True)):
        raise ValueError(
            f"input of {shape_xyz} voxels: each side must be a multiple of the encoder's stride {total_stride}"
        )


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(file.name.removesuffix(".toml") for file in _shipped().iterdir() if file.name.endswith(".toml"))


def read_recipe(name_or_path: str, assignments: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe or a TOML file, with `a.b=c` assignments laid over it.

    Raises
    ------
    RecipeError
        If there is no such recipe, a key is unknown (the nearest is named), or a value does not fit.
    """
    document, origin = _document(name_or_path)
    if "base" in document:
        document = _inherit(document, origin)
    document.setdefault("name", origin)
    for assignment in assignments:
        _assign(document, assignment)
    return parse_recipe(document, origin)


def parse_recipe(document: dict[str, Any], origin: str) -> Recipe:
    """Validate a recipe document; `origin` names it in errors."""
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise RecipeError(f"recipe {origin}: {_first_problem(error)}") from None


def _document(name_or_path: str) -> tuple[dict[str, Any], str]:
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        path = Path(name_or_path)
        return _parse(_read(path), path.stem), path.stem
    if name_or_path not in recipe_names():
        raise RecipeError(f"no recipe is named `{name_or_path}`{_nearest(name_or_path, recipe_names())}")
    return _parse((_shipped() / f"{name_or_path}.toml").read_text(encoding="utf-8"), name_or_path), name_or_path


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise RecipeError(f"recipe {path.name} cannot be read as text: name an existing TOML file") from None


def _parse(text: str, origin: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {origin} is not TOML: {error}") from None


def _inherit(document: dict[str, Any], origin: str) -> dict[str, Any]:
    base = document.pop("base")
    if base not in recipe_names():
        raise RecipeError(f"recipe {origin}: base must be a shipped recipe{_nearest(str(base), recipe_names())}")
    merged, _ = _document(base)
    if "base" in merged:
        raise RecipeError(f"recipe {origin}: its base `{base}` has a base itself; one level is the limit")
    merged["name"] = origin
    for key, value in document.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            other_encoder = key == "encoder" and value.get("name", merged[key].get("name")) != merged[key].get("name")
            merged[key] = value if other_encoder else {**merged[key], **value}
        else:
            merged[key] = value
    return merged


def _assign(document: dict[str, Any], assignment: str) -> None:
    path, separator, text = assignment.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise RecipeError(f"--set {assignment}: expected a.b=value, for example --set schedule.epochs=2")
    _check_path(keys)
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = document
    for key in keys[:-1]:
        table = table.setdefault(key, {})
    table[keys[-1]] = value


def _check_path(keys: list[str]) -> None:
    models: list[type[BaseModel]] = [Recipe]
    for depth, key in enumerate(keys):
        known = sorted({field for model in models for field in model.model_fields})
        if key not in known:
            raise RecipeError(f"--set {'.'.join(keys)}: no key `{'.'.join(keys[: depth + 1])}`{_nearest(key, known)}")
        models = [model for parent in models if key in parent.model_fields for model in _models_of(parent, key)]
    if models:
        raise RecipeError(f"--set {'.'.join(keys)}: this is a table, name one of its keys")


def _models_of(parent: type[BaseModel], key: str) -> list[type[BaseModel]]:
    annotation = parent.model_fields[key].annotation
    members = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    tags = {"resnet10", "resnet152", "swinunetr", "densenet121"}
    keys = [str(part) for part in problem["loc"] if part not in tags]
    path = ".".join(keys)
    if problem["type"] == "extra_forbidden":
        models: list[type[BaseModel]] = [Recipe]
        for key in keys[:-1]:
            models = [model for parent in models for model in _models_of(parent, key)]
        return f"unknown key `{path}`{_nearest(keys[-1], sorted({f for m in models for f in m.model_fields}))}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"`{path}`: {message}" if path else message


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f": did you mean `{near[0]}`?" if near else f": expected one of {', '.join(known)}"


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value)  # TOML spells numbers, booleans and strings as JSON does


def _shipped() -> Any:
    return resources.files("presage_modeling") / "recipes"
