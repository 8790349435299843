"""The head and its likelihood: starts, memory, clamps, chunks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from presage_modeling.time_to_event import (
    SECONDS_PER_YEAR,
    TimeToEventHead,
    chunked_negative_log_likelihood,
    clamped_share,
    exposure_years,
    negative_log_likelihood,
)
from tests.lib.likelihood import YEAR, Study, edges, sparse

DAY = 86_400
RATES = torch.tensor([1e-9, 3e-8, 2e-7, 5e-9], dtype=torch.float64)
EDGES = edges(0.5, 1.0, 3.0)


def head_of(width: int = 6, **options: bool) -> TimeToEventHead:
    torch.manual_seed(0)
    return TimeToEventHead(width, RATES, num_bins=4, rank=5, **options)


def cohort() -> list[Study]:
    return [
        Study(end_s=2 * YEAR, events={0: 40 * DAY, 2: YEAR}, excluded={1}),
        Study(end_s=5 * YEAR, entry_s=DAY),
        Study(end_s=30 * DAY, events={3: DAY}, excluded={0, 2}),
    ]


def test_m38_the_head_has_the_parameters_of_the_design() -> None:
    head = TimeToEventHead(768, torch.full((8192,), 1e-9), num_bins=8, rank=512)
    count = {name: parameter.numel() for name, parameter in head.named_parameters()}
    assert count["tasks_FK"] + count["bias_K"] == 4_202_496
    assert count["project.weight"] + count["project.bias"] == 3_149_824


def test_m40_the_bias_is_log2_of_the_yearly_rate() -> None:
    expected = [math.log2(rate * SECONDS_PER_YEAR) for rate in RATES.tolist()]
    assert head_of().bias_K.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("norm", [True, False])
def test_m41_the_first_loss_is_that_of_constant_rates_whatever_the_features(norm: bool) -> None:
    targets = sparse(cohort(), 4)
    constant = torch.log2(RATES * SECONDS_PER_YEAR).expand(3, 4, 4).contiguous()
    null = negative_log_likelihood(constant, targets, EDGES)
    loss = negative_log_likelihood(head_of(norm=norm)(torch.randn(3, 6) * 50), targets, EDGES)
    assert loss.item() == pytest.approx(null.item(), rel=1e-6)


def test_m41_no_gradient_reaches_the_features_at_the_first_step() -> None:
    features = torch.randn(3, 6, requires_grad=True)
    head = head_of()
    negative_log_likelihood(head(features), sparse(cohort(), 4), EDGES).backward()
    assert features.grad is not None and not features.grad.any()
    assert head.project.weight.grad is not None and head.project.weight.grad.abs().sum() > 0


def test_m42_seconds_instead_of_years_shift_the_bias_and_nothing_else() -> None:
    torch.manual_seed(1)
    logits = torch.randn(3, 4, 4, dtype=torch.float64) - 3
    targets = sparse(cohort(), 4)
    years = (exposure_years(targets.end_s, targets.entry_s, EDGES)[:, :, None] * logits.exp2()).sum()
    per_second = logits - math.log2(SECONDS_PER_YEAR)
    seconds = exposure_years(targets.end_s, targets.entry_s, EDGES) * SECONDS_PER_YEAR
    assert (seconds[:, :, None] * per_second.exp2()).sum().item() == pytest.approx(years.item(), rel=1e-12)


def test_m45_pairs_count_what_is_at_risk() -> None:
    assert sparse(cohort(), 4).pair_count == 3 * 4 - 3


class _Allocations(TorchDispatchMode):
    """Records the number of elements and bytes of everything that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, int, torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = {tensor.data_ptr() for tensor in args if isinstance(tensor, torch.Tensor)}
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.data_ptr() not in inputs:
                self.made.append((str(func), tensor.numel(), tensor.dtype))
        return out


def test_m46_only_logits_and_their_gradient_have_the_shape_of_all_pairs_and_bins() -> None:
    num_tasks = 512
    targets = sparse([Study(end_s=YEAR, events={7: DAY, 99: 9 * DAY}, excluded={3}) for _ in range(4)], num_tasks)
    logits = torch.zeros(4, 4, num_tasks, requires_grad=True)
    with _Allocations() as seen:
        negative_log_likelihood(logits, targets, EDGES).backward()
    large = [dtype for _, size, dtype in seen.made if size >= logits.numel()]
    assert large == [torch.float32, torch.float32]  # M51: the buffer that becomes the gradient, and the gradient scaled


def test_m47_the_head_answers_in_float32_inside_autocast() -> None:
    head = head_of(zero_init=False)
    features = torch.randn(2, 6)
    plain = head(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head(features.bfloat16().float())
    assert inside.dtype == torch.float32
    assert torch.equal(inside, head(features.bfloat16().float()))
    assert plain.dtype == torch.float32


@pytest.mark.parametrize("logit", [-1e4, -60.0, 35.0, 1e4])
@pytest.mark.parametrize("time_s", [1, 120 * YEAR])
def test_m49_extreme_logits_and_times_stay_finite_and_can_return(logit: float, time_s: int) -> None:
    logits = torch.full((1, 4, 1), logit, requires_grad=True)
    loss = negative_log_likelihood(logits, sparse([Study(end_s=time_s, events={0: time_s})], 1), EDGES)
    loss.backward()
    assert torch.isfinite(loss) and logits.grad is not None and torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0
    assert clamped_share(logits.detach()) == 1.0


@pytest.mark.parametrize("chunk_tasks", [1, 3, 4, 100])
def test_m51_chunks_of_tasks_give_the_same_gradients(chunk_tasks: int) -> None:
    torch.manual_seed(2)
    basis = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    tasks = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    targets = sparse(cohort(), 4)
    whole = negative_log_likelihood(basis @ tasks + bias, targets, EDGES)
    expected = torch.autograd.grad(whole * 0.5, [basis, tasks, bias])
    loss = chunked_negative_log_likelihood(basis, tasks, bias, targets, EDGES, chunk_tasks=chunk_tasks)
    assert loss.item() == pytest.approx(whole.item(), rel=1e-12)
    for found, wanted in zip(torch.autograd.grad(loss * 0.5, [basis, tasks, bias]), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def test_m52_the_scale_of_the_loss_hardly_moves_ten_steps() -> None:
    def after_ten_steps(scale: float) -> torch.Tensor:
        head = head_of(zero_init=False)
        optimiser = torch.optim.AdamW(head.parameters(), lr=1e-3, eps=1e-12, weight_decay=0.0)
        features, targets = torch.randn(3, 6, generator=torch.Generator().manual_seed(4)), sparse(cohort(), 4)
        for _ in range(10):
            optimiser.zero_grad()
            (negative_log_likelihood(head(features), targets, EDGES) * scale).backward()
            optimiser.step()
        return torch.cat([parameter.detach().flatten() for parameter in head.parameters()])

    whole, scaled = after_ten_steps(1.0), after_ten_steps(2.0**-16)
    assert (whole - scaled).norm() / whole.norm() < 1e-3


def test_task_weights_scale_loss_and_gradient_of_their_task() -> None:
    weight = torch.tensor([2.0, 1.0, 0.5, 0.0], dtype=torch.float64)
    logits = (torch.randn(3, 4, 4, dtype=torch.float64) - 2).requires_grad_()
    targets = sparse(cohort(), 4)
    (plain,) = torch.autograd.grad(negative_log_likelihood(logits, targets, EDGES), logits)
    (weighted,) = torch.autograd.grad(negative_log_likelihood(logits, targets, EDGES, weight), logits)
    torch.testing.assert_close(weighted, plain * weight)
