"""Persons: demography, latents, the start of their record, and when they are scanned."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from presage_etl.synthetic.clock import DAY_S, HOUR_S, MINUTE_S, YEAR_S, quiet, wall
from presage_etl.synthetic.lives.latents import NUM_INVISIBLE, draw_gaussians, natural, score
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.streams import Stage, stream

Floats = NDArray[np.float64]

FIRST_BIRTH_YEAR, LAST_BIRTH_YEAR = 1925, 2003
MIN_SCAN_GAP_DAYS = 30.0
MEAN_SCAN_GAP_DAYS = 300.0

# Race (OMB codes) and ethnicity with the shares in which they occur; an empty tuple is unknown.
RACES: tuple[tuple[tuple[str, ...], float], ...] = (
    (("2106-3",), 0.60),
    (("2054-5",), 0.17),
    (("2028-9",), 0.11),
    (("1002-5",), 0.02),
    (("2076-8",), 0.01),
    (("2106-3", "2054-5"), 0.02),
    (("2106-3", "2028-9"), 0.01),
    ((), 0.06),
)
ETHNICITIES: tuple[tuple[str, float], ...] = (("2186-5", 0.78), ("2135-2", 0.16), ("", 0.06))
STATES = ("MA", "NY", "CT", "NH", "RI", "VT")
GIVEN = (
    "Aster",
    "Bramble",
    "Cedar",
    "Dahlia",
    "Elder",
    "Fern",
    "Gorse",
    "Heather",
    "Iris",
    "Juniper",
    "Linden",
    "Maple",
)
FAMILY = ("Quillon", "Pommel", "Ricasso", "Fuller", "Crossguard", "Langet", "Tang", "Bolster", "Ferrule", "Scabbard")


@dataclass(frozen=True, slots=True)
class Scan:
    """One planned scan: its index time and the biomarkers that the picture shows."""

    number: int
    t0: int
    biomarkers: Floats
    score: Floats


@dataclass(frozen=True, slots=True)
class Person:
    """Who a person is; everything that a hazard may look at."""

    index: int
    male: bool
    birth: date
    birth_year_only: bool
    races: tuple[str, ...]
    ethnicity: str
    state: str
    zip3: str
    given: str
    family: str
    age: float
    biomarkers: Floats
    z: Floats
    u: Floats
    origin: int
    index_time: int
    scanned: bool
    scans: tuple[Scan, ...]

    @property
    def key(self) -> str:
        """The person's key in truth and their FHIR id."""
        return f"p{self.index:06d}"

    @property
    def mrn(self) -> str:
        """Medical record number, PatientID of the images."""
        return f"SYN{self.index:07d}"


def draw_person(parameters: Parameters, index: int) -> Person:
    """Draw one person; independent of every other index."""
    seed, cohort, calendar = parameters.seed, parameters.cohort, parameters.calendar
    rng = stream(seed, index, Stage.DEMOGRAPHY)
    age, index_time, birth = _age_and_index(parameters, rng)
    male = bool(rng.random() < 0.5)
    races = RACES[_choose(rng, [share for _, share in RACES])][0]
    ethnicity = ETHNICITIES[_choose(rng, [share for _, share in ETHNICITIES])][0]
    state = STATES[int(rng.integers(len(STATES)))]
    zip3 = f"0{rng.integers(10, 70)}"
    birth_year_only = bool(rng.random() < cohort.birth_year_only)
    scanned = bool(rng.random() >= cohort.no_scan)
    history = int(rng.uniform(*calendar.history_years) * YEAR_S)
    adult = wall(date(birth.year + 18, birth.month, min(birth.day, 28)))
    origin = max(index_time - history, adult, wall(calendar.record_start))
    latents = stream(seed, index, Stage.LATENTS)
    standard = np.array([(age - cohort.age_mean) / cohort.age_sd])
    gaussian = draw_gaussians(parameters, latents, standard)
    u = np.round(latents.standard_normal(NUM_INVISIBLE), 6)
    biomarkers = natural(gaussian)
    names = stream(seed, index, Stage.NAMES)
    return Person(
        index=index,
        male=male,
        birth=birth,
        birth_year_only=birth_year_only,
        races=races,
        ethnicity=ethnicity,
        state=state,
        zip3=zip3,
        given=f"Test-{GIVEN[int(names.integers(len(GIVEN)))]}",
        family=FAMILY[int(names.integers(len(FAMILY)))],
        age=age,
        biomarkers=biomarkers[0],
        z=score(biomarkers)[0],
        u=u,
        origin=min(origin, index_time - DAY_S),
        index_time=index_time,
        scanned=scanned,
        scans=_scans(parameters, index, index_time, gaussian) if scanned else (),
    )


def _age_and_index(parameters: Parameters, rng: np.random.Generator) -> tuple[float, int, date]:
    """Age and time of the first scan (a pseudo-index where there is none), within the calendar of births."""
    cohort, calendar = parameters.cohort, parameters.calendar
    first, last = wall(calendar.scan_start), wall(calendar.scan_end)
    while True:
        age = float(cohort.age_mean + cohort.age_sd * rng.standard_normal())
        day = int(rng.integers(first // DAY_S, last // DAY_S + 1))
        # Most scans by day, some in the evening: those have another date in UTC.
        second = int(rng.uniform(6.5, 23.5) * HOUR_S)
        if not cohort.age_low <= age <= cohort.age_high:
            continue
        born = day * DAY_S - int(age * YEAR_S)
        birth = date(1970, 1, 1).fromordinal(date(1970, 1, 1).toordinal() + born // DAY_S)
        if FIRST_BIRTH_YEAR <= birth.year <= LAST_BIRTH_YEAR:
            return round(age, 4), quiet(day * DAY_S + second), birth


def _scans(parameters: Parameters, index: int, first: int, gaussian: Floats) -> tuple[Scan, ...]:
    rng = stream(parameters.seed, index, Stage.SCANS)
    drift = stream(parameters.seed, index, Stage.DRIFT)
    scans = []
    time = first
    for number in range(1 + int(rng.poisson(parameters.cohort.extra_scans))):
        shown = gaussian
        if number:
            gap = MIN_SCAN_GAP_DAYS + rng.exponential(MEAN_SCAN_GAP_DAYS)
            time = quiet((time + int(gap * DAY_S)) // DAY_S * DAY_S + int(rng.uniform(6.5, 23.5) * HOUR_S))
            if time >= wall(parameters.calendar.scan_end) + DAY_S:
                break
            shown = gaussian + parameters.latents.scan_drift * drift.standard_normal(gaussian.shape)
        biomarkers = natural(shown)
        scans.append(Scan(number, time, biomarkers[0], score(biomarkers)[0]))
    return tuple(scans)


def _choose(rng: np.random.Generator, shares: list[float]) -> int:
    return int(np.searchsorted(np.cumsum(shares), rng.random() * sum(shares)))


def order_time(scan: Scan, rng: np.random.Generator) -> int:
    """When the order was placed: 5 to 60 minutes before the image."""
    return scan.t0 - int(rng.integers(5, 61)) * MINUTE_S
