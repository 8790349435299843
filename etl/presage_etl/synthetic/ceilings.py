"""Ceilings: how well both oracles rank *recorded* events, on a large simulation of the same law.

Detection, billing delay, loss and death are inside the ceiling, since a label knows nothing else. A pending onset
waits for routine visits that come as a Poisson process and code it with a fixed chance: its delay is exponential.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from presage_etl.synthetic import truth
from presage_etl.synthetic.clock import DAY_S, YEAR_S, wall
from presage_etl.synthetic.hazards import Model
from presage_etl.synthetic.latents import NUM_INVISIBLE, draw_gaussians, natural, score
from presage_etl.synthetic.oracle import ARMS, Covariates, predictor_of
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.shards import Rows
from presage_etl.synthetic.streams import Stage, stream
from presage_platform.parallel import map_partitions

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

BLOCK_PERSONS = 2000  # a concordance is counted within blocks: their spread is its standard error
DAY_YEARS = DAY_S / YEAR_S
ROUTINE_SHARE = 0.9  # of routine visits that are ambulatory, and so code what is pending
CARE_SEEKING = 3
DECIMALS = 5


@dataclass(frozen=True)
class Cohort:
    """Independent persons, each at the first scan; years from the scan."""

    known: Covariates
    death: Floats
    end: Floats  # end of the record: last visit, or death


@dataclass(frozen=True)
class Recorded:
    """Incident outcome of each person: years, event, and whether at risk."""

    time: Floats
    event: Flags
    competing: Flags
    at_risk: Flags


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
    outcome = recorded_outcome(parameters, model, cohort, headline.condition, rng)
    share = round(float(outcome.event[outcome.at_risk].mean()), DECIMALS)
    rows: Rows = []
    for arm in ARMS:
        predictor = predictor_of(arm, model, headline.condition, cohort.known)
        for metric, value, error in _score(outcome, predictor):
            row = {"task": headline.task, "arm": arm, "metric": metric, "value": round(value, DECIMALS)}
            rows.append(row | {"se": round(error, DECIMALS), "num_persons": len(predictor), "event_share": share})
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
    return Cohort(known, np.where(death <= stop, death, np.inf), end)


def recorded_outcome(
    parameters: Parameters, model: Model, cohort: Cohort, condition: str, rng: np.random.Generator
) -> Recorded:
    """The incident label of every person, from onset through detection and billing."""
    known, number = cohort.known, len(cohort.end)
    if condition == "death":
        followed = np.minimum(cohort.end + 60 * DAY_YEARS, np.where(np.isfinite(cohort.death), cohort.death, np.inf))
        died = np.isfinite(cohort.death) & (cohort.death <= cohort.end + 60 * DAY_YEARS)
        none = np.zeros(number, dtype=np.bool_)
        return Recorded(np.where(died, cohort.death, followed), died, none, cohort.end > 0)
    eta = model.predictor(known.z, known.u, known.age, known.male)
    first = np.full(number, np.inf)
    for member in model.members(condition):
        rate = np.exp(model.log_rate[member] + eta[:, member])
        onset = (rng.exponential(size=number) / rate) ** (1 / model.kappa) - known.origin_years
        first = np.minimum(first, onset + _delay(parameters, model, member, known.u, rng))
    start = DAY_YEARS
    at_risk = (first > start) & (cohort.end > start)
    event = (first <= cohort.end) & at_risk
    died = np.isfinite(cohort.death) & (cohort.death <= cohort.end) & ~event
    return Recorded(np.where(event, first, cohort.end), event, died, at_risk)


def concordance(time: Floats, event: Flags, risk: Floats) -> float:
    """Harrell's C over all comparable pairs; ties in risk count one half, equal times are not compared."""
    order = np.argsort(time, kind="stable")
    concordant, comparable = _count_pairs(time[order], event[order], risk[order])
    return float(concordant / comparable) if comparable else float("nan")


@njit(cache=True)
def _count_pairs(time: Any, event: Any, risk: Any) -> tuple[float, float]:
    concordant, comparable = 0.0, 0.0
    for first in range(len(time)):
        if not event[first]:
            continue
        for later in range(first + 1, len(time)):
            if time[later] > time[first]:
                comparable += 1.0
                if risk[first] > risk[later]:
                    concordant += 1.0
                elif risk[first] == risk[later]:
                    concordant += 0.5
    return concordant, comparable


def auroc(positive: Flags, risk: Floats) -> float:
    """Area under the ROC curve by ranks."""
    ranks = np.empty(len(risk))
    ranks[np.argsort(risk, kind="stable")] = np.arange(1, len(risk) + 1)
    number = int(positive.sum())
    if number in (0, len(risk)):
        return float("nan")
    return float((ranks[positive].sum() - number * (number + 1) / 2) / (number * (len(risk) - number)))


def _delay(parameters: Parameters, model: Model, member: int, u_NU: Floats, rng: np.random.Generator) -> Floats:
    leaf, record, number = model.leaves[member], parameters.record, len(u_NU)
    rate = record.visits_per_year * ROUTINE_SHARE * np.exp(0.35 * u_NU[:, CARE_SEEKING] - 0.06) * leaf.coded
    acute = rng.random(number) < leaf.acute
    found = np.where(acute, rng.uniform(0, 2, number) * DAY_YEARS, rng.exponential(size=number) / rate)
    billed = np.where(
        rng.random(number) < record.stamped_at_start, 0.0, rng.uniform(0, record.billing_days, number) * DAY_YEARS
    )
    return np.asarray(found + billed)


def _score(outcome: Recorded, predictor: Floats) -> list[tuple[str, float, float]]:
    """C and AUROC at one year, each the mean over blocks of persons, with its standard error."""
    rows = np.flatnonzero(outcome.at_risk)
    blocks = np.array_split(rows, max(len(rows) // BLOCK_PERSONS, 5))
    concordances, areas = [], []
    for block in blocks:
        time, event, risk = outcome.time[block], outcome.event[block], predictor[block]
        concordances.append(concordance(time, event, risk))
        positive = event & (time <= 1.0)
        decided = positive | (time >= 1.0) | outcome.competing[block]
        areas.append(auroc(positive[decided], risk[decided]))
    return [
        (name, float(np.nanmean(values)), float(np.nanstd(values, ddof=1) / np.sqrt(len(blocks))))
        for name, values in (("harrell_c", concordances), ("auroc_365", areas))
    ]
