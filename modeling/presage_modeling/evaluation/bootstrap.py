"""Resampling of persons: one plan for every arm, metric and task, percentile intervals, paired differences.

The unit is the person, and a person's studies enter together; resampling rows is not offered (evaluation V38).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95
"""Level of every interval: a constant, so that a narrower one cannot be passed off as this."""
MAX_VOID = 0.05
STREAM = 0xB007


@dataclass(frozen=True)
class Plan:
    """How often each person is drawn in each resample.

    Parameters
    ----------
    person : array of int64, shape = (P,)
        Sorted person ids.
    count : array of int32, shape = (B, P)
    seed : int
    """

    person: NDArray[np.int64]
    count: NDArray[np.int32]
    seed: int

    def rows(self, person: NDArray[np.int64]) -> Floats:
        """Return the multiplicity of each row, shape = (B, n), for rows that belong to these persons."""
        place = np.searchsorted(self.person, person)
        return self.count[:, place].astype(np.float64)


@dataclass(frozen=True)
class Interval:
    """A percentile interval, or the reason why there is none."""

    low: float | None
    high: float | None
    se: float | None
    missing_reason: str | None = None


def draw_plan(person: NDArray[np.int64], *, resamples: int, seed: int) -> Plan:
    """Draw the plan: a pure function of the sorted persons, the number of resamples and the seed (V40)."""
    persons = np.unique(person)
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, STREAM])))
    count = np.zeros((resamples, len(persons)), dtype=np.int32)
    for replicate in range(resamples):
        drawn = generator.integers(0, len(persons), len(persons))
        count[replicate] = np.bincount(drawn, minlength=len(persons))
    return Plan(persons, count, seed)


def interval(replicates: Floats, *, num_persons: int) -> Interval:
    """Return the 2.5 to 97.5 % percentile interval of the replicates; void ones are NaN."""
    if len(replicates) == 0:
        return Interval(None, None, None, "resampling_off")
    if num_persons < 2:
        return Interval(None, None, None, "one_cluster")
    valid = replicates[np.isfinite(replicates)]
    if len(valid) < (1 - MAX_VOID) * len(replicates):
        return Interval(None, None, None, "too_few_valid_resamples")
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(valid, [tail, 100 - tail])
    return Interval(float(low), float(high), float(valid.std(ddof=1)))


def two_sided_p(differences: Floats) -> float | None:
    """Return 2·min(P(d <= 0), P(d >= 0)) over the replicates, smoothed by one, at most 1 (V42)."""
    valid = differences[np.isfinite(differences)]
    if not len(valid):
        return None
    below, above = int((valid <= 0).sum()), int((valid >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(valid) + 1))


def holm(p_values: list[float | None]) -> list[float | None]:
    """Return Holm's adjusted p-values in the order given; None stays None."""
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, place) in enumerate(known):
        running = max(running, min(1.0, (len(known) - rank) * p))
        adjusted[place] = running
    return adjusted
