r"""From log2 hazards to what a reader of a report wants: survival, risk and incidence at a horizon.

Shape suffixes as in `time_to_event`: B = studies, T = time bins, K = tasks. Horizons are seconds from the scan.
"""

from __future__ import annotations

import torch
from torch import Tensor

from presage_modeling.time_to_event import LN_2, LOG2_HAZARD_HIGH, LOG2_HAZARD_LOW, exposure_years


def cumulative_hazard(log2_hazard_BTK: Tensor, horizon_s: int, edges_s: Tensor) -> Tensor:
    r"""Return :math:`\Lambda(t) = \sum_b \lambda_b x_b(t)`, shape = (B, K), float64: expected events by the horizon."""
    exposure_T = _exposure(horizon_s, edges_s)
    return torch.einsum("btk,t->bk", _hazard(log2_hazard_BTK), exposure_T)


def log_cumulative_hazard(log2_hazard_BTK: Tensor, horizon_s: int, edges_s: Tensor) -> Tensor:
    """Return the ranking score, shape = (B, K): ordered as risk is, without ties from rounding near 1."""
    exposure_T = _exposure(horizon_s, edges_s)
    terms = log2_hazard_BTK.double().clamp(LOG2_HAZARD_LOW, LOG2_HAZARD_HIGH) * LN_2 + exposure_T.log()[None, :, None]
    return terms.logsumexp(dim=1)


def survival(log2_hazard_BTK: Tensor, horizon_s: int, edges_s: Tensor) -> Tensor:
    """Return S(t), shape = (B, K), in [0, 1]; 1 at t = 0 and never increasing."""
    return torch.exp(-cumulative_hazard(log2_hazard_BTK, horizon_s, edges_s))


def risk(log2_hazard_BTK: Tensor, horizon_s: int, edges_s: Tensor) -> Tensor:
    """Return 1 - S(t), shape = (B, K), exact for small risks."""
    return -torch.expm1(-cumulative_hazard(log2_hazard_BTK, horizon_s, edges_s))


def cumulative_incidence(log2_hazard_BTK: Tensor, horizon_s: int, edges_s: Tensor, *, causes: list[int]) -> Tensor:
    r"""Return the incidence of each cause when any of `causes` ends follow-up, shape = (B, number of causes).

    Closed form per bin, with :math:`\lambda` the sum over the causes:
    :math:`S(e_b)\,\frac{\lambda_k}{\lambda}\,(1 - e^{-\lambda x_b(t)})`. Incidences and survival sum to 1.
    """
    exposure_T = _exposure(horizon_s, edges_s)
    hazard_BTC = _hazard(log2_hazard_BTK[:, :, causes])
    all_causes_BT = hazard_BTC.sum(2)
    spent_BT = all_causes_BT * exposure_T
    alive_at_begin_BT = torch.exp(-(spent_BT.cumsum(1) - spent_BT))
    ended_BT = alive_at_begin_BT * -torch.expm1(-spent_BT)
    return torch.einsum("bt,btc->bc", ended_BT / all_causes_BT, hazard_BTC)


def _hazard(log2_hazard: Tensor) -> Tensor:
    return log2_hazard.double().clamp(LOG2_HAZARD_LOW, LOG2_HAZARD_HIGH).exp2()


def _exposure(horizon_s: int, edges_s: Tensor) -> Tensor:
    horizon = torch.tensor([horizon_s], dtype=torch.int64, device=edges_s.device)
    return exposure_years(horizon, torch.zeros_like(horizon), edges_s)[0]
