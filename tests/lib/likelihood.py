"""A dense likelihood in NumPy float64, written from the formula, and the tensors of a described batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from presage_modeling.time_to_event import FOREVER_S, SECONDS_PER_YEAR, SparseTargets

YEAR = SECONDS_PER_YEAR


@dataclass
class Study:
    """What was observed of one study: at risk in (entry, end], events by task, tasks not at risk."""

    end_s: int
    entry_s: int = 0
    events: dict[int, int] = field(default_factory=dict)
    excluded: set[int] = field(default_factory=set)


def edges(*years: float) -> torch.Tensor:
    """Return edges in seconds from inner edges in years; 0 and forever are added."""
    return torch.tensor([0, *(round(year * YEAR) for year in years), FOREVER_S], dtype=torch.int64)


def sparse(studies: list[Study], num_tasks: int) -> SparseTargets:
    """Return the tensors of the described studies."""
    events = [(i, k, t) for i, study in enumerate(studies) for k, t in sorted(study.events.items())]
    excluded = [(i, k) for i, study in enumerate(studies) for k in sorted(study.excluded)]
    integers = torch.int64
    return SparseTargets(
        entry_s=torch.tensor([study.entry_s for study in studies], dtype=integers),
        end_s=torch.tensor([study.end_s for study in studies], dtype=integers),
        event_row=torch.tensor([row for row, _, _ in events], dtype=integers),
        event_task=torch.tensor([task for _, task, _ in events], dtype=integers),
        event_time_s=torch.tensor([time for _, _, time in events], dtype=integers),
        excluded_row=torch.tensor([row for row, _ in excluded], dtype=integers),
        excluded_task=torch.tensor([task for _, task in excluded], dtype=integers),
        num_tasks=num_tasks,
    )


def dense(
    log2_hazard_BTK: NDArray[np.float64], studies: list[Study], edges_s: list[int]
) -> tuple[float, NDArray[np.float64]]:
    """Return the summed loss and its gradient by three plain loops; the formula and nothing else."""
    loss, gradient = 0.0, np.zeros(log2_hazard_BTK.shape)
    num_bins, num_tasks = log2_hazard_BTK.shape[1:]
    for i, study in enumerate(studies):
        for k in set(range(num_tasks)) - study.excluded:
            stop = study.events.get(k, study.end_s)
            for b in range(num_bins):
                years = max(0, min(stop, edges_s[b + 1]) - max(study.entry_s, edges_s[b])) / YEAR
                happened = k in study.events and edges_s[b] <= stop < edges_s[b + 1]
                z = log2_hazard_BTK[i, b, k]
                loss += years * 2.0**z - happened * math.log(2) * z
                gradient[i, b, k] = math.log(2) * (years * 2.0**z - happened)
    return loss, gradient
