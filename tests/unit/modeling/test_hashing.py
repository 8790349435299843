"""The stateless hash: fixed for ever, well spread."""

from __future__ import annotations

import numpy as np

from presage_modeling.hashing import hash64, uniform


def test_m13_golden_values() -> None:
    assert [int(hash64(0)), int(hash64(1, 2, 3)), int(hash64(-1))] == [
        GOLDEN["0"],
        GOLDEN["1,2,3"],
        GOLDEN["-1"],
    ]
    assert hash64(7, 0, np.array([1, 2])).tolist() == [int(hash64(7, 0, 1)), int(hash64(7, 0, 2))]


def test_m13_it_is_splitmix64() -> None:
    """Recomputed in Python integers, without numpy."""
    mask = (1 << 64) - 1

    def mix(state: int) -> int:
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        return state ^ (state >> 31)

    state = 0
    for word in (12, 5, 99):
        state = mix(state ^ mix((word + 0x9E3779B97F4A7C15) & mask))
    assert int(hash64(12, 5, 99)) == state


def test_uniform_numbers_fill_the_unit_interval() -> None:
    values = uniform(3, np.arange(20_000))
    assert values.min() >= 0 and values.max() < 1
    counts, _ = np.histogram(values, bins=20, range=(0, 1))
    assert abs(counts - 1000).max() < 150


GOLDEN = {"0": 0x48218226FF3CD4BF, "1,2,3": 0x558194CB6FE3BC54, "-1": 0x445018E305810B78}
