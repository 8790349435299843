"""A task file: YAML in a leading comment, then one query, with `-- @at_risk` and `-- @censor` blocks if need be.

    /*---
    task: pleural_effusion
    version: 1
    title: First pleural effusion diagnosis after the scan
    concept_sets:
      outcome: {include: ["SNOMED:60046008"], descendants: true, expect_concept_id: 254061}
    requires: [condition_occurrence]
    ---*/
    select i.study_id, c.condition_start_date as event_date …

The body returns candidate events only. What lies after t0, comes first, is censored or competing is decided by the
engine, so that a wrong condition in a query cannot leak the future.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from presage_platform.errors import InputError, TaskError

MAX_BYTES = 64 * 1024
NAME = re.compile(r"[a-z][a-z0-9_]{2,62}")
FRONT_MATTER = re.compile(r"\A/\*---[ \t]*\n(?P<yaml>.*?)\n---\*/[ \t]*\n(?P<body>.*)\Z", re.DOTALL)
BLOCK = re.compile(r"^--[ \t]*@(?P<name>at_risk|censor)[ \t]*$", re.MULTILINE)
DURATION = re.compile(r"(?P<number>\d+)\s*(?P<unit>days?|d|weeks?|years?)")
DAYS_OF = {"d": 1, "day": 1, "days": 1, "week": 7, "weeks": 7, "year": 365, "years": 365}

# The kinds that run today. The others of the documentation are refused by name, not by a misunderstanding.
KINDS = ("time_to_event", "binary_window")
PLANNED_KINDS = ("recurrent_count", "measurement_threshold", "concept", "cohort")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ConceptSet(_Part):
    """Concepts by `VOCABULARY:code`, with or without their descendants."""

    include: tuple[str, ...] = Field(min_length=1)
    exclude: tuple[str, ...] = ()
    descendants: bool = True
    expect_concept_id: int | None = None

    @field_validator("include", "exclude")
    @classmethod
    def _codes(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        for code in codes:
            if ":" not in code:
                raise ValueError("expected VOCABULARY:code, for example SNOMED:60046008")
        return codes


class Era(_Part):
    """Rows of a table merged into eras: the next row joins while it starts at most `gap` after the latest end."""

    table: Literal["visit_occurrence", "condition_occurrence", "drug_exposure"]
    concepts: str
    gap_days: int = Field(alias="gap", ge=0)

    @field_validator("gap_days", mode="before")
    @classmethod
    def _gap(cls, value: Any) -> int:
        return read_days(value)


class Parameter(_Part):
    """A typed scalar that the body names as `:name`."""

    type: Literal["integer", "number", "date", "interval", "text"]
    value: int | float | str | date


class Age(_Part):
    """Limits of age at t0 in years, both included."""

    min: int | None = Field(default=None, ge=0)
    max: int | None = Field(default=None, ge=0)


class FrontMatter(_Part):
    """The keys of a task; an unknown one is an error."""

    task: str
    version: int = Field(ge=1)
    title: str
    references: tuple[str, ...] = ()
    kind: str = "time_to_event"
    window_days: int | None = Field(default=None, alias="window", ge=1)
    risk: Literal["incident", "next"] = "incident"
    lookback_days: int | None = Field(default=None, alias="lookback", ge=0)
    min_prior_obs_days: int = Field(default=0, alias="min_prior_obs", ge=0)
    same_day: Literal["exclude", "strict_day", "include"] = "exclude"
    min_lag_days: int | None = Field(default=None, alias="min_lag", ge=0)
    visit_guard: Literal["condition", "none", "all"] = "condition"
    sex: Literal["M", "F"] | None = None
    age: Age = Age()
    censor: Literal["observation_period_end", "last_event", "last_visit_end", "data_cut", "hybrid"] = (
        "observation_period_end"
    )
    competing: tuple[Literal["death"], ...] = ("death",)
    horizon_days: int | None = Field(default=None, alias="horizon", ge=1)
    clock: Literal["t0", "risk_start"] = "t0"
    params: dict[str, Parameter] = {}
    concept_sets: dict[str, ConceptSet] = {}
    eras: dict[str, Era] = {}
    requires: tuple[str, ...] = Field(min_length=1)
    tests: str | None = None
    warn: str | None = None

    @field_validator(
        "window_days", "lookback_days", "min_prior_obs_days", "min_lag_days", "horizon_days", mode="before"
    )
    @classmethod
    def _durations(cls, value: Any) -> int | None:
        return None if value in (None, "all", "none") else read_days(value)

    @field_validator("kind")
    @classmethod
    def _kind(cls, value: str) -> str:
        if value in PLANNED_KINDS:
            raise ValueError(f"is not run by this version: expected {' or '.join(KINDS)}")
        if value not in KINDS:
            raise ValueError(f"expected {' or '.join(KINDS)}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> FrontMatter:
        if (self.kind == "binary_window") != (self.window_days is not None):
            raise ValueError("`window` and `kind: binary_window` go together")
        for name, era in self.eras.items():
            if era.concepts not in self.concept_sets:
                raise ValueError(f"era {name} names a concept set that is not declared")
        return self


@dataclass(frozen=True)
class Task:
    """One task as read from its file: front matter, and the queries of its body and blocks (None = absent)."""

    path: Path
    front: FrontMatter
    body: str
    at_risk: str | None
    censor: str | None
    source: str

    @property
    def name(self) -> str:
        """The task's name, which is the file's."""
        return self.front.task

    @property
    def body_hash(self) -> str:
        """sha256 of the whole file with line ends normalised: a changed definition is another task."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def lock_path(self) -> Path:
        """Where the resolved concepts stand."""
        return self.path.with_name(f"{self.name}.lock.json")

    @property
    def fixture_path(self) -> Path:
        """Where the task's own tests stand."""
        return self.path.parent / (self.front.tests or f"tests/{self.name}.yaml")

    @property
    def min_lag_days(self) -> int:
        """Days after t0 before an event may count: one day when conditions are read, since billing lags the scan."""
        if self.front.min_lag_days is not None:
            return self.front.min_lag_days
        return 1 if "condition_occurrence" in self.front.requires else 0

    @property
    def follows_death(self) -> bool:
        """True for a task whose event is death."""
        return "death" in self.front.requires


def read_task(path: Path) -> Task:
    """Read and validate one task file.

    Raises
    ------
    TaskError
        One line that names the task and what is wrong with its front matter.
    InputError
        When the file cannot be read.
    """
    name = path.stem
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"task {name}: {path} cannot be read ({error.strerror})") from None
    return parse_task(raw, path)


def parse_task(raw: bytes, path: Path) -> Task:
    """Parse the bytes of a task file; `path` gives the name."""
    name = path.stem
    if len(raw) > MAX_BYTES:
        raise TaskError(f"task {name}: {len(raw)} bytes, expected at most {MAX_BYTES}")
    try:
        source = raw.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise TaskError(f"task {name}: not UTF-8: save the file as UTF-8") from None
    match = FRONT_MATTER.match(source)
    if match is None:
        raise TaskError(f"task {name}: no front matter, expected YAML between /*--- and ---*/ at the start of the file")
    front = _front_matter(name, match["yaml"])
    parts = BLOCK.split(match["body"])
    blocks = dict(zip(parts[1::2], (text.strip() for text in parts[2::2]), strict=True))
    return Task(path, front, parts[0].strip(), blocks.get("at_risk"), blocks.get("censor"), source)


def find_tasks(folder: Path) -> list[Task]:
    """Read every `.sql` file of a folder, by name."""
    return [read_task(path) for path in sorted(folder.glob("*.sql"))] if folder.is_dir() else []


def read_days(value: Any) -> int:
    """Read a duration such as `30 days`, `1 year` or a number of days."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = DURATION.fullmatch(str(value).strip())
    if match is None:
        raise ValueError("expected a duration such as 30 days")
    return int(match["number"]) * DAYS_OF[match["unit"]]


def _front_matter(name: str, text: str) -> FrontMatter:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 2}" if mark is not None else ""
        raise TaskError(f"task {name}: the front matter is not valid YAML{place}") from None
    if not isinstance(document, dict):
        raise TaskError(
            f"task {name}: the front matter holds no keys, expected at least task, version, title, requires"
        )
    try:
        front = FrontMatter.model_validate(document)
    except ValidationError as error:
        raise TaskError(f"task {name}: {_problem(error)}") from None
    if front.task != name or not NAME.fullmatch(name):
        raise TaskError(f"task {name}: names itself `{front.task}`, expected the file's name in [a-z][a-z0-9_]{{2,62}}")
    return front


def _problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = [field.alias or key for key, field in FrontMatter.model_fields.items()]
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        return f"unknown key `{place}`" + (f", did you mean `{near[0]}`?" if near else "")
    message = first["msg"].removeprefix("Value error, ")
    return f"`{place}` {message}" if place else message
