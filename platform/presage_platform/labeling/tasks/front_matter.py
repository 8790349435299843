"""The keys of a task's front matter: what they are, what they default to, what does not go together."""

from __future__ import annotations

import re
from datetime import date
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DURATION = re.compile(r"(?P<number>\d+)\s*(?P<unit>days?|d|weeks?|years?)")
DAYS_OF = {"d": 1, "day": 1, "days": 1, "week": 7, "weeks": 7, "year": 365, "years": 365}
WITHOUT_BODY = ("concept", "cohort")
"""Kinds whose candidate events are named, not queried."""
GENERALISED_EDEMA = 433595
"""Concept of SNOMED 267038008, which released code used where pulmonary edema was meant."""

Kind = Literal["time_to_event", "binary_window", "recurrent_count", "measurement_threshold", "concept", "cohort"]


def read_days(value: Any) -> int:
    """Read a duration such as `30 days`, `1 year` or a number of days."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = DURATION.fullmatch(str(value).strip())
    if match is None:
        raise ValueError("expected a duration such as 30 days")
    return int(match["number"]) * DAYS_OF[match["unit"]]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _coded(codes: tuple[str, ...]) -> tuple[str, ...]:
    for code in codes:
        if ":" not in code:
            raise ValueError("expected VOCABULARY:code, for example SNOMED:60046008")
    return codes


class ConceptSet(_Part):
    """Concepts by `VOCABULARY:code`, with or without their descendants."""

    include: tuple[str, ...] = Field(min_length=1)
    exclude: tuple[str, ...] = ()
    descendants: bool = True
    expect_concept_id: int | None = None

    @field_validator("include", "exclude")
    @classmethod
    def _codes(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        return _coded(codes)


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


class Confirm(_Part):
    """So many qualifying values, at distinct moments, within so many days; the last of them is the event."""

    times: int = Field(ge=2)
    within_days: int = Field(alias="within", ge=0)

    @field_validator("within_days", mode="before")
    @classmethod
    def _within(cls, value: Any) -> int:
        return read_days(value)


class Threshold(_Part):
    """Which values count: strictly below or above, in `unit`, others times their factor."""

    below: float | None = None
    above: float | None = None
    unit: str
    factors: dict[str, float] = {}
    confirm: Confirm | None = None

    @property
    def units(self) -> dict[str, float]:
        """Every declared unit and what its values are multiplied by."""
        return {self.unit: 1.0, **self.factors}

    @model_validator(mode="after")
    def _fits_together(self) -> Threshold:
        if (self.below is None) == (self.above is None):
            raise ValueError("needs one of `below` and `above`")
        _coded(tuple(self.units))
        if self.unit in self.factors:
            raise ValueError(f"gives a factor for {self.unit}, which is the unit itself")
        if not all(factor > 0 for factor in self.factors.values()):
            raise ValueError("needs factors above 0")
        return self


class FrontMatter(_Part):
    """The keys of a task; an unknown one is an error."""

    task: str
    version: int = Field(ge=1)
    title: str
    references: tuple[str, ...] = ()
    kind: Kind = "time_to_event"
    window_days: int | None = Field(default=None, alias="window", ge=1)
    era_gap_days: int | None = Field(default=None, alias="era_gap", ge=0)
    threshold: Threshold | None = None
    cohort_definition_id: int | None = Field(default=None, ge=0)
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
    requires: tuple[str, ...] = ()
    tests: str | None = None
    warn: str | None = None

    @field_validator(
        "window_days",
        "era_gap_days",
        "lookback_days",
        "min_prior_obs_days",
        "min_lag_days",
        "horizon_days",
        mode="before",
    )
    @classmethod
    def _durations(cls, value: Any) -> int | None:
        return None if value in (None, "all", "none") else read_days(value)

    @model_validator(mode="after")
    def _fits_together(self) -> FrontMatter:
        if (self.kind in ("binary_window", "recurrent_count")) != (self.window_days is not None):
            raise ValueError("`window` and a kind with a window (binary_window, recurrent_count) go together")
        for key, value, kind in (
            ("era_gap", self.era_gap_days, "recurrent_count"),
            ("threshold", self.threshold, "measurement_threshold"),
            ("cohort_definition_id", self.cohort_definition_id, "cohort"),
        ):
            if value is not None and self.kind != kind:
                raise ValueError(f"`{key}` belongs to `kind: {kind}`")
        self._needs()
        for name, era in self.eras.items():
            if era.concepts not in self.concept_sets:
                raise ValueError(f"era {name} names a concept set that is not declared")
        return self

    def _needs(self) -> None:
        """Raise for what a kind cannot do without, or has no use for."""
        if self.kind == "measurement_threshold" and self.threshold is None:
            raise ValueError("`kind: measurement_threshold` needs `threshold`")
        if self.kind == "cohort" and self.cohort_definition_id is None:
            raise ValueError("`kind: cohort` needs `cohort_definition_id`")
        if self.kind == "concept" and not self.concept_sets:
            raise ValueError("`kind: concept` needs `concept_sets`")
        if self.kind not in WITHOUT_BODY and not self.requires:
            raise ValueError("`requires` names no table, expected those that the body reads")
        if self.kind in WITHOUT_BODY and (self.params or self.eras):
            raise ValueError(f"`kind: {self.kind}` has no body, so `params` and `eras` have no use")

    @property
    def warnings(self) -> tuple[str, ...]:
        """Texts that every run prints."""
        return tuple(text for text in (self.warn,) if text)
