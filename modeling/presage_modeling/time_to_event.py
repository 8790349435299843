r"""The piecewise-exponential time-to-event head and its likelihood: what pretraining optimises.

Shape suffixes: B = studies in the batch, T = time bins, F = rank of the head, K = tasks, D = encoder width, E = events,
P = excluded (study, task) pairs. Hazards are :math:`\lambda = 2^z` events per year; times are integer seconds from the
scan and become years once, in `exposure_years`. Loss values are only ever compared or logged in this unit.

A batch carries its events as a sparse list. No target of shape (B, T, K) is ever built: the only tensors of that shape
are the logits and their gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from presage_platform.settings import Section

SECONDS_PER_YEAR = 31_557_600  # the Julian year
FOREVER_S = 2**40  # the last edge: later than any int32 time, and its differences stay exact in float64
LOG2_HAZARD_LOW, LOG2_HAZARD_HIGH = -40.0, 20.0
LN_2 = math.log(2.0)


class HeadRecipe(Section):
    """`[head]`: what is put on the encoder for time-to-event pretraining."""

    rank: int = Field(default=512, ge=1)
    norm: Literal["layer", "none"] = "layer"
    init: Literal["zero", "linear"] = "zero"
    rate_init: bool = True
    chunk_tasks: int | None = Field(default=None, ge=1)
    task_weights: Literal["none", "inverse_sqrt_events"] = "none"


@dataclass(frozen=True, slots=True)
class SparseTargets:
    """The observed part of a batch: one follow-up a study, and the events and exclusions that depart from it.

    Parameters
    ----------
    entry_s, end_s : Tensor, shape = (B,), int64
        A study is at risk in (entry, end], in seconds from the scan.
    event_row, event_task, event_time_s : Tensor, shape = (E,), int64
        First event of a task that is at risk, with entry < time <= end; at most one a (row, task).
    excluded_row, excluded_task : Tensor, shape = (P,), int64
        Pairs that are not at risk (prevalent tasks in the incident view); disjoint from the events.
    num_tasks : int
        K.
    """

    entry_s: Tensor
    end_s: Tensor
    event_row: Tensor
    event_task: Tensor
    event_time_s: Tensor
    excluded_row: Tensor
    excluded_task: Tensor
    num_tasks: int

    @property
    def pair_count(self) -> int:
        """Number of (study, task) pairs at risk: this batch's part of the divisor of the loss."""
        return len(self.end_s) * self.num_tasks - len(self.excluded_row)

    def to(self, device: torch.device) -> SparseTargets:
        """Return the same targets on a device."""
        names = ("entry_s", "end_s", "event_row", "event_task", "event_time_s", "excluded_row", "excluded_task")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


def exposure_years(time_s: Tensor, entry_s: Tensor, edges_s: Tensor) -> Tensor:
    r"""Return :math:`x_b(t) = |(entry, t] \cap (e_b, e_{b+1}]|`, the time at risk within each bin.

    Parameters
    ----------
    time_s, entry_s : Tensor, shape = (N,), int64
        End and begin of the time at risk, in seconds from the scan.
    edges_s : Tensor, shape = (T + 1,), int64
        Bin edges; the first is 0, the last `FOREVER_S`.

    Returns
    -------
    Tensor, shape = (N, T), float64
        Years; the sum over bins is ``max(time - entry, 0)``.
    """
    begin = torch.maximum(entry_s[:, None], edges_s[None, :-1])
    end = torch.minimum(time_s[:, None], edges_s[None, 1:])
    return (end - begin).clamp_min(0).double() / SECONDS_PER_YEAR


def bin_of(time_s: Tensor, edges_s: Tensor) -> Tensor:
    """Return the bin with ``edges[b] <= time < edges[b + 1]``: an event on an edge belongs to the later bin."""
    return torch.bucketize(time_s, edges_s[1:-1], right=True)


def negative_log_likelihood(
    logits_BTK: Tensor, targets: SparseTargets, edges_s: Tensor, task_weight_K: Tensor | None = None
) -> Tensor:
    r"""Return the summed negative log-likelihood of a batch, in nats with time in years.

    .. math:: \sum_i \sum_{k \notin P_i} \Big[ \sum_b x_b(\min(t_{ik}, c_i))\, 2^{z_{ibk}}
              - \ln 2 \; [k \in E_i] \; z_{i, bin(t_{ik}), k} \Big]

    Parameters
    ----------
    logits_BTK : Tensor, shape = (B, T, K), float32 or float64
        log2 of the hazard in events per year. The value is clamped to [-40, 20]; the gradient passes through.
    targets : SparseTargets
        What was observed; the caller divides by the pair count of the whole effective batch.
    edges_s : Tensor, shape = (T + 1,), int64
        Bin edges in seconds.
    task_weight_K : Tensor, shape = (K,), optional
        A weight a task, mean 1; None weighs all alike.

    Returns
    -------
    Tensor, shape = (), float64
        The gradient with respect to the logits is :math:`\ln 2\,(x\,2^z - event)`.

    References
    ----------
    .. [1] Friedman, M. Piecewise exponential models for survival data with covariates. Ann. Stat. 10 (1982): 101-113.
    """
    value: Tensor = _Likelihood.apply(logits_BTK, targets, edges_s, task_weight_K)  # type: ignore[no-untyped-call]
    return value


def chunked_negative_log_likelihood(
    basis_BTF: Tensor,
    tasks_FK: Tensor,
    bias_K: Tensor,
    targets: SparseTargets,
    edges_s: Tensor,
    *,
    chunk_tasks: int,
    task_weight_K: Tensor | None = None,
) -> Tensor:
    """Return `negative_log_likelihood` of ``basis @ tasks + bias``, with the logits of n tasks held at a time."""
    value: Tensor = _ChunkedLikelihood.apply(  # type: ignore[no-untyped-call]
        basis_BTF, tasks_FK, bias_K, targets, edges_s, chunk_tasks, task_weight_K
    )
    return value


def clamped_share(logits_BTK: Tensor) -> float:
    """Return the share of logits outside the range in which hazards are evaluated."""
    outside = (logits_BTK < LOG2_HAZARD_LOW) | (logits_BTK > LOG2_HAZARD_HIGH)
    return float(outside.float().mean())


class TimeToEventHead(nn.Module):
    r"""From features to log2 hazards: :math:`M = P h + p`, :math:`z = M A + \beta`, A and β shared by all bins.

    By default P and p start at zero and β at the log2 rate of each task, so that the first loss is exactly that of a
    constant rate per task, whatever the encoder says.

    Parameters
    ----------
    width : int
        D, the encoder's feature width.
    rate_per_second_K : Tensor, shape = (K,), float64
        Events divided by exposure on the training split; positive.
    num_bins, rank : int
        T and F.
    norm : bool
        LayerNorm on the features, the same in training and inference.
    """

    def __init__(
        self,
        width: int,
        rate_per_second_K: Tensor,
        *,
        num_bins: int,
        rank: int,
        norm: bool = True,
        zero_init: bool = True,
        rate_init: bool = True,
    ) -> None:
        super().__init__()
        num_tasks = len(rate_per_second_K)
        self.num_bins, self.rank = num_bins, rank
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.project = nn.Linear(width, num_bins * rank)
        self.tasks_FK = nn.Parameter(torch.empty(rank, num_tasks))
        self.bias_K = nn.Parameter(torch.empty(num_tasks))
        nn.init.normal_(self.tasks_FK, std=1 / math.sqrt(rank))
        nn.init.uniform_(self.bias_K, -1 / math.sqrt(rank), 1 / math.sqrt(rank))
        if zero_init:
            nn.init.zeros_(self.project.weight)
            nn.init.zeros_(self.project.bias)
        if rate_init:
            with torch.no_grad():
                self.bias_K.copy_(torch.log2(rate_per_second_K.double() * SECONDS_PER_YEAR))

    def basis(self, features_BD: Tensor) -> Tensor:
        """Return M, shape = (B, T, F): the time-dependent representation that every task reads."""
        with _full_precision(features_BD):
            basis: Tensor = self.project(self.norm(features_BD.to(self.bias_K.dtype)))
            return basis.view(len(features_BD), self.num_bins, self.rank)

    def forward(self, features_BD: Tensor) -> Tensor:
        """Return the log2 hazards, shape = (B, T, K), float32 whatever the precision around."""
        basis_BTF = self.basis(features_BD)
        with _full_precision(features_BD):
            flat = torch.addmm(self.bias_K, basis_BTF.flatten(0, 1), self.tasks_FK)
            return flat.view(len(features_BD), self.num_bins, -1)


def _full_precision(tensor: Tensor) -> torch.autocast:
    # bfloat16 logits near -12 are spaced by 0.0625: 2.2 % of a hazard
    return torch.autocast(device_type=tensor.device.type, enabled=False)


class _Likelihood(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_BTK: Tensor, targets: SparseTargets, edges_s: Tensor, task_weight_K: Tensor | None
    ) -> Tensor:
        buffer_BTK = logits_BTK.clamp(LOG2_HAZARD_LOW, LOG2_HAZARD_HIGH)
        loss = _loss_into_gradient(buffer_BTK, targets, edges_s, task_weight_K)
        ctx.save_for_backward(buffer_BTK)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_BTK,) = ctx.saved_tensors
        return gradient_BTK * grad.to(gradient_BTK.dtype), None, None, None


class _ChunkedLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        basis_BTF: Tensor,
        tasks_FK: Tensor,
        bias_K: Tensor,
        targets: SparseTargets,
        edges_s: Tensor,
        chunk_tasks: int,
        task_weight_K: Tensor | None,
    ) -> Tensor:
        flat_MF = basis_BTF.flatten(0, 1)
        d_flat_MF, d_tasks_FK, d_bias_K = (torch.zeros_like(x) for x in (flat_MF, tasks_FK, bias_K))
        loss = torch.zeros((), dtype=torch.float64, device=basis_BTF.device)
        for chunk, part in _chunks(targets, chunk_tasks):
            buffer_MK = torch.addmm(bias_K[chunk], flat_MF, tasks_FK[:, chunk]).clamp_(
                LOG2_HAZARD_LOW, LOG2_HAZARD_HIGH
            )
            weight = None if task_weight_K is None else task_weight_K[chunk]
            loss += _loss_into_gradient(buffer_MK.view(*basis_BTF.shape[:2], -1), part, edges_s, weight)
            d_flat_MF.addmm_(buffer_MK, tasks_FK[:, chunk].T)
            d_tasks_FK[:, chunk] = flat_MF.T @ buffer_MK
            d_bias_K[chunk] = buffer_MK.sum(0)
        ctx.save_for_backward(d_flat_MF.view_as(basis_BTF), d_tasks_FK, d_bias_K)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(gradient * grad.to(gradient.dtype) for gradient in ctx.saved_tensors), None, None, None, None


def _loss_into_gradient(
    buffer_BTK: Tensor, targets: SparseTargets, edges_s: Tensor, task_weight_K: Tensor | None
) -> Tensor:
    """Replace clamped log2 hazards in `buffer_BTK` by their gradient and return the summed loss, float64.

    Corrected entries (events, exclusions) are taken out of the shared sum and overwritten in the gradient, never added
    to it: nothing large cancels.
    """
    exposure_BT = exposure_years(targets.end_s, targets.entry_s, edges_s)
    exposure_ET = exposure_years(targets.event_time_s, targets.entry_s[targets.event_row], edges_s)
    events = torch.arange(len(targets.event_row), device=buffer_BTK.device)
    bin_E = bin_of(targets.event_time_s, edges_s)
    log2_hazard_ET = buffer_BTK[targets.event_row, :, targets.event_task]
    hazard_ET = log2_hazard_ET.exp2()
    loss_E = (exposure_ET * hazard_ET).sum(1) - LN_2 * log2_hazard_ET[events, bin_E].double()
    gradient_ET = LN_2 * exposure_ET.to(hazard_ET.dtype) * hazard_ET
    gradient_ET[events, bin_E] -= LN_2

    buffer_BTK.exp2_()
    buffer_BTK[targets.event_row, :, targets.event_task] = 0.0
    buffer_BTK[targets.excluded_row, :, targets.excluded_task] = 0.0
    if task_weight_K is not None:
        buffer_BTK *= task_weight_K
        loss_E *= task_weight_K[targets.event_task]
        gradient_ET *= task_weight_K[targets.event_task, None]
    loss = (exposure_BT * buffer_BTK.sum(2).double()).sum() + loss_E.sum()
    buffer_BTK *= (LN_2 * exposure_BT).to(buffer_BTK.dtype)[:, :, None]
    buffer_BTK[targets.event_row, :, targets.event_task] = gradient_ET
    return loss


def _chunks(targets: SparseTargets, size: int) -> Iterator[tuple[slice, SparseTargets]]:
    for first in range(0, targets.num_tasks, size):
        last = min(first + size, targets.num_tasks)
        event = (targets.event_task >= first) & (targets.event_task < last)
        excluded = (targets.excluded_task >= first) & (targets.excluded_task < last)
        yield (
            slice(first, last),
            replace(
                targets,
                event_row=targets.event_row[event],
                event_task=targets.event_task[event] - first,
                event_time_s=targets.event_time_s[event],
                excluded_row=targets.excluded_row[excluded],
                excluded_task=targets.excluded_task[excluded] - first,
                num_tasks=last - first,
            ),
        )
