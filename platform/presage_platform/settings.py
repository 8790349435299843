"""The settings of a workspace: platform.toml and PRESAGE_… variables, read once, validated, frozen.

Precedence: environment (`PRESAGE_<SECTION>__<KEY>`) over `platform.toml` over the defaults declared here. An unknown
key is an error that names the nearest known one. Secrets come from the environment or a file and are never printed.
"""

from __future__ import annotations

import difflib
import errno
import os
import secrets
import tomllib
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from presage_platform.errors import SettingsError

WORKSPACE_FILE = "platform.toml"
DEFAULT_WORKSPACE = "presage-workspace"
KEY_BYTES = 32


class Section(BaseModel):
    """One table of platform.toml: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DatabaseSettings(Section):
    """`[database]`: where PostgreSQL is; unset means the embedded server of this workspace."""

    url: SecretStr | None = None
    tasks_url: SecretStr | None = None
    cdm: str = "cdm"
    ledger: str = "ledger"
    results: str = "results"
    data_home: Path | None = None  # where the embedded server keeps its data when it cannot reach the workspace


class CdmSourceSettings(Section):
    """`[etl.cdm_source]`: what the one row of cdm_source says about the hospital's database."""

    name: str = "presage"
    abbreviation: str = Field(default="presage", max_length=25)
    holder: str = "not declared"


class CodeSystem(Section):
    """`[etl.code_systems."<uri>"]`: a code system of the site, mapped to vocabularies or to a local one."""

    vocabularies: tuple[str, ...] = ()
    normalise: str | None = None
    local: str | None = None


class EtlSettings(Section):
    """`[etl]`: how records are loaded."""

    source: str = "default"
    policies: dict[str, Any] = {}
    code_systems: dict[str, CodeSystem] = {}
    bases: tuple[str, ...] = ()
    cdm_source: CdmSourceSettings = CdmSourceSettings()


class SeriesSettings(Section):
    """`[imaging.series]`: which series are accepted, and which repairs are allowed."""

    missing_uid: Literal["reject", "derive"] = "reject"
    min_slices: int = Field(default=4, ge=2)
    max_step_mm: float = Field(default=10.0, gt=0)
    min_extent_mm: float = Field(default=0.0, ge=0)
    missing: Literal["reject", "interpolate"] = "reject"
    lossy: Literal["flag", "reject"] = "flag"
    allow_derived: tuple[str, ...] = ()
    allow_pixel_risk: str = ""  # the reason why images with text in their pixels are accepted


class ChoiceSettings(Section):
    """`[imaging.choice]`: which series represents a study."""

    per_study: Literal["best", "all"] | int = "best"
    target_extent_mm: float = Field(default=200.0, gt=0)
    override: Path | None = None


class ImagingSettings(Section):
    """`[imaging]`: scan, grouping, decoding."""

    series: SeriesSettings = SeriesSettings()
    choice: ChoiceSettings = ChoiceSettings()
    max_volume_gb: float = Field(default=8.0, gt=0)
    recipes: tuple[str, ...] = ("presage",)


class LinkSettings(Section):
    """`[link]`: how studies find their person."""

    minimum_confidence: Literal["low", "medium", "high"] = "low"
    birth_year_tolerance: int = Field(default=1, ge=0)
    strip_leading_zeros: bool = False
    issuers: dict[str, str] = {}
    mapping: tuple[dict[str, Any], ...] = ()
    procedure_concept: int = 0


class VolumesSettings(Section):
    """`[volumes]`: the volume store."""

    codec: Literal["raw"] = "raw"
    shard_gb: float = Field(default=2.0, gt=0)


class LabelingSettings(Section):
    """`[labeling]`: index times, semantics, task selection; names as in the labeling documentation."""

    mode: Literal["default", "paper", "paper-floor"] = "default"
    k: int = Field(default=8192, ge=1)
    min_events: int = Field(default=50, ge=1)
    max_jaccard: float = Field(default=0.98, gt=0, le=1)
    max_levels: int | None = Field(default=None, ge=0)
    exclusions: Path | None = None
    guard: Path | None = None
    guard_scope: Literal["full", "descendants", "none"] = "full"
    same_day: Literal["exclude", "strict_day", "include"] = "exclude"
    censor: Literal["observation_period_end", "last_event", "last_visit_end", "data_cut", "hybrid"] = (
        "observation_period_end"
    )
    data_cut: date | None = None
    death_cut: date | None = None
    bridge_days: int = Field(default=0, ge=0)
    grace_days: int = Field(default=0, ge=0)
    death_pad: int = Field(default=60, ge=0)
    lookback: int | None = Field(default=None, ge=0)
    min_lag: int = Field(default=0, ge=0)
    min_prior_obs: int = Field(default=0, ge=0)
    visit_guard: Literal["none", "condition", "all"] = "none"
    split_method: Literal["hash", "site", "date"] = "hash"
    split_fractions: tuple[float, float, float] = (0.80, 0.05, 0.15)
    split_seed: int = 20
    n_shards: int | None = Field(default=None, ge=1)
    source_concepts: Literal["unmapped", "all", "none"] = "unmapped"
    type_concept: dict[str, tuple[int, ...]] = {}
    status_concept: dict[str, tuple[int, ...]] = {}
    value_bins: Path | None = None
    bins: int | tuple[float, ...] = 8
    anchor: Literal["ct", "paper"] = "ct"
    anchors: int | Literal["all"] = 200_000
    connections: int = Field(default=2, ge=1)
    refresh: Literal["auto", "fingerprint", "off"] = "auto"
    min_cell: int = Field(default=11, ge=1)
    max_cost: float = Field(default=1e8, gt=0)
    max_rows: float = Field(default=1e7, gt=0)

    @field_validator("anchors")
    @classmethod
    def _some_anchors(cls, anchors: int | Literal["all"]) -> int | Literal["all"]:
        if anchors != "all" and anchors < 1:
            raise ValueError("expected a number of anchors of at least 1, or all")
        return anchors

    @field_validator("split_fractions")
    @classmethod
    def _fractions_add_up(cls, fractions: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
            raise ValueError("expected three fractions of at least 0 that add up to 1 (train, valid, test)")
        return fractions


class ParallelSettings(Section):
    """`[parallel]`: how heavy stages are mapped over partitions."""

    engine: Literal["local", "dask", "ray", "spark"] = "local"
    address: str | None = None
    workers: int | None = Field(default=None, ge=1)


class TrainSettings(Section):
    """`[train]`: defaults of `platform train`."""


class EvalSettings(Section):
    """`[eval]`: what reports say of the data."""

    synthetic: bool = False


class Settings(Section):
    """All settings of one workspace, and the places where its parts lie."""

    workspace: Path
    database: DatabaseSettings = DatabaseSettings()
    etl: EtlSettings = EtlSettings()
    imaging: ImagingSettings = ImagingSettings()
    link: LinkSettings = LinkSettings()
    volumes: VolumesSettings = VolumesSettings()
    labeling: LabelingSettings = LabelingSettings()
    parallel: ParallelSettings = ParallelSettings()
    train: TrainSettings = TrainSettings()
    eval: EvalSettings = EvalSettings()

    @property
    def timezone(self) -> str:
        """The one declared zone: naive times of the CDM and of the images are in it."""
        return str(self.etl.policies.get("timezone", "UTC"))

    @property
    def catalogue_dir(self) -> Path:
        """Parquet catalogue of every image file seen (sensitive)."""
        return self.workspace / "catalogue"

    @property
    def volumes_dir(self) -> Path:
        """One folder a preprocessing recipe."""
        return self.workspace / "volumes"

    @property
    def timeline_dir(self) -> Path:
        """Snapshots of the CDM as person-sorted events."""
        return self.workspace / "timeline"

    @property
    def labels_dir(self) -> Path:
        """Label stores and splits."""
        return self.workspace / "labels"

    @property
    def task_passes_file(self) -> Path:
        """Which outcome tasks have passed their own tests."""
        return self.workspace / "task_tests.json"

    @property
    def runs_dir(self) -> Path:
        """Training runs."""
        return self.workspace / "runs"

    @property
    def reports_dir(self) -> Path:
        """Reports of every stage."""
        return self.workspace / "reports"

    @property
    def logs_dir(self) -> Path:
        """Structured logs."""
        return self.workspace / "logs"

    def secret_key(self) -> bytes:
        """Return the workspace's key for keyed hashes of identifiers; made once, mode 0600, whole or not at all."""
        path = self.workspace / "secret.key"
        if not path.exists():
            _make_key(path)
        key = path.read_bytes()
        if len(key) != KEY_BYTES:
            raise SettingsError(
                f"secret.key holds {len(key)} bytes, expected {KEY_BYTES}: restore it from a backup, "
                "a new key cannot recognise identifiers hashed with the old one"
            )
        return key


def _make_key(path: Path) -> None:
    """Write a new key under another name, then link it: a kill leaves none, and the first of two writers wins."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def find_workspace(given: Path | None) -> Path:
    """Return the workspace folder: argument, PRESAGE_WORKSPACE, nearest parent with platform.toml, else a default."""
    if given is not None:
        return given.absolute()
    from_environment = os.environ.get("PRESAGE_WORKSPACE")
    if from_environment:
        return Path(from_environment).absolute()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / WORKSPACE_FILE).is_file():
            return folder
    return here / DEFAULT_WORKSPACE


def read_settings(workspace: Path | None = None, *, create: bool = False) -> Settings:
    """Read and validate the settings of a workspace.

    Parameters
    ----------
    workspace
        The workspace folder; `find_workspace` says where it is looked for when absent.
    create
        Make the folder (mode 0700) and an empty platform.toml when they do not exist: for commands that write.

    Raises
    ------
    SettingsError
        When the folder does not exist and may not be made, or a key or value is wrong.
    """
    folder = find_workspace(workspace)
    path = folder / WORKSPACE_FILE
    if create:
        _create(folder, path)
    elif not folder.is_dir():
        raise SettingsError(f"no workspace at {folder}: name one with --workspace, or load something first")
    return parse_settings(folder, _read_toml(path), environment=dict(os.environ))


def parse_settings(folder: Path, document: dict[str, Any], *, environment: dict[str, str]) -> Settings:
    """Validate a parsed platform.toml, with the variables of `environment` laid over it."""
    merged = _overlay(document, environment)
    if "workspace" in merged:
        raise SettingsError("platform.toml names a key `workspace`: the folder that holds the file is the workspace")
    try:
        settings = Settings(workspace=folder, **merged)
    except ValidationError as error:
        raise SettingsError(_first_problem(error)) from None
    try:
        ZoneInfo(settings.timezone)
    except (ZoneInfoNotFoundError, ValueError):
        raise SettingsError(
            "etl.policies.timezone is not a zone of the tz database: expected a name such as America/New_York"
        ) from None
    return settings


def _create(folder: Path, path: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(
                    "# presage workspace: every key has a default; see `platform doctor` and the documentation\n"
                )
    except OSError as error:
        raise SettingsError(f"workspace {folder} cannot be written ({error.strerror}): choose another folder") from None


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None


def _overlay(document: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    merged: dict[str, Any] = {key: dict(value) if isinstance(value, dict) else value for key, value in document.items()}
    for name, text in sorted(environment.items()):
        if not name.startswith("PRESAGE_") or "__" not in name:
            continue
        section, *keys = name.removeprefix("PRESAGE_").lower().split("__")
        table = merged.setdefault(section, {})
        for key in keys[:-1]:
            table[key] = dict(table.get(key, {}))
            table = table[key]
        table[keys[-1]] = _parse_value(text)
    return merged


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _known_keys([str(part) for part in problem["loc"][:-1]])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f": did you mean `{near[0]}`?" if near else f": known keys are {', '.join(sorted(known))}"
        return f"settings: unknown key `{path}`{hint}"
    return f"settings: `{path}` {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _known_keys(path: list[str]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in path:
        field = model.model_fields.get(part)
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return [key for key in model.model_fields if key != "workspace"]
