"""Ceilings: how well both oracles foretell *recorded* events, on a large simulation of the same law.

Detection, billing delay, loss and death are inside the ceiling, since a label knows nothing else. A pending onset
waits for routine visits that come as a Poisson process and code it with a fixed chance: its delay is exponential.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from presage_etl.synthetic.answers import truth
from presage_etl.synthetic.answers.oracle import (
    ARMS,
    DAYS_PER_YEAR,
    HORIZONS_DAYS,
    Covariates,
    incidence_of,
    predictor_of,
)
from presage_etl.synthetic.answers.scoring import (
    Outcome,
    auc_at,
    auroc_within,
    censoring_of,
    concordance,
    integrated_brier,
)
from presage_etl.synthetic.clock import DAY_S, YEAR_S, wall
from presage_etl.synthetic.lives.hazards import Model
from presage_etl.synthetic.lives.latents import NUM_INVISIBLE, draw_gaussians, natural, score
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.shards import Rows
from presage_etl.synthetic.streams import Stage, stream
from presage_platform.parallel import map_partitions

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

BLOCK_PERSONS = 2000  # a concordance is counted within blocks: their spread is its standard error
DAY_YEARS = DAY_S / YEAR_S
IBS_BLOCKS = 20  # the integrated Brier score needs whole curves: fewer persons
IBS_DAYS = (30.0, 90.0, 180.0, 270.0, 365.0)
ROUTINE_SHARE = 0.9  # of routine visits that are ambulatory, and so code what is pending
CARE_SEEKING = 3
DECIMALS = 5


@dataclass(frozen=True)
class Cohort:
    """Independent persons, each at the first scan; years from the scan."""

    known: Covariates
    death: Floats
    end: Floats  # end of the record: last visit, or death
    stop: Floats  # loss to follow-up or the cut, whether death came before or not


@dataclass(frozen=True)
class Label:
    """An outcome of everybody, and who is at risk of it."""

    outcome: Outcome
    at_risk: Flags


@dataclass(frozen=True)
class Labels:
    """The same lives as a record shows them, and as they were."""

    recorded: Label
    onset: Label


@dataclass(frozen=True)
class Metric:
    """One measured number."""

    name: str
    value: float | None
    error: float | None
    num_persons: int


@dataclass(frozen=True)
class CeilingTask:
    """Work of one process: one headline task."""

    parameters: Parameters
    model: Model
    place: int


def write_ceilings(folder: Path, parameters: Parameters, model: Model, *, workers: int | None = None) -> None:
    """Score both oracles on every headline task and write truth/ceilings."""
    tasks = [CeilingTask(parameters, model, place) for place in range(len(parameters.headline))]
    found = dict(map_partitions(score_headline, tasks, workers=workers))
    truth.write_table(folder, "ceilings", [row for place in sorted(found) for row in found[place]])


def score_headline(task: CeilingTask) -> tuple[int, Rows]:
    """Simulate one headline task and score both oracles on it."""
    parameters, model = task.parameters, task.model
    headline = parameters.headline[task.place]
    rng = stream(0, task.place, Stage.CEILING)
    cohort = draw_cohort(parameters, model, rng, parameters.ceiling_persons)
    seen = label_cohort(parameters, model, cohort, headline.condition, rng)
    share = round(float(seen.recorded.outcome.event[seen.recorded.at_risk].mean()), DECIMALS)
    rows: Rows = []
    for arm in ARMS:
        for found in _score(arm, task, cohort, seen):
            row = {"task": headline.task, "arm": arm, "metric": found.name, "value": found.value, "se": found.error}
            rows.append(row | {"num_persons": found.num_persons, "event_share": share})
    return task.place, rows


def draw_cohort(parameters: Parameters, model: Model, rng: np.random.Generator, number: int) -> Cohort:
    """Draw persons from the law of the hospital, without their charts."""
    cohort, calendar, hazard = parameters.cohort, parameters.calendar, parameters.hazard
    standard = rng.standard_normal(number * 2)
    age = cohort.age_mean + cohort.age_sd * standard
    age = age[(age >= cohort.age_low) & (age <= cohort.age_high)][:number]
    number = len(age)
    z = score(natural(draw_gaussians(parameters, rng, (age - cohort.age_mean) / cohort.age_sd)))
    u = rng.standard_normal((number, NUM_INVISIBLE))
    male = (rng.random(number) < 0.5).astype(np.float64)
    origin = np.minimum(rng.uniform(*calendar.history_years, number), np.maximum(age - 18.0, DAY_YEARS))
    known = Covariates(z, u, age, male, origin, np.zeros(number))
    death = rng.exponential(size=number) / np.exp(model.death_log_rate + model.death_predictor(z, u, age))
    loss = rng.exponential(hazard.loss_years, number) / np.exp(
        -0.2 * u[:, CARE_SEEKING] - 0.02 + hazard.informative_censoring * u[:, 0]
    )
    longest = (wall(calendar.cut) - wall(calendar.scan_start)) / YEAR_S
    shortest = (wall(calendar.cut) - wall(calendar.scan_end)) / YEAR_S
    cut = rng.uniform(shortest, longest, number)
    stop = np.minimum(loss, cut)
    # A living person's record ends with the last visit; a death ends it by itself.
    visit_rate = parameters.record.visits_per_year * np.exp(0.35 * u[:, CARE_SEEKING] - 0.06)
    last_visit = np.maximum(stop - rng.exponential(size=number) / (visit_rate + 1.0), 0.0)
    end = np.where(death <= stop, death, last_visit)
    end = np.where(rng.random(number) < cohort.no_followup, 0.0, end)
    return Cohort(known, np.where(death <= stop, death, np.inf), end, stop)


def label_cohort(
    parameters: Parameters, model: Model, cohort: Cohort, condition: str, rng: np.random.Generator
) -> Labels:
    """The incident label of every person, by the time of the record and by that of the onset."""
    known, number = cohort.known, len(cohort.end)
    if condition == "death":
        label = _death(cohort)
        return Labels(label, label)
    members = model.members(condition)
    eta = model.predictor(known.z, known.u, known.age, known.male, members)
    onset, recorded = np.full(number, np.inf), np.full(number, np.inf)
    for place, member in enumerate(members):
        rate = np.exp(model.log_rate[member] + eta[:, place])
        time = (rng.exponential(size=number) / rate) ** (1 / model.kappa) - known.origin_years
        onset = np.minimum(onset, time)
        recorded = np.minimum(recorded, time + _delay(parameters, model, member, known.u, rng))
    seen_until = np.minimum(cohort.stop, cohort.death)
    return Labels(_incident(cohort, recorded, cohort.end, DAY_YEARS), _incident(cohort, onset, seen_until, 0.0))


def _incident(cohort: Cohort, first: Floats, end: Floats, start: float) -> Label:
    at_risk = (first > start) & (end > start)
    event = (first <= end) & at_risk
    died = np.isfinite(cohort.death) & (cohort.death <= end) & ~event
    return Label(Outcome(np.where(event, first, end), event, died), at_risk)


def _death(cohort: Cohort) -> Label:
    """Everybody is followed a little beyond the record's end, dead or alive alike."""
    followed = np.minimum(cohort.end + 60 * DAY_YEARS, np.where(np.isfinite(cohort.death), cohort.death, np.inf))
    died = np.isfinite(cohort.death) & (cohort.death <= cohort.end + 60 * DAY_YEARS)
    outcome = Outcome(np.where(died, cohort.death, followed), died, np.zeros(len(died), dtype=np.bool_))
    return Label(outcome, cohort.end > 0)


def _delay(parameters: Parameters, model: Model, member: int, u_NU: Floats, rng: np.random.Generator) -> Floats:
    leaf, record, number = model.leaves[member], parameters.record, len(u_NU)
    rate = record.visits_per_year * ROUTINE_SHARE * np.exp(0.35 * u_NU[:, CARE_SEEKING] - 0.06) * leaf.coded
    acute = rng.random(number) < leaf.acute
    found = np.where(acute, rng.uniform(0, 2, number) * DAY_YEARS, rng.exponential(size=number) / rate)
    # A local code or a text is not seen: a chronic condition waits until it is coded again, another one is lost.
    hidden = rng.random(number) < parameters.coding.local + parameters.coding.text
    again = (
        np.inf
        if not (leaf.chronic and record.recode)
        else rng.exponential(size=number) * leaf.coded / (rate * record.recode)
    )
    found = np.where(hidden, found + again, found)
    billed = np.where(
        rng.random(number) < record.stamped_at_start, 0.0, rng.uniform(0, record.billing_days, number) * DAY_YEARS
    )
    return np.asarray(found + billed)


def _score(arm: str, task: CeilingTask, cohort: Cohort, seen: Labels) -> list[Metric]:
    """Every metric of an oracle: the mean over blocks of persons, its standard error, and how many persons."""
    condition = task.parameters.headline[task.place].condition
    risk = predictor_of(arm, task.model, condition, cohort.known)
    found = []
    for suffix, label in (("", seen.recorded), ("_onset", seen.onset)):
        blocks = _blocks(label.at_risk)
        outcome = label.outcome
        values = [concordance(outcome.time[b], outcome.event[b], risk[b]) for b in blocks]
        found.append(_summary(f"harrell_c{suffix}", values, blocks))
    blocks, outcome = _blocks(seen.recorded.at_risk), seen.recorded.outcome
    censoring = censoring_of(outcome.rows(np.flatnonzero(seen.recorded.at_risk)))
    for days in HORIZONS_DAYS:
        years = days / DAYS_PER_YEAR
        values = [auc_at(outcome.rows(b), risk[b], years, censoring) for b in blocks]
        found.append(_summary(f"auc_{days:.0f}", values, blocks))
    values = [auroc_within(outcome.rows(b), risk[b], 1.0) for b in blocks]
    found.append(_summary("auroc_365", values, blocks))
    blocks = blocks[:IBS_BLOCKS]
    grid = np.array(IBS_DAYS) / DAYS_PER_YEAR
    values = []
    for block in blocks:
        probability = incidence_of(arm, task.model, condition, cohort.known.rows(block), grid)
        values.append(integrated_brier(outcome.rows(block), probability, grid, censoring))
    return [*found, _summary("ibs", values, blocks)]


def _blocks(at_risk: Flags) -> list[NDArray[np.int64]]:
    rows = np.flatnonzero(at_risk)
    return np.array_split(rows, max(len(rows) // BLOCK_PERSONS, 5))


def _summary(metric: str, values: list[float], blocks: list[NDArray[np.int64]]) -> Metric:
    """Mean and standard error over blocks; nothing where too few blocks hold an event."""
    finite = np.array([value for value in values if np.isfinite(value)])
    value = round(float(finite.mean()), DECIMALS) if len(finite) else None
    error = round(float(finite.std(ddof=1) / np.sqrt(len(finite))), DECIMALS) if len(finite) > 1 else None
    return Metric(metric, value, error, sum(map(len, blocks)))
