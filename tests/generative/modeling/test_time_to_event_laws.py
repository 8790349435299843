"""Laws of the likelihood that hold for any cohort."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from presage_modeling.survival import survival
from presage_modeling.time_to_event import FOREVER_S, exposure_years, negative_log_likelihood
from tests.lib.likelihood import YEAR, Study, dense, sparse

seconds = st.integers(1, 100 * YEAR)


@st.composite
def inner_edges(draw: st.DrawFn) -> list[int]:
    return sorted(draw(st.sets(st.integers(1, 20 * YEAR), min_size=0, max_size=7)))


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[list[Study], int, list[int]]:
    num_tasks = draw(st.integers(1, 6))
    edges_s = [0, *draw(inner_edges()), FOREVER_S]
    studies = []
    for _ in range(draw(st.integers(1, 5))):
        entry = draw(st.integers(0, YEAR))
        end = entry + draw(seconds)
        excluded = draw(st.sets(st.integers(0, num_tasks - 1)))
        tasks = draw(st.sets(st.integers(0, num_tasks - 1))) - excluded
        times = st.one_of(
            st.integers(entry + 1, end), st.sampled_from([*(e for e in edges_s if entry < e <= end), end])
        )
        studies.append(Study(end, entry, {task: draw(times) for task in tasks}, excluded))
    return studies, num_tasks, edges_s


@given(inner_edges(), st.integers(0, 5 * YEAR), seconds)
def test_m43_bins_partition_the_time_at_risk(inner: list[int], entry: int, length: int) -> None:
    edges_s = torch.tensor([0, *inner, FOREVER_S])
    exposure = exposure_years(torch.tensor([entry + length]), torch.tensor([entry]), edges_s)
    assert round(exposure.sum().item() * YEAR) == length


@settings(deadline=None, max_examples=150)
@given(cohorts(), st.integers(0, 2**32 - 1), st.sampled_from([torch.float32, torch.float64]))
def test_m50_sparse_equals_the_dense_reference(
    cohort: tuple[list[Study], int, list[int]], seed: int, dtype: torch.dtype
) -> None:
    studies, num_tasks, edges_s = cohort
    shape = (len(studies), len(edges_s) - 1, num_tasks)
    logits = torch.empty(shape, dtype=dtype).uniform_(-12, 4, generator=torch.Generator().manual_seed(seed))
    logits.requires_grad_()
    loss = negative_log_likelihood(logits, sparse(studies, num_tasks), torch.tensor(edges_s))
    loss.backward()
    wanted_loss, wanted_gradient = dense(logits.detach().double().numpy(), studies, edges_s)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    # a loss near zero is a difference of larger terms: relative to their size
    magnitude = max(abs(wanted_loss), sum(12.0 for study in studies for _ in study.events), 1e-9)
    assert abs(loss.item() - wanted_loss) <= tolerance * magnitude
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.double().numpy(), wanted_gradient, rtol=tolerance, atol=tolerance * 1e-2)


@settings(deadline=None)
@given(cohorts(), st.integers(0, 2**16), st.floats(0.01, 0.99))
def test_cutting_a_bin_in_two_changes_nothing(
    cohort: tuple[list[Study], int, list[int]], seed: int, share: float
) -> None:
    studies, num_tasks, edges_s = cohort
    logits = torch.randn(
        len(studies), len(edges_s) - 1, num_tasks, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    cut = 1 + int(share * (min(edges_s[1], 50 * YEAR) - 2)) if edges_s[1] > 2 else 1
    if cut in edges_s:
        return
    halves = torch.cat([logits[:, :1], logits], dim=1)
    targets = sparse(studies, num_tasks)
    whole_loss = negative_log_likelihood(logits, targets, torch.tensor(edges_s))
    halves_loss = negative_log_likelihood(halves, targets, torch.tensor([0, cut, *edges_s[1:]]))
    torch.testing.assert_close(halves_loss, whole_loss, rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(cohorts(), st.integers(0, 2**16), st.randoms(use_true_random=False))
def test_m54_6_order_changes_nothing_and_doubling_leaves_the_mean(
    cohort: tuple[list[Study], int, list[int]], seed: int, random: object
) -> None:
    studies, num_tasks, edges_s = cohort
    shape = (len(studies), len(edges_s) - 1, num_tasks)
    logits = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    edges_tensor = torch.tensor(edges_s)
    loss = negative_log_likelihood(logits, sparse(studies, num_tasks), edges_tensor).item()
    backwards = negative_log_likelihood(logits.flip(0), sparse(studies[::-1], num_tasks), edges_tensor).item()
    twice = negative_log_likelihood(logits.repeat(2, 1, 1), sparse(studies * 2, num_tasks), edges_tensor).item()
    renamed = [
        Study(
            study.end_s,
            study.entry_s,
            {num_tasks - 1 - task: time for task, time in study.events.items()},
            {num_tasks - 1 - task for task in study.excluded},
        )
        for study in studies
    ]
    permuted = negative_log_likelihood(logits.flip(2), sparse(renamed, num_tasks), edges_tensor).item()
    np.testing.assert_allclose([backwards, permuted, twice / 2], loss, rtol=1e-6, atol=1e-9)


@settings(deadline=None)
@given(inner_edges(), st.lists(seconds, min_size=2, max_size=6), st.integers(0, 2**16))
def test_m55_survival_starts_at_one_never_rises_and_is_continuous(
    inner: list[int], horizons: list[int], seed: int
) -> None:
    edges_s = torch.tensor([0, *inner, FOREVER_S])
    logits = torch.randn(3, len(edges_s) - 1, 2, generator=torch.Generator().manual_seed(seed)) * 3
    curve = torch.stack([survival(logits, horizon, edges_s) for horizon in [0, *sorted(horizons)]])
    assert (curve[0] == 1).all()
    assert (curve[1:] <= curve[:-1]).all() and (curve >= 0).all()
    for edge in inner:
        before, after = survival(logits, edge - 1, edges_s), survival(logits, edge + 1, edges_s)
        assert (before - after).abs().max() < 1e-3
