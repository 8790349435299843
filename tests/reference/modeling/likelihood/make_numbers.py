"""Makes golden.json: the likelihood of two studies by plain Python floats, without presage and without NumPy.

Run: python tests/reference/modeling/likelihood/make_numbers.py > tests/reference/modeling/likelihood/golden.json
"""

from __future__ import annotations

import json
import math

EDGES_YEARS = [0.0, 0.5, 2.0, math.inf]
Z = [  # log2 of events per year: study, bin, task
    [[-3, -2, -4], [-2.5, -1, -4.5], [-2, 0, -5]],
    [[-3, -1, -2], [-3.5, -1.5, -2.5], [-4, -2, -3]],
]
FOLLOW_UP_YEARS = [3.0, 0.25]
EVENTS = {(0, 1): 1.0}
PREVALENT = {(1, 2)}
BINS = TASKS = 3


def exposure(stop: float, b: int) -> float:
    return max(0.0, min(stop, EDGES_YEARS[b + 1]) - EDGES_YEARS[b])


def mean_loss(excluded: set[tuple[int, int]]) -> float:
    total, pairs = 0.0, 0
    for i in range(2):
        for k in range(TASKS):
            if (i, k) in excluded:
                continue
            pairs += 1
            stop = EVENTS.get((i, k), FOLLOW_UP_YEARS[i])
            for b in range(BINS):
                event = (i, k) in EVENTS and EDGES_YEARS[b] <= stop < EDGES_YEARS[b + 1]
                total += exposure(stop, b) * 2 ** Z[i][b][k] - event * math.log(2) * Z[i][b][k]
    return total / (pairs * BINS)


def gradient(b: int, k: int) -> float:
    stop = EVENTS.get((0, k), FOLLOW_UP_YEARS[0])
    event = (0, k) in EVENTS and EDGES_YEARS[b] <= stop < EDGES_YEARS[b + 1]
    pairs = 2 * TASKS - len(PREVALENT)
    return math.log(2) * (exposure(stop, b) * 2 ** Z[0][b][k] - event) / (pairs * BINS)


def survival(k: int, years: float) -> float:
    return math.exp(-sum(2 ** Z[0][b][k] * exposure(years, b) for b in range(BINS)))


def incidence(k: int, competing: int, years: float) -> float:
    total = 0.0
    for b in range(BINS):
        begin = EDGES_YEARS[b]
        alive = survival(k, begin) * survival(competing, begin)
        own, other = 2 ** Z[0][b][k], 2 ** Z[0][b][competing]
        total += alive * own / (own + other) * (1 - math.exp(-(own + other) * exposure(years, b)))
    return total


if __name__ == "__main__":
    numbers = {
        "mean_with_mask": mean_loss(PREVALENT),
        "mean_without_mask": mean_loss(set()),
        "gradient_b1_k1": gradient(1, 1),
        "gradient_b0_k1": gradient(0, 1),
        "gradient_b2_k1": gradient(2, 1),
        "survival_task1_1y": survival(1, 1.0),
        "survival_task1_3y": survival(1, 3.0),
        "incidence_task1_3y_competing_task0": incidence(1, 0, 3.0),
        "risk_task1_3y": 1 - survival(1, 3.0),
    }
    print(json.dumps(numbers, indent=2))
