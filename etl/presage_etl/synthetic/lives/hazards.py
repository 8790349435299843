r"""Hazards of every leaf condition, of death and of admission: closed form given a person's latents.

The first onset of leaf condition c, at t years from the person's origin (18th birthday or start of the record), has

.. math:: \lambda_c(t) = \lambda_{0c}\, \kappa t^{\kappa-1} e^{\eta_c}, \quad
          \eta_c = \beta_c^T z + \gamma_c^T u + \alpha_c (age-60)/10 + s_c male

Given z, u, age and sex all conditions and death are independent. The hazard of a parent condition is the sum of its
leaves', because they share one shape. Death starts at the first scan, with a constant hazard.

Shape suffixes: N = persons, C = leaf conditions, Z = 8 visible latents, U = 4 invisible ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from presage_etl.synthetic.lives.latents import NUM_INVISIBLE, NUM_VISIBLE, draw_gaussians, natural, score
from presage_etl.synthetic.parameters import Condition, Effect, Kind, Parameters
from presage_etl.synthetic.streams import Stage, stream

Floats = NDArray[np.float64]

CUSTOM_CONCEPT = 2_000_000_000  # OMOP reserves ids from here on for sites; nothing invented lies below
FIRST_LEAF_CONCEPT = CUSTOM_CONCEPT + 10_000
LEAF_FAMILIES = (
    "respiratory", "circulatory", "metabolic", "neoplasm", "digestive", "renal", "nervous", "musculoskeletal",
    "skin", "endocrine", "blood", "infectious",
)  # fmt: skip
NUM_REFERENCE = 4000
RATE_DECIMALS = 8


@dataclass(frozen=True)
class Leaf:
    """One leaf condition: what it is called and coded as, and how it is recorded."""

    name: str
    title: str
    concept_id: int
    snomed: str | None
    icd10: str | None
    family: str
    parents: tuple[str, ...]
    kind: Kind
    risk: float
    acute: float
    coded: float
    chronic: bool


@dataclass(frozen=True)
class Model:
    """All hazards of one parameter set, as arrays over leaf conditions."""

    leaves: tuple[Leaf, ...]
    kappa: float
    log_rate: Floats
    beta: Floats
    gamma: Floats
    age: Floats
    male: Floats
    death_log_rate: float
    death_beta: Floats
    death_gamma: Floats
    death_age: float
    admission_beta: Floats
    admission_gamma: Floats
    place: dict[str, int] = field(default_factory=dict)

    def predictor(
        self, z_NZ: Floats, u_NU: Floats, age_N: Floats, male_N: Floats, members: list[int] | None = None
    ) -> Floats:
        """Linear predictor of every leaf (or of some), shape (N, C), without the base rate."""
        chosen: slice | list[int] = slice(None) if members is None else members
        return np.asarray(
            z_NZ @ self.beta[chosen].T
            + u_NU @ self.gamma[chosen].T
            + np.outer((age_N - 60.0) / 10.0, self.age[chosen])
            + np.outer(male_N, self.male[chosen])
        )

    def death_predictor(self, z_NZ: Floats, u_NU: Floats, age_N: Floats) -> Floats:
        """Linear predictor of death, shape (N,), without the base rate."""
        return np.asarray(z_NZ @ self.death_beta + u_NU @ self.death_gamma + self.death_age * (age_N - 60.0) / 10.0)

    def counts_for(self) -> list[list[int]]:
        """For each leaf, the conditions for which its record counts: itself and its named parents."""
        return [
            [leaf, *(self.place[parent] for parent in about.parents if parent in self.place)]
            for leaf, about in enumerate(self.leaves)
        ]

    def members(self, condition: str) -> list[int]:
        """Leaves whose record counts for a condition: itself and its children."""
        return [self.place[condition]] + [i for i, leaf in enumerate(self.leaves) if condition in leaf.parents]


@dataclass(frozen=True)
class Reference:
    """A fixed sample of the cohort's law, on which base rates are set; independent of the seed."""

    z: Floats
    u: Floats
    age: Floats
    male: Floats
    history_years: Floats


def build_model(parameters: Parameters) -> Model:
    """Return the hazards: named conditions first, then the further leaves; base rates solved for the stated risks."""
    conditions = list(parameters.condition)
    beta = np.array([_row(c.z, NUM_VISIBLE) for c in conditions]).reshape(-1, NUM_VISIBLE)
    gamma = np.array([_row(c.u, NUM_INVISIBLE) for c in conditions]).reshape(-1, NUM_INVISIBLE)
    age = np.array([c.age for c in conditions])
    male = np.array([c.male for c in conditions])
    leaves = [_named_leaf(index, c, parameters) for index, c in enumerate(conditions)]
    more, more_beta, more_gamma, more_age = _further_leaves(parameters)
    gamma = np.vstack([gamma, more_gamma]) * parameters.hazard.invisible_scale
    beta = np.vstack([beta, more_beta]) * parameters.hazard.visible_scale
    age = np.concatenate([age, more_age])
    male = np.concatenate([male, np.zeros(len(more))])
    leaves += more
    reference = _reference(parameters)
    eta = (
        reference.z @ beta.T
        + reference.u @ gamma.T
        + np.outer((reference.age - 60) / 10, age)
        + np.outer(reference.male, male)
    )
    scale = parameters.hazard.onset_rate_scale
    risk = 1 - (1 - np.array([leaf.risk for leaf in leaves])) ** scale
    death_beta, death_gamma, death_age = _effect(parameters.death, parameters)
    death_eta = reference.z @ death_beta + reference.u @ death_gamma + death_age * (reference.age - 60) / 10
    admission_beta, admission_gamma, _ = _effect(parameters.admission, parameters)
    return Model(
        leaves=tuple(leaves),
        kappa=parameters.hazard.kappa,
        log_rate=_solve_rates(eta, reference.history_years, parameters.hazard.kappa, risk),
        beta=beta,
        gamma=gamma,
        age=age,
        male=male,
        death_log_rate=float(
            _solve_rates(death_eta[:, None], np.zeros(NUM_REFERENCE), 1.0, np.array([parameters.death.one_year]))[0]
        ),
        death_beta=death_beta,
        death_gamma=death_gamma,
        death_age=death_age,
        admission_beta=admission_beta,
        admission_gamma=admission_gamma,
        place={leaf.name: index for index, leaf in enumerate(leaves)},
    )


def onset_years(model: Model, eta_C: Floats, exponential_C: Floats) -> Floats:
    """Invert the cumulative hazard: years from the origin to each leaf's onset, for unit exponentials."""
    return np.asarray((exponential_C / np.exp(model.log_rate + eta_C)) ** (1.0 / model.kappa))


def _row(values: dict[int, float], size: int) -> list[float]:
    return [values.get(index + 1, 0.0) for index in range(size)]


def _effect(effect: Effect, parameters: Parameters) -> tuple[Floats, Floats, float]:
    invisible = np.array(_row(effect.u, NUM_INVISIBLE)) * parameters.hazard.invisible_scale
    return np.array(_row(effect.z, NUM_VISIBLE)), invisible, effect.age


def _named_leaf(index: int, condition: Condition, parameters: Parameters) -> Leaf:
    return Leaf(
        name=condition.name,
        title=condition.title,
        concept_id=condition.concept or CUSTOM_CONCEPT + 1000 + index,
        snomed=condition.snomed,
        icd10=condition.icd10,
        family=condition.family,
        parents=condition.parents or (condition.family,),
        kind=condition.kind,
        risk=condition.risk,
        acute=condition.acute,
        coded=parameters.hazard.leaf_coded,
        chronic=condition.chronic,
    )


def _further_leaves(parameters: Parameters) -> tuple[list[Leaf], Floats, Floats, Floats]:
    """Draw the further leaves: sparse random coefficients on one to three latents, or none."""
    hazard = parameters.hazard
    beta = np.zeros((hazard.leaves, NUM_VISIBLE))
    gamma = np.zeros((hazard.leaves, NUM_INVISIBLE))
    age = np.zeros(hazard.leaves)
    leaves = []
    for index in range(hazard.leaves):
        rng = stream(parameters.seed, index, Stage.LEAVES)
        recording = stream(parameters.seed, index, Stage.LEAF_RECORDING)
        # The quota is spread evenly, so that any number of leaves holds its share of visible ones.
        visible = int((index + 1) * hazard.visible_share) > int(index * hazard.visible_share)
        if visible:
            number = int(rng.integers(1, 4))
            chosen = rng.choice(NUM_VISIBLE, size=number, replace=False)
            direction = rng.standard_normal(number)
            norm = rng.uniform(*hazard.leaf_norm)
            beta[index, chosen] = np.round(norm * direction / np.linalg.norm(direction), 4)
            age[index] = round(float(rng.normal(0, 0.1)), 4)
        low, high = np.log(hazard.leaf_risk)
        family = LEAF_FAMILIES[index % len(LEAF_FAMILIES)]
        second = LEAF_FAMILIES[(index + 5) % len(LEAF_FAMILIES)]
        # The last leaf is the only child of its group: it always implies its parent.
        last = index == hazard.leaves - 1
        group = f"{family}-only" if last else f"{family}-{index // len(LEAF_FAMILIES) // 5 + 1}"
        leaves.append(
            Leaf(
                name=f"leaf_{index:03d}",
                title=f"Demonstration {family} finding {index:03d}",
                concept_id=FIRST_LEAF_CONCEPT + index,
                snomed=None,
                icd10=None,
                family=family,
                parents=(group, second) if index % 10 == 7 else (group,),
                kind="visible" if visible else "null",
                risk=round(float(np.exp(rng.uniform(low, high))), 5),
                acute=_around(hazard.leaf_acute, hazard.leaf_acute_spread, recording),
                coded=_around(hazard.leaf_coded, hazard.leaf_coded_spread, recording),
                chronic=not visible and bool(recording.random() < hazard.leaf_chronic),
            )
        )
    return leaves, beta, gamma, age


def _around(mean: float, spread: float, rng: np.random.Generator) -> float:
    """A probability around its mean, uniform; the spread is relative."""
    return round(min(mean * (1 + spread * float(rng.uniform(-1, 1))), 1.0), 4)


def _reference(parameters: Parameters) -> Reference:
    rng = stream(0, 0, Stage.REFERENCE)
    cohort = parameters.cohort
    age = np.empty(0)
    while len(age) < NUM_REFERENCE:
        drawn = cohort.age_mean + cohort.age_sd * rng.standard_normal(NUM_REFERENCE)
        age = np.concatenate([age, drawn[(drawn >= cohort.age_low) & (drawn <= cohort.age_high)]])
    age = age[:NUM_REFERENCE]
    z = score(natural(draw_gaussians(parameters, rng, (age - cohort.age_mean) / cohort.age_sd)))
    u = rng.standard_normal((NUM_REFERENCE, NUM_INVISIBLE))
    male = (rng.random(NUM_REFERENCE) < 0.5).astype(np.float64)
    return Reference(z, u, age, male, rng.uniform(*parameters.calendar.history_years, NUM_REFERENCE))


def _solve_rates(eta_NC: Floats, history_N: Floats, kappa: float, risk_C: Floats) -> Floats:
    """Log base rates for which the mean one-year risk after the scan, among those at risk at it, is `risk_C`."""
    before = np.outer(history_N**kappa, np.ones(eta_NC.shape[1])) * np.exp(eta_NC)
    after = np.outer((history_N + 1) ** kappa, np.ones(eta_NC.shape[1])) * np.exp(eta_NC)
    low, high = np.full(eta_NC.shape[1], -16.0), np.full(eta_NC.shape[1], 6.0)
    for _ in range(34):
        middle = (low + high) / 2
        at_risk, still = np.exp(-np.exp(middle) * before), np.exp(-np.exp(middle) * after)
        enough = 1 - still.mean(axis=0) / at_risk.mean(axis=0) >= risk_C
        high = np.where(enough, middle, high)
        low = np.where(enough, low, middle)
    return np.asarray(np.round((low + high) / 2, RATE_DECIMALS))
