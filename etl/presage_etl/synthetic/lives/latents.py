"""The eight image-visible latents: internal Gaussians, the biomarkers they stand for, and the scores of hazards.

A hazard sees the standardised score of the natural biomarker (log1p first where it is skewed), never the internal
Gaussian: where the picture is flat (no effusion at all) the hazard is flat too.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from presage_etl.synthetic.parameters import Parameters, correlation_matrix

Floats = NDArray[np.float64]

NUM_VISIBLE = 8
NUM_INVISIBLE = 4
DECIMALS = 6

# Share of the cohort that is exactly zero, largest value, curvature of the map above zero, and whether the score is
# taken on log1p. A uniform quantile q above the zero share becomes top * q**power.
ZERO_SHARE = np.array([0.0, 0.60, 0.0, 0.40, 0.0, 0.25, 0.70, 0.0])
LOGARITHMIC = np.array([False, True, True, True, False, False, True, False])


def natural(gaussian: Floats) -> Floats:
    """Map internal Gaussians, shape (n, 8), to biomarkers in their units; monotone in each column."""
    quantile = np.clip(ndtr(gaussian), 1e-9, 1 - 1e-9)
    above = np.clip((quantile - ZERO_SHARE) / (1 - ZERO_SHARE), 0.0, 1.0)
    value = np.empty_like(quantile)
    value[:, 0] = _around(0.48, above[:, 0], spread=0.055, low=0.38, high=0.70)
    value[:, 1] = np.where(above[:, 1] > 0, 80.0 + 1420.0 * above[:, 1] ** 1.6, 0.0)
    value[:, 2] = 45.0 * above[:, 2] ** 3.9
    value[:, 3] = np.where(above[:, 3] > 0, np.expm1(3.0 + 5.0 * above[:, 3]), 0.0)
    value[:, 4] = _around(27.0, above[:, 4], spread=4.2, low=21.0, high=44.0)
    value[:, 5] = np.floor(np.where(above[:, 5] > 0, 1.0 + 11.999 * above[:, 5] ** 1.5, 0.0))
    value[:, 6] = np.where(above[:, 6] > 0, 60.0 + 540.0 * above[:, 6] ** 1.3, 0.0)
    value[:, 7] = 0.6 + 0.8 * above[:, 7]
    return np.asarray(np.round(value, DECIMALS))


def score(biomarkers: Floats) -> Floats:
    """Standardise biomarkers, shape (n, 8), to mean 0 and sd 1 in the cohort."""
    mean, sd = _moments()
    return np.asarray(np.round((_transform(biomarkers) - mean) / sd, DECIMALS))


def gaussian_of(biomarkers: Floats, within: float = 0.5) -> Floats:
    """Internal Gaussians, shape (8,), that biomarkers can stand for.

    Where many quantiles share a value (no effusion at all), `within` chooses among them, from 0 to 1: a uniform draw
    makes the result Gaussian again.
    """
    columns = _quantiles()
    low = [np.searchsorted(column, value, "left") for column, value in zip(columns, biomarkers, strict=True)]
    high = [np.searchsorted(column, value, "right") for column, value in zip(columns, biomarkers, strict=True)]
    quantile = (np.array(low) + within * (np.array(high) - np.array(low))) / columns.shape[1]
    return np.asarray(np.round(ndtri(np.clip(quantile, 1e-6, 1 - 1e-6)), DECIMALS))


def draw_gaussians(parameters: Parameters, rng: np.random.Generator, age_standard: Floats) -> Floats:
    """Draw internal Gaussians, shape (n, 8), for persons of standardised age `age_standard`."""
    factor = np.linalg.cholesky(correlation_matrix(parameters))
    gaussian = rng.standard_normal((len(age_standard), NUM_VISIBLE)) @ factor.T
    rho = parameters.latents.age_calcification
    gaussian[:, 3] = rho * age_standard + np.sqrt(1 - rho**2) * gaussian[:, 3]
    return gaussian


def _around(median: float, quantile: Floats, *, spread: float, low: float, high: float) -> Floats:
    """Skewed bell around a median: the upper tail is twice as wide as the lower one."""
    bell = ndtri(np.clip(quantile, 1e-9, 1 - 1e-9))
    return np.asarray(np.clip(median + spread * np.where(bell > 0, 1.35 * bell, 0.9 * bell), low, high))


def _transform(biomarkers: Floats) -> Floats:
    return np.asarray(np.where(LOGARITHMIC, np.log1p(biomarkers), biomarkers))


def _reference() -> Floats:
    """Biomarkers at 200,000 equal quantiles, ascending; in parts, since a worker's memory is counted."""
    grid = ndtri((np.arange(200_000) + 0.5) / 200_000)
    parts = [natural(np.repeat(part[:, None], NUM_VISIBLE, axis=1)) for part in np.split(grid, 20)]
    return np.concatenate(parts)


@cache
def _quantiles() -> Any:
    """The reference as columns."""
    return np.ascontiguousarray(_reference().T)


@cache
def _moments() -> tuple[Any, Any]:
    values = _transform(_reference())
    return np.round(values.mean(axis=0), 9), np.round(values.std(axis=0), 9)
