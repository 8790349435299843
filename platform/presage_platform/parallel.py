"""One way to spread heavy work: map a pure, picklable function over partitions.

No scheduler, queue or RPC of our own: joblib's backends do the work. Which worker handles which partition, and when,
never changes a result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from presage_platform.errors import UsageError

Partition = TypeVar("Partition")
Result = TypeVar("Result")

ENGINES = ("local",)


def num_workers(workers: int | None) -> int:
    """Return the number of processes to use: what is asked for, else the cores this process may run on."""
    return workers if workers is not None else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def map_partitions(
    function: Callable[[Partition], Result],
    partitions: Iterable[Partition],
    *,
    workers: int | None = None,
    engine: str = "local",
) -> Iterator[Result]:
    """Yield `function(partition)` for each partition, as they finish; at most two a worker are in flight.

    Parameters
    ----------
    function
        Pure and picklable (declared at the top of a module).
    partitions
        Taken lazily: never a list of everything.
    workers
        Processes; None = all cores, 1 = in this process.
    engine
        ``"local"``: processes of this machine (joblib's loky).
    """
    if engine not in ENGINES:
        raise UsageError(f"engine `{engine}` is not available: expected one of {', '.join(ENGINES)}")
    number = num_workers(workers)
    if number == 1:
        yield from map(function, partitions)
        return
    from joblib import Parallel, delayed

    pool = Parallel(
        n_jobs=number, backend="loky", return_as="generator_unordered", pre_dispatch="2*n_jobs", batch_size=1
    )
    yield from pool(delayed(function)(partition) for partition in partitions)
