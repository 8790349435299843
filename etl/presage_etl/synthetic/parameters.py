"""The parameters of the synthetic hospital: read from parameters.toml, validated, frozen, hashed."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from datetime import date
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from presage_platform.errors import InputError, UsageError

PRESETS = ("small", "demo", "planted", "paper", "defects")
MIN_GRID = 32
SCANNER_NAMES = ("siemens", "ge", "toshiba", "philips")
CONFOUND = re.compile(rf"(?P<scanner>{'|'.join(SCANNER_NAMES)})=z(?P<latent>[1-8]):(?P<correlation>-?[01](\.\d+)?)")

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Latent = Annotated[int, Field(ge=1, le=8)]
Mode = Literal["fhir", "dicom", "omop"]
Kind = Literal["visible", "mixed", "clinical", "null"]
Output = Literal["hospital", "timeline", "volumes", "workspace"]
"""A hospital's exports; a timeline store; a volume store; both stores, so that training can begin."""


class Section(BaseModel):
    """One table of parameters.toml: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Cohort(Section):
    """Who there is, and how many scans they have."""

    extra_scans: float = Field(ge=0)
    no_scan: Share
    orphan_studies: Share
    no_followup: Share
    after_death: Share
    registry_deaths: Share
    birth_year_only: Share
    age_mean: float
    age_sd: float
    age_low: float
    age_high: float


class Calendar(Section):
    """The hospital's clock and the span of its records."""

    zone: str
    record_start: date
    scan_start: date
    scan_end: date
    cut: date
    history_years: tuple[float, float]


class Correlation(Section):
    """One off-diagonal element of the latents' correlation matrix; latents count from 1."""

    pair: tuple[Latent, Latent]
    value: float = Field(gt=-1, lt=1)


class Latents(Section):
    """Image-visible latents z1…z8."""

    names: tuple[str, ...]
    age_calcification: float = Field(gt=-1, lt=1)
    scan_drift: float
    correlation: tuple[Correlation, ...]


class Hazard(Section):
    """What all conditions share, and how the further leaves are drawn."""

    onset_rate_scale: float = Field(gt=0)
    kappa: float = Field(gt=0)
    loss_years: float = Field(gt=0)
    informative_censoring: float
    invisible_scale: float
    visible_scale: float = Field(gt=0)
    leaves: int = Field(ge=0)
    visible_share: Share
    leaf_risk: tuple[float, float]
    leaf_norm: tuple[float, float]
    leaf_acute: Share
    leaf_coded: Share
    leaf_acute_spread: Share
    leaf_coded_spread: Share
    leaf_chronic: Share


class Record(Section):
    """How what happens becomes what is written down."""

    visits_per_year: float = Field(gt=0)
    recode: Share
    recode_limit: int
    date_only: Share
    stamped_at_start: Share
    billing_days: float
    vitals: Share
    labs: Share
    drug_lag_days: float
    refills: float = Field(ge=0)
    noise_drugs_per_year: float
    unmapped: Share
    recurrent_admissions: float
    no_imaging_study: Share
    intensive: Share
    administered: Share
    documented: Share


class Coding(Section):
    """How diagnoses are coded: shares that add to one. Local codes and texts mean nothing to a reader of the record."""

    both: Share
    one: Share
    local: Share
    text: Share

    @model_validator(mode="after")
    def _shares_fit(self) -> Coding:
        if abs(self.both + self.one + self.local + self.text - 1.0) > 1e-9:
            raise ValueError("shares do not add to 1")
        return self


class References(Section):
    """Forms of a reference to a Patient or an Encounter, as shares; the rest is relative."""

    absolute: Share
    versioned: Share
    conditional: Share
    contained: Share
    bundled: Share


class Dates(Section):
    """Precision of the dates of orders, procedures, vaccinations, allergies and symptoms; the rest has a time."""

    day: Share
    month: Share
    year: Share


class Export(Section):
    """The first of two exports, and who is touched between them: every n-th person."""

    first: date
    late_days: int = Field(ge=2)
    new_every: int = Field(ge=1)
    late_every: int = Field(ge=1)
    merged_every: int = Field(ge=1)
    changed_every: int = Field(ge=1)
    gone_every: int = Field(ge=1)


class Image(Section):
    """Contrast and field of view."""

    contrast: Share
    field_mm: tuple[float, float]
    length_mm: tuple[float, float]
    compress: bool


class Scanner(Section):
    """What kernels and scanners add to a picture, and the shortcut that may be planted."""

    soft_noise_hu: tuple[float, float]
    sharp_noise_hu: tuple[float, float]
    soft_blur_mm: float = Field(gt=0)
    sharp_blur_mm: float = Field(gt=0)
    soft_blur_pixels: float = Field(gt=0)
    sharp_blur_pixels: float = Field(gt=0)
    cup_hu: tuple[float, float]
    ring_share: Share
    confound: str

    @field_validator("confound")
    @classmethod
    def _can_be_read(cls, text: str) -> str:
        parse_confound(text)
        return text


class Labeling(Section):
    """Sizes that the site declares for `[labeling]`."""

    k: int
    min_events: int


class Defects(Section):
    """What is planted: shares of persons and of studies with one defect of random kind, or every kind once."""

    fhir_rate: Share
    dicom_rate: Share
    fhir_all: bool
    dicom_all: bool


class Timeline(Section):
    """A record written straight to the timeline store: what surrounds the planted events, and how they are coded."""

    events_per_person: int = Field(ge=0)
    concepts: int = Field(ge=0, le=1_000_000)
    zipf: float = Field(gt=0)
    date_only: Share
    sample: int = Field(ge=0)


class Volumes(Section):
    """Volumes written straight to their store: how many are painted; the others are derived from these."""

    studies: int = Field(ge=0)
    distinct: int = Field(ge=0)


class Effect(Section):
    """Coefficients of an event that is no condition."""

    one_year: float = 0.0
    z: dict[int, float] = {}
    u: dict[int, float] = {}
    age: float = 0.0


class Condition(Section):
    """One named condition: its codes, its one-year risk after the scan, its log hazard ratios per sd."""

    name: str
    title: str
    concept: int
    snomed: str | None = None
    icd10: str | None = None
    family: str
    parents: tuple[str, ...] = ()
    risk: float = Field(gt=0, lt=1)
    z: dict[int, float] = {}
    u: dict[int, float] = {}
    age: float = 0.0
    male: float = 0.0
    acute: Share
    chronic: bool = False
    kind: Kind


class Headline(Section):
    """One outcome task of tasks/."""

    task: str
    condition: str
    title: str


class Parameters(Section):
    """Everything that decides what is generated; the same parameters give the same bytes."""

    version: str
    output: Output
    seed: int = Field(ge=0)
    patients: int = Field(ge=1)
    grid: tuple[int, int, int]
    persons_per_shard: int = Field(ge=1)
    studies_per_task: int = Field(ge=1)
    modes: tuple[Mode, ...] = Field(min_length=1)
    ceiling_persons: int = Field(ge=1000)
    exports: int = Field(ge=1, le=2)
    cohort: Cohort
    calendar: Calendar
    latents: Latents
    hazard: Hazard
    record: Record
    coding: Coding
    references: References
    dates: Dates
    export: Export
    image: Image
    scanner: Scanner
    labeling: Labeling
    defects: Defects
    timeline: Timeline
    volumes: Volumes
    death: Effect
    admission: Effect
    condition: tuple[Condition, ...]
    headline: tuple[Headline, ...]

    @model_validator(mode="after")
    def _correlations_fit(self) -> Parameters:
        import numpy as np

        if any(entry.pair[0] == entry.pair[1] for entry in self.latents.correlation):
            raise ValueError("latents.correlation pairs a latent with itself")
        if np.linalg.eigvalsh(correlation_matrix(self))[0] <= 1e-6:
            raise ValueError("latents.correlation is not positive definite")
        if min(self.grid) < MIN_GRID:
            raise ValueError(f"grid is below {MIN_GRID} along an axis")
        return self

    def digest(self) -> str:
        """Sha256 over the canonical JSON of all parameters."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def parse_confound(text: str) -> tuple[str, int, float] | None:
    """Read `siemens=z1:0.8` as scanner, place of the latent (from 0) and correlation; None where nothing is planted."""
    if not text:
        return None
    found = CONFOUND.fullmatch(text.lower())
    if found is None or abs(float(found["correlation"])) > 1:
        raise ValueError(
            f"a shortcut is not of the form siemens=z1:0.8 (scanner {', '.join(SCANNER_NAMES)}; z1 to z8; from -1 to 1)"
        )
    return found["scanner"], int(found["latent"]) - 1, float(found["correlation"])


def correlation_matrix(parameters: Parameters) -> Any:
    """Return R_z, shape (8, 8)."""
    import numpy as np

    size = len(parameters.latents.names)
    matrix = np.eye(size)
    for entry in parameters.latents.correlation:
        first, second = (index - 1 for index in entry.pair)
        matrix[first, second] = matrix[second, first] = entry.value
    return matrix


def read_parameters(preset: str | None = None, **overrides: Any) -> Parameters:
    """Return the defaults with a preset laid over them, and then the options of the command line that are not None.

    Raises
    ------
    UsageError
        The preset is unknown, or a value is out of range.
    """
    document = tomllib.loads(files("presage_etl.synthetic").joinpath("parameters.toml").read_text(encoding="utf-8"))
    presets = document.pop("preset")
    if preset is not None:
        if preset not in presets:
            raise UsageError(f"unknown preset `{preset}`: expected one of {', '.join(sorted(presets))}")
        document = _lay_over(document, presets[preset])
    document = _lay_over(document, {key: value for key, value in overrides.items() if value is not None})
    try:
        return Parameters.model_validate(document)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(part) for part in problem["loc"])
        raise UsageError(f"parameter {path or 'set'}: {problem['msg']}") from None


def parse_grid(text: str | None) -> tuple[int, int, int] | None:
    """Read `64x64x32` as columns, rows, slices."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise UsageError("--grid is not of the form 64x64x32 (columns x rows x slices)")
    columns, rows, slices = (int(part) for part in parts)
    return columns, rows, slices


def _lay_over(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _lay_over(merged[key], value)
        else:
            merged[key] = value
    return merged


def check_condition_parents(parameters: Parameters) -> None:
    """Refuse a headline that names no condition."""
    names = {condition.name for condition in parameters.condition} | {"death"}
    for headline in parameters.headline:
        if headline.condition not in names:
            raise InputError(f"headline {headline.task} names the unknown condition {headline.condition}")
