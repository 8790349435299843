"""How much of the future a picture of this cohort could tell at best: measured before anybody trains on it.

A study of pretraining needs a cohort whose ceiling is high enough to tell models apart, and events enough to see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from presage_etl.synthetic.answers import truth
from presage_etl.synthetic.answers.ceilings import draw_cohort, label_cohort
from presage_etl.synthetic.answers.oracle import predictor_of
from presage_etl.synthetic.answers.scoring import concordance
from presage_etl.synthetic.lives.hazards import Model
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.streams import Stage, stream
from presage_platform.parallel import map_partitions

CONCORDANCE_WANTED, EVENTS_WANTED = 0.72, 0.30
PERSONS = 4000
DECIMALS = 4
CONDITIONS_A_TASK = 16


@dataclass(frozen=True)
class StrengthTask:
    """Work of one process: some conditions, by their number."""

    parameters: Parameters
    model: Model
    places: tuple[int, ...]


@dataclass(frozen=True)
class Strength:
    """Means over visible conditions: C of `oracle_image` on recorded labels, and the share of pairs with an event."""

    concordance: float
    event_share: float

    def text(self) -> str:
        """One line for people, which says what is missed."""
        parts = [
            _against(f"mean C of oracle_image over visible conditions {self.concordance:.3f}", CONCORDANCE_WANTED,
                     self.concordance),
            _against(f"pairs that end in an event {self.event_share:.1%}", EVENTS_WANTED, self.event_share),
        ]  # fmt: skip
        return "; ".join(parts)


def write_strength(folder: Path, parameters: Parameters, model: Model, workers: int | None) -> Strength:
    """Measure every visible condition, write truth/strength, and return the means."""
    visible = [place for place, leaf in enumerate(model.leaves) if leaf.kind == "visible"]
    tasks = [
        StrengthTask(parameters, model, tuple(visible[start : start + CONDITIONS_A_TASK]))
        for start in range(0, len(visible), CONDITIONS_A_TASK)
    ]
    found = {place: row for rows in map_partitions(measure, tasks, workers=workers) for place, row in rows}
    rows = [found[place] for place in sorted(found)]
    truth.write_table(folder, "strength", rows)
    return mean_strength(rows)


def measure(task: StrengthTask) -> list[tuple[int, dict[str, float | str]]]:
    """Simulate persons at their first scan and score the oracle of images on each condition."""
    rows: list[tuple[int, dict[str, float | str]]] = []
    for place in task.places:
        rng = stream(task.parameters.seed, place, Stage.STRENGTH)
        name = task.model.leaves[place].name
        cohort = draw_cohort(task.parameters, task.model, rng, PERSONS)
        recorded = label_cohort(task.parameters, task.model, cohort, name, rng).recorded
        at_risk = np.flatnonzero(recorded.at_risk)
        risk = predictor_of("oracle_image", task.model, name, cohort.known.rows(at_risk))
        outcome = recorded.outcome.rows(at_risk)
        row: dict[str, float | str] = {
            "condition": name,
            "harrell_c": round(concordance(outcome.time, outcome.event, risk), DECIMALS),
            "event_share": round(float(outcome.event.mean()), DECIMALS),
        }
        rows.append((place, row))
    return rows


def mean_strength(rows: Sequence[dict[str, float | str]]) -> Strength:
    """Means over conditions."""
    values = [[float(row[name]) for row in rows] for name in ("harrell_c", "event_share")]
    return Strength(*(round(float(np.mean(column)), DECIMALS) for column in values))


def _against(text: str, wanted: float, found: float) -> str:
    return f"{text} (wanted {wanted:g}{'' if found >= wanted else ', missed'})"
