r"""The oracles: what anyone could know at the scan, in closed form.

Given u the cumulative hazard of a condition from its origin is :math:`\mu t^\kappa` with :math:`\mu` the sum of its
leaves' rates, and death has the constant hazard :math:`\nu`. At a scan a years after the origin, given at risk,

.. math:: P(h) = \int_0^h \mu \kappa (a+s)^{\kappa-1} e^{-\mu((a+s)^\kappa - a^\kappa) - \nu s} ds

is the probability that the onset comes within h and before death. `oracle_risk` knows u; `oracle_image` averages over
u among those still at risk, and is the ceiling for any image model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from presage_etl.synthetic.answers import truth
from presage_etl.synthetic.clock import YEAR_S
from presage_etl.synthetic.lives.hazards import Model
from presage_etl.synthetic.lives.latents import NUM_INVISIBLE, NUM_VISIBLE
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.shards import Rows
from presage_etl.synthetic.streams import Stage, stream
from presage_platform.errors import InputError

if TYPE_CHECKING:
    from presage_platform.settings import Settings

Floats = NDArray[np.float64]

HORIZONS_DAYS = (30.0, 180.0, 365.0)
DAYS_PER_YEAR = 365.25
NUM_NODES, NUM_NODES_IMAGE, NUM_NODES_STEP, NUM_DRAWS = 64, 12, 4, 64
DECIMALS = 9
BLOCK_STUDIES = 5000


@dataclass(frozen=True)
class Covariates:
    """What the oracles know of each study. N = studies."""

    z: Floats
    u: Floats
    age: Floats
    male: Floats
    origin_years: Floats
    since_first_years: Floats  # years from the first scan, where the death clock starts

    def rows(self, rows: NDArray[np.int64]) -> Covariates:
        """Those of some studies."""
        return Covariates(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def onset_probability(
    mu: Floats, nu: Floats, kappa: float, origin_years: Floats, horizon_years: float, nodes: int
) -> Floats:
    """P(h) by Gauss-Legendre quadrature; `mu`, `nu`, `origin_years` broadcast."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    total = np.zeros(np.broadcast_shapes(mu.shape, nu.shape, origin_years.shape))
    for point, weight in zip((points + 1) / 2 * horizon_years, weights / 2 * horizon_years, strict=True):
        t = origin_years + point
        survived = np.exp(-mu * (t**kappa - origin_years**kappa) - nu * point)
        total += weight * mu * kappa * t ** (kappa - 1) * survived
    return total


@dataclass(frozen=True)
class Rates:
    """Rates of a condition and of death, shape (N, M): M draws of u with their weight at the scan, or u itself."""

    mu: Floats
    nu: Floats
    weight: Floats

    def predictor(self) -> Floats:
        """Log of the mean rate, shape (N,)."""
        return np.asarray(np.log((self.weight * self.mu).sum(axis=1)))


def rates_given_all(model: Model, condition: str, known: Covariates) -> Rates:
    """Rates for the persons' own u."""
    nu = np.exp(model.death_log_rate + model.death_predictor(known.z, known.u, known.age))
    if condition == "death":
        mu = nu
    else:
        members = model.members(condition)
        eta = model.predictor(known.z, known.u, known.age, known.male, members)
        mu = np.exp(model.log_rate[members] + eta).sum(axis=1)
    return Rates(mu[:, None], nu[:, None], np.ones((len(mu), 1)))


def rates_given_image(model: Model, condition: str, known: Covariates) -> Rates:
    """Rates for draws of u, weighted by the chance to be alive and free of the condition at the scan."""
    u_MU = stream(0, 0, Stage.ORACLE).standard_normal((NUM_DRAWS, NUM_INVISIBLE))
    nothing = np.zeros_like(known.u)
    log_nu = model.death_log_rate + model.death_predictor(known.z, nothing, known.age)
    nu = np.exp(log_nu[:, None] + (u_MU @ model.death_gamma)[None, :])
    weight = np.exp(-nu * known.since_first_years[:, None])
    mu = nu
    if condition != "death":
        members = model.members(condition)
        eta = model.predictor(known.z, nothing, known.age, known.male, members)
        mu = np.zeros_like(nu)
        for place, member in enumerate(members):
            base = model.log_rate[member] + eta[:, place]
            mu += np.exp(base[:, None] + (u_MU @ model.gamma[member])[None, :])
        weight = weight * np.exp(-mu * known.origin_years[:, None] ** model.kappa)
    return Rates(mu, nu, weight / weight.sum(axis=1, keepdims=True))


RATES = {"oracle_risk": rates_given_all, "oracle_image": rates_given_image}
ARMS = tuple(RATES)


def predictor_of(arm: str, model: Model, condition: str, known: Covariates) -> Floats:
    """Linear predictor of an oracle, shape (N,), in blocks of bounded memory."""
    blocks = np.array_split(np.arange(len(known.age)), max(len(known.age) // BLOCK_STUDIES, 1))
    return np.concatenate([RATES[arm](model, condition, known.rows(block)).predictor() for block in blocks])


def risk_of(arm: str, model: Model, condition: str, known: Covariates) -> tuple[Floats, Floats]:
    """Linear predictor, shape (N,), and P at each horizon, shape (N, H)."""
    rates = RATES[arm](model, condition, known)
    years = [days / DAYS_PER_YEAR for days in HORIZONS_DAYS]
    if condition == "death":
        risks = [1 - np.exp(-rates.nu * horizon) for horizon in years]
    else:
        nodes = NUM_NODES if rates.mu.shape[1] == 1 else NUM_NODES_IMAGE
        origin = known.origin_years[:, None]
        risks = [onset_probability(rates.mu, rates.nu, model.kappa, origin, h, nodes) for h in years]
    averaged = np.stack([(rates.weight * risk).sum(axis=1) for risk in risks], axis=1)
    # Few nodes are off by some 1e-5 where nearly everybody has had the event: a later horizon is never less likely.
    return rates.predictor(), np.clip(np.maximum.accumulate(averaged, axis=1), 0.0, 1.0)


def incidence_of(arm: str, model: Model, condition: str, known: Covariates, times_years: Floats) -> Floats:
    """P that the onset comes by each of several times and before death, shape (N, T), with few nodes a step."""
    rates = RATES[arm](model, condition, known)
    if condition == "death":
        return np.stack([(rates.weight * (1 - np.exp(-rates.nu * t))).sum(axis=1) for t in times_years], axis=1)
    points, weights = np.polynomial.legendre.leggauss(NUM_NODES_STEP)
    origin, kappa = known.origin_years[:, None], model.kappa
    total, steps, last = np.zeros(len(known.age)), [], 0.0
    for until in times_years:
        half = (until - last) / 2
        for point, weight in zip(last + half * (points + 1), half * weights, strict=True):
            t = origin + point
            survived = np.exp(-rates.mu * (t**kappa - origin**kappa) - rates.nu * point)
            total = total + (rates.weight * weight * rates.mu * kappa * t ** (kappa - 1) * survived).sum(axis=1)
        steps.append(total)
        last = until
    return np.clip(np.stack(steps, axis=1), 0.0, 1.0)


def write_oracles(folder: Path, parameters: Parameters, model: Model, scans: Rows, persons: Rows) -> None:
    """Write oracle_risk and oracle_image: one row a study, task and horizon."""
    by_key = {person["person"]: person for person in persons}
    known_scans = [scan for scan in scans if scan["person"] in by_key]
    known = covariates(known_scans, by_key)
    studies = [scan["study"] for scan in known_scans]
    for arm in ARMS:
        tables = []
        for headline in parameters.headline:
            predictor, risk_NH = risk_of(arm, model, headline.condition, known)
            tables.append(_table(studies, headline.task, np.round(predictor, DECIMALS), np.round(risk_NH, DECIMALS)))
        truth.write_table(folder, arm, pa.concat_tables(tables))


def covariates(scans: Sequence[dict[str, Any]], persons: dict[str, dict[str, Any]]) -> Covariates:
    """Gather what the oracles know: hazards keep the person's own z, whatever a later scan shows."""
    owners = [persons[scan["person"]] for scan in scans]
    since = [(scan["t0_s"] - owner["index_s"]) / YEAR_S for scan, owner in zip(scans, owners, strict=True)]
    origin = [(scan["t0_s"] - owner["origin_s"]) / YEAR_S for scan, owner in zip(scans, owners, strict=True)]
    return Covariates(
        z=np.array([[owner[f"z{n + 1}"] for n in range(NUM_VISIBLE)] for owner in owners]).reshape(-1, NUM_VISIBLE),
        u=np.array([[owner[f"u{n + 1}"] for n in range(NUM_INVISIBLE)] for owner in owners]).reshape(-1, NUM_INVISIBLE),
        age=np.array([owner["age_first_scan"] for owner in owners]),
        male=np.array([float(owner["male"]) for owner in owners]),
        origin_years=np.array(origin),
        since_first_years=np.array(since),
    )


def write_predictions(hospital: Path, out: Path, settings: Settings) -> dict[str, int]:
    """Write both oracles as a predictions Parquet for a workspace, joined by study UID; return counts.

    Raises
    ------
    InputError
        The folder holds no truth, or no study of it is in the workspace.
    """
    path = hospital / "truth" / "joins.parquet"
    if not path.is_file():
        raise InputError(
            f"{hospital} holds no truth of a synthetic hospital: name the folder that `platform synth` made"
        )
    joins = pq.read_table(path)
    # A planted workspace was never imported: its studies have had their numbers from the beginning.
    planted = "study_id" in joins.column_names
    rows = joins.to_pylist()
    study_ids = {row["study_uid"]: row["study_id"] for row in rows} if planted else _imported_studies(settings)
    numbers = {row["study"]: study_ids[row["study_uid"]] for row in rows if row["study_uid"] in study_ids}
    if not numbers:
        raise InputError(
            "no study of the hospital is in the workspace: run `platform etl dicom` on its dicom folder first"
        )
    tables = [_predictions(hospital, arm, numbers) for arm in ARMS]
    metadata = {b"times_days": json.dumps(HORIZONS_DAYS).encode()}
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.concat_tables(tables).replace_schema_metadata(metadata), out, compression="zstd")
    return {"studies": len(numbers), "rows": sum(len(table) for table in tables)}


def _imported_studies(settings: Settings) -> dict[str, int]:
    """Study ids of the workspace by study UID."""
    from presage_platform.postgres.connection import open_database

    with open_database(settings, command="synth") as database, database.connect() as connection:
        found = connection.execute("select study_id, study_uid from image_study")
        return {str(uid): int(number) for number, uid in found}


def _predictions(hospital: Path, arm: str, numbers: dict[str, int]) -> pa.Table:
    rows: dict[tuple[int, str], tuple[float, dict[float, float]]] = {}
    for row in pq.read_table(hospital / "truth" / f"{arm}.parquet").to_pylist():
        if row["study"] in numbers:
            key = (numbers[row["study"]], row["task"])
            rows.setdefault(key, (row["linear_predictor"], {}))[1][row["horizon_days"]] = row["probability"]
    keys = sorted(rows)
    return pa.table(
        {
            "study_id": pa.array([study for study, _ in keys], pa.int64()),
            "task": pa.array([task for _, task in keys], pa.string()),
            "arm": pa.array([arm] * len(keys), pa.string()),
            "fold": pa.array([0] * len(keys), pa.int16()),
            "risk": pa.array([rows[key][0] for key in keys], pa.float64()),
            "surv": pa.array([[1 - rows[key][1][h] for h in HORIZONS_DAYS] for key in keys], pa.list_(pa.float64())),
        }
    )


def _table(studies: list[str], task: str, predictor: Floats, risk_NH: Floats) -> pa.Table:
    number = len(studies)
    return pa.table(
        {
            "study": np.repeat(np.array(studies, dtype=object), len(HORIZONS_DAYS)),
            "task": pa.array([task] * number * len(HORIZONS_DAYS), pa.string()),
            "horizon_days": np.tile(HORIZONS_DAYS, number),
            "probability": risk_NH.reshape(-1),
            "linear_predictor": np.repeat(predictor, len(HORIZONS_DAYS)),
        }
    )
