"""A stateless source of order and of augmentation: the same numbers whatever the batch, the rank or the library.

`hash64` is fixed here once and for all (golden values in the tests): the order of a run survives upgrades of numpy and
torch, re-sharding of the store and a change of world size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # the odd constant and mixer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

Words = int | NDArray[np.int64] | NDArray[np.uint64]


def hash64(*words: Words) -> NDArray[np.uint64]:
    """Return 64 well mixed bits of the integers `words`; arrays are broadcast against each other.

    ``state = 0``, then for each word ``state = mix(state ^ mix(word + gamma))`` with SplitMix64's finaliser as mix.
    """
    state = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for word in words:
            state = _mix(state ^ _mix(_as_word(word) + _GAMMA))
    return np.asarray(state)


def uniform(*words: Words) -> NDArray[np.float64]:
    """Return numbers in [0, 1) from the upper 53 bits of `hash64`."""
    return (hash64(*words) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _as_word(word: Words) -> NDArray[np.uint64]:
    if isinstance(word, int):
        return np.asarray(word & 0xFFFFFFFFFFFFFFFF, dtype=np.uint64)
    return word.astype(np.int64).view(np.uint64) if word.dtype != np.uint64 else word.view(np.uint64)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return np.asarray(state ^ (state >> np.uint64(31)))
