"""What preprocessing made the volumes of a store: the recipe as data, and its hash as the store's name.

A store never holds volumes of two recipes, and a model trained on one recipe must not be fed another. Both follow from
one hash over everything in the recipe that can change a voxel or its reading, and over nothing else.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from presage_platform.errors import VolumeRecipeError

CODE_VERSION: Literal[1] = 1
"""Version of the resampling code: it rises when the same recipe would give other bytes."""

DEFAULT_RECIPE = "presage"

AIR_HU = -1024


class VolumeRecipe(BaseModel):
    """Orientation, grid, intensities and crop of every volume in a store. Axis order is x, y, z throughout."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    version: int = Field(default=1, ge=1)
    orientation: Literal["RAS"] = "RAS"
    spacing_mm: tuple[float, float, float] | None = None
    interpolation: Literal["linear"] = "linear"
    antialias: bool = False
    clip_hu: tuple[int, int] | None = None
    window_hu: tuple[float, float] | None = None
    scaling: Literal["window", "none"] = "none"
    crop: Literal["centre", "body", "none"] = "none"
    shape: tuple[int, int, int] | None = None
    missing: Literal["reject", "interpolate"] = (
        "reject"  # the policy `imaging.series.missing` that the store was made by
    )
    pad_value: int = Field(default=AIR_HU, ge=-32768, le=32767)
    dtype: Literal["int16"] = "int16"
    code_version: Literal[1] = CODE_VERSION

    @model_validator(mode="after")
    def _check(self) -> VolumeRecipe:
        if self.spacing_mm is not None and min(self.spacing_mm) <= 0:
            raise ValueError("spacing_mm must be above 0 on every axis, or absent to keep the native grid")
        if self.shape is not None and min(self.shape) < 1:
            raise ValueError("shape must be at least 1 on every axis, or absent to keep the whole extent")
        if (self.crop == "none") != (self.shape is None):
            raise ValueError("crop and shape go together: give both, or crop = 'none' and no shape")
        for name, limits in (("clip_hu", self.clip_hu), ("window_hu", self.window_hu)):
            if limits is not None and limits[0] >= limits[1]:
                raise ValueError(f"{name} must be [low, high] with low < high")
        if (self.scaling == "window") != (self.window_hu is not None):
            raise ValueError("scaling = 'window' and window_hu go together")
        return self

    @property
    def canonical_json(self) -> str:
        """The text that is hashed: sorted keys, no white space, floats by `repr`; the name is only a label."""
        content = self.model_dump(mode="json", exclude={"name"})
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def recipe_hash(self) -> str:
        """64 hex digits of sha256 over `canonical_json`."""
        return hashlib.sha256(self.canonical_json.encode()).hexdigest()

    @property
    def short_hash(self) -> str:
        """The 16 hex digits that name the store's folder."""
        return self.recipe_hash[:16]

    @property
    def shape_zyx(self) -> tuple[int, int, int] | None:
        """Array shape of each volume when the recipe fixes one."""
        return None if self.shape is None else (self.shape[2], self.shape[1], self.shape[0])

    def under_policy(self, *, missing: Literal["reject", "interpolate"]) -> VolumeRecipe:
        """The recipe as a policy that invents voxels makes it: another hash, hence another store."""
        if self.missing not in ("reject", missing):
            raise VolumeRecipeError(
                f"recipe {self.name} says missing = {self.missing!r}, imaging.series.missing is {missing!r}: "
                "change one of them"
            )
        return self.model_copy(update={"missing": missing})

    def to_toml(self) -> str:
        """The recipe as the file that stands beside the shards; reading it back gives an equal recipe."""
        content = self.model_dump(mode="json", exclude_none=True)
        return "".join(f"{key} = {_toml_value(value)}\n" for key, value in content.items())


def read_recipe(path: Path) -> VolumeRecipe:
    """Read a recipe file; an unknown or wrong key is an error that names it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VolumeRecipeError(f"volume recipe {path.name} cannot be read as text: name an existing file") from error
    return parse_recipe(text, origin=path.name)


def parse_recipe(text: str, *, origin: str) -> VolumeRecipe:
    """Validate the TOML text of a recipe; `origin` names it in errors."""
    try:
        return VolumeRecipe.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise VolumeRecipeError(f"volume recipe {origin} is not TOML: {error}") from error
    except ValidationError as error:
        raise VolumeRecipeError(f"volume recipe {origin}: {_first_problem(error)}") from error


def named_recipe(name: str) -> VolumeRecipe:
    """Return a shipped recipe by its name."""
    file = _shipped() / f"{name}.toml"
    if name not in recipe_names():
        raise VolumeRecipeError(f"no volume recipe is named {name!r}: expected one of {', '.join(recipe_names())}")
    return parse_recipe(file.read_text(encoding="utf-8"), origin=file.name)


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(file.name.removesuffix(".toml") for file in _shipped().iterdir() if file.name.endswith(".toml"))


def find_recipe(name_or_file: str) -> VolumeRecipe:
    """What `--recipe` accepts: a shipped name, or the path of a TOML file."""
    if name_or_file.endswith(".toml") or "/" in name_or_file:
        return read_recipe(Path(name_or_file))
    return named_recipe(name_or_file)


def _shipped() -> Any:
    return resources.files("presage_platform.volumes") / "recipes"


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(key, VolumeRecipe.model_fields, n=1, cutoff=0.0)[0]
        return f"unknown key {key!r}; the nearest known key is {nearest!r}"
    return f"{key}: {problem['msg']}"


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return json.dumps(value)
