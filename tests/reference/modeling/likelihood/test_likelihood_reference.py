"""The likelihood against closed forms, finite differences and numbers made without presage (make_numbers.py)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from presage_modeling.survival import cumulative_incidence, risk, survival
from presage_modeling.time_to_event import TimeToEventHead, exposure_years, negative_log_likelihood
from tests.lib.likelihood import YEAR, Study, edges, sparse

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
PUBLISHED = {  # the same numbers as the specification prints them
    "mean_with_mask": 0.1287235656,
    "mean_without_mask": 0.1107418602,
    "gradient_b1_k1": -0.0346573590,
    "gradient_b0_k1": 0.0057762265,
    "gradient_b2_k1": 0.0,
    "survival_task1_1y": 0.6872892788,
    "survival_task1_3y": 0.1533549668,
    "incidence_task1_3y_competing_task0": 0.6759981449,
    "risk_task1_3y": 0.8466450332,
}
Z = torch.tensor(
    [
        [[-3, -2, -4], [-2.5, -1, -4.5], [-2, 0, -5]],
        [[-3, -1, -2], [-3.5, -1.5, -2.5], [-4, -2, -3]],
    ],
    dtype=torch.float64,
)
EDGES = edges(0.5, 2.0)


def two_studies(masked: bool) -> list[Study]:
    return [Study(3 * YEAR, events={1: YEAR}), Study(YEAR // 4, excluded={2} if masked else set())]


def simulated(num_studies: int, num_tasks: int) -> list[Study]:
    draw = np.random.default_rng(3)
    studies = []
    for _ in range(num_studies):
        end = int(draw.integers(YEAR // 10, 8 * YEAR))
        times = draw.exponential(6 * YEAR, size=num_tasks).astype(int) + 1
        studies.append(Study(end, events={k: int(t) for k, t in enumerate(times) if t <= end}))
    return studies


def test_m54_3_golden_numbers_are_those_of_the_specification() -> None:
    assert GOLDEN.keys() == PUBLISHED.keys()
    for name, value in PUBLISHED.items():
        assert GOLDEN[name] == pytest.approx(value, abs=6e-11)


@pytest.mark.parametrize(("masked", "name"), [(True, "mean_with_mask"), (False, "mean_without_mask")])
def test_m54_3_mean_reduction_of_the_golden_case(masked: bool, name: str) -> None:
    targets = sparse(two_studies(masked), 3)
    loss = negative_log_likelihood(Z, targets, EDGES) / (targets.pair_count * 3)
    assert loss.item() == pytest.approx(GOLDEN[name], rel=1e-9)


def test_m54_3_gradients_of_the_golden_case() -> None:
    logits = Z.clone().requires_grad_()
    targets = sparse(two_studies(masked=True), 3)
    (negative_log_likelihood(logits, targets, EDGES) / (targets.pair_count * 3)).backward()
    assert logits.grad is not None
    found = [logits.grad[0, b, 1].item() for b in (1, 0, 2)]
    assert found == pytest.approx([GOLDEN["gradient_b1_k1"], GOLDEN["gradient_b0_k1"], GOLDEN["gradient_b2_k1"]])


def test_m54_3_survival_and_incidence_of_the_golden_case() -> None:
    assert survival(Z[:1], YEAR, EDGES)[0, 1].item() == pytest.approx(GOLDEN["survival_task1_1y"], rel=1e-9)
    assert survival(Z[:1], 3 * YEAR, EDGES)[0, 1].item() == pytest.approx(GOLDEN["survival_task1_3y"], rel=1e-9)
    assert risk(Z[:1], 3 * YEAR, EDGES)[0, 1].item() == pytest.approx(GOLDEN["risk_task1_3y"], rel=1e-9)
    incidence = cumulative_incidence(Z[:1], 3 * YEAR, EDGES, causes=[0, 1])[0, 1].item()
    assert incidence == pytest.approx(GOLDEN["incidence_task1_3y_competing_task0"], rel=1e-9)


def test_m54_1_the_optimum_of_one_bin_is_events_over_exposure() -> None:
    studies = simulated(400, 1)
    targets = sparse(studies, 1)
    bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([bias], max_iter=100, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = negative_log_likelihood(bias.expand(400, 1, 1), targets, edges()) / targets.pair_count
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    num_events = len(targets.event_row)
    years = sum(min(study.events.get(0, study.end_s), study.end_s) for study in studies) / YEAR
    assert bias.item() == pytest.approx(math.log2(num_events / years), abs=1e-4)
    optimum = (num_events - num_events * math.log(num_events / years)) / targets.pair_count
    assert closure().item() == pytest.approx(optimum, rel=1e-9)


def test_m54_1_with_a_free_rate_in_each_bin_the_optimum_is_the_rate_of_the_bin() -> None:
    studies, edges_s = simulated(600, 2), edges(0.5, 1.0, 2.5)
    targets = sparse(studies, 2)
    stop = torch.tensor([[study.events.get(k, study.end_s) for k in range(2)] for study in studies])
    years = torch.stack([exposure_years(stop[:, k], torch.zeros(600).long(), edges_s).sum(0) for k in range(2)], dim=1)
    events = torch.zeros(4, 2, dtype=torch.float64)
    for study in studies:
        for k, time in study.events.items():
            events[int((edges_s[1:-1] <= time).sum()), k] += 1
    rates = torch.log2(events / years).requires_grad_()
    (gradient,) = torch.autograd.grad(
        negative_log_likelihood(rates.expand(600, 4, 2), targets, edges_s) / targets.pair_count, rates
    )
    assert gradient.abs().max().item() < 1e-12


def test_m54_2_every_parameter_agrees_with_finite_differences() -> None:
    torch.manual_seed(5)
    rates = torch.tensor([3e-9, 2e-8, 9e-8], dtype=torch.float64)
    head = TimeToEventHead(4, rates, num_bins=3, rank=3, zero_init=False).double()
    features = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    studies = [
        Study(3 * YEAR, events={1: 2 * YEAR, 0: 100}),  # an event on the edge of a bin
        Study(YEAR, entry_s=1000, excluded={2}, events={0: YEAR}),
        Study(9 * YEAR),
    ]
    targets = sparse(studies, 3)

    def loss() -> torch.Tensor:
        return negative_log_likelihood(head(features), targets, EDGES) / targets.pair_count

    loss().backward()  # type: ignore[no-untyped-call]
    groups = {**dict(head.named_parameters()), "features": features}
    for name, parameter in groups.items():
        assert parameter.grad is not None, name
        direction = torch.randn_like(parameter)
        direction /= direction.norm()
        slope = (parameter.grad * direction).sum().item()
        assert _central_difference(loss, parameter, direction) == pytest.approx(slope, rel=1e-6, abs=1e-10), name


def _central_difference(loss: object, parameter: torch.Tensor, direction: torch.Tensor) -> float:
    step, values = 1e-4, []
    with torch.no_grad():
        for shift in (-2, -1, 1, 2):
            parameter += shift * step * direction
            values.append(loss().item())  # type: ignore[operator]
            parameter -= shift * step * direction
    far_left, left, right, far_right = values
    return float((far_left - 8 * left + 8 * right - far_right) / (12 * step))
