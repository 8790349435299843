"""The likelihood as tables: times and edges in, exposures, bins, losses and survival out."""

from __future__ import annotations

import math

import pytest
import torch

from presage_modeling.survival import cumulative_incidence, log_cumulative_hazard, risk, survival
from presage_modeling.time_to_event import bin_of, exposure_years, negative_log_likelihood
from tests.lib.likelihood import YEAR, Study, edges, sparse

EDGES = edges(0.5, 2.0)

#  entry, stop, years at risk within (0, 0.5], (0.5, 2], (2, forever)
EXPOSURES = [
    (0.0, 0.25, [0.25, 0.0, 0.0]),
    (0.0, 0.5, [0.5, 0.0, 0.0]),
    (0.0, 3.0, [0.5, 1.5, 1.0]),
    (0.25, 1.0, [0.25, 0.5, 0.0]),
    (1.0, 3.0, [0.0, 1.0, 1.0]),
    (2.0, 2.5, [0.0, 0.0, 0.5]),
    (1.0, 1.0, [0.0, 0.0, 0.0]),
]


@pytest.mark.parametrize(("entry", "stop", "expected"), EXPOSURES)
def test_m43_exposure_is_the_time_at_risk_within_each_bin(entry: float, stop: float, expected: list[float]) -> None:
    seconds = [torch.tensor([round(years * YEAR)]) for years in (stop, entry)]
    assert exposure_years(*seconds, EDGES)[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("years", "expected"), [(0.1, 0), (0.5, 1), (1.999, 1), (2.0, 2), (60.0, 2)])
def test_m43_an_event_on_an_edge_belongs_to_the_later_bin(years: float, expected: int) -> None:
    assert bin_of(torch.tensor([round(years * YEAR)]), EDGES).item() == expected


def test_m43_an_event_on_an_edge_has_no_exposure_in_its_bin() -> None:
    logits = torch.full((1, 3, 1), 1.0, dtype=torch.float64, requires_grad=True)
    event = Study(end_s=5 * YEAR, events={0: YEAR // 2})
    negative_log_likelihood(logits, sparse([event], 1), EDGES).backward()
    assert logits.grad is not None
    assert logits.grad[0, :, 0].tolist() == pytest.approx([math.log(2) * 0.5 * 2, -math.log(2), 0.0])


def test_m44_one_bin_is_the_exponential_model() -> None:
    rate, years = 3.65, 0.25
    logits = torch.full((1, 1, 1), math.log2(rate), dtype=torch.float64)
    event = Study(end_s=YEAR, events={0: round(years * YEAR)})
    loss = negative_log_likelihood(logits, sparse([event], 1), edges())
    assert loss.item() == pytest.approx(rate * years - math.log(rate))


def test_m44_a_pair_without_event_pays_its_whole_follow_up() -> None:
    logits = torch.zeros(1, 3, 2, dtype=torch.float64)  # one event a year
    loss = negative_log_likelihood(logits, sparse([Study(end_s=3 * YEAR)], 2), EDGES)
    assert loss.item() == pytest.approx(2 * 3.0)


def test_m48_an_excluded_task_costs_nothing_and_gets_no_gradient() -> None:
    logits = torch.zeros(1, 3, 2, dtype=torch.float64, requires_grad=True)
    targets = sparse([Study(end_s=3 * YEAR, excluded={1})], 2)
    loss = negative_log_likelihood(logits, targets, EDGES)
    loss.backward()
    assert loss.item() == pytest.approx(3.0)
    assert logits.grad is not None and not logits.grad[:, :, 1].any()


def test_m55_survival_is_one_at_the_scan_and_falls_by_the_hazard() -> None:
    logits = torch.tensor([-3.0, -2.0, -4.0]).view(1, 3, 1)
    assert survival(logits, 0, EDGES).item() == 1.0
    assert survival(logits, 3 * YEAR, EDGES).item() == pytest.approx(math.exp(-(0.5 / 8 + 1.5 / 4 + 1.0 / 16)))


def test_m55_a_tiny_risk_is_not_rounded_to_zero() -> None:
    assert risk(torch.full((1, 3, 1), -39.0), 1, EDGES).item() == pytest.approx(2**-39.0 / YEAR, rel=1e-9)


def test_m55_the_ranking_score_is_the_log_of_the_cumulative_hazard() -> None:
    logits = torch.tensor([-3.0, -2.0, -4.0]).view(1, 3, 1)
    assert log_cumulative_hazard(logits, 3 * YEAR, EDGES).item() == pytest.approx(math.log(0.5))


def test_m56_incidences_and_survival_of_all_causes_sum_to_one() -> None:
    logits = torch.randn(4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    causes = [0, 2, 3]
    for years in (0.1, 0.5, 1.7, 30.0):
        incidence = cumulative_incidence(logits, round(years * YEAR), EDGES, causes=causes)
        hazard = sum(-survival(logits[:, :, [k]], round(years * YEAR), EDGES).log() for k in causes)
        assert torch.allclose(incidence.sum(1) + torch.exp(-hazard[:, 0]), torch.ones(4).double(), atol=1e-6)
