"""One way to spread heavy work: map a pure, picklable function over partitions.

No scheduler, queue or RPC of our own: joblib's backends do the work, on the processes of this machine or on a cluster
that stands already. Which worker handles which partition, and when, never changes a result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from presage_platform.errors import UsageError

Partition = TypeVar("Partition")
Result = TypeVar("Result")

ENGINES = ("local", "dask", "ray", "spark")
IN_FLIGHT_A_WORKER = 2
ASSUMED_CLUSTER_WORKERS = 8


def num_workers(workers: int | None) -> int:
    """Return the number of processes to use: what is asked for, else the cores this process may run on."""
    return workers if workers is not None else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def map_partitions(
    function: Callable[[Partition], Result],
    partitions: Iterable[Partition],
    *,
    workers: int | None = None,
    engine: str = "local",
    address: str | None = None,
) -> Iterator[Result]:
    """Yield `function(partition)` for each partition, as they finish; at most two a worker are in flight.

    Parameters
    ----------
    function
        Pure and picklable (declared at the top of a module).
    partitions
        Taken lazily: never a list of everything.
    workers
        Processes; None = all cores, 1 = in this process. On a cluster: tasks at once (None = 8).
    engine
        ``"local"``: processes of this machine (joblib's loky). ``"dask"``, ``"ray"``, ``"spark"``: a cluster whose
        workers see the same files under the same paths; each needs the extra of its name.
    address
        Of the cluster: a Dask scheduler, a Ray head, a Spark master. None starts, or finds, one on this machine.

    Raises
    ------
    UsageError
        If the engine is unknown or its package is not installed.
    """
    if engine not in ENGINES:
        raise UsageError(f"engine `{engine}` is not available: expected one of {', '.join(ENGINES)}")
    if engine == "local" and num_workers(workers) == 1:
        yield from map(function, partitions)
        return
    from joblib import Parallel, delayed, parallel_config

    connection: AbstractContextManager[Any] = nullcontext()
    backend, options = "loky", {"n_jobs": num_workers(workers)}
    if engine != "local":
        backend, options, connection = _cluster(engine, address, workers or ASSUMED_CLUSTER_WORKERS)
    with connection, parallel_config(backend=backend, **options):
        if engine == "local" or engine == "dask":
            pool = Parallel(return_as="generator_unordered", pre_dispatch=f"{IN_FLIGHT_A_WORKER}*n_jobs", batch_size=1)
            yield from pool(delayed(function)(partition) for partition in partitions)
        else:  # these backends give results in a list only
            yield from Parallel(pre_dispatch=f"{IN_FLIGHT_A_WORKER}*n_jobs", batch_size=1)(
                delayed(function)(partition) for partition in partitions
            )


def _cluster(engine: str, address: str | None, workers: int) -> tuple[str, dict[str, Any], AbstractContextManager[Any]]:
    """Return joblib's name of a backend, its options, and the connection that must be open around it."""
    try:
        return {"dask": _dask, "ray": _ray, "spark": _spark}[engine](address, workers)
    except ImportError:
        raise UsageError(
            f"engine `{engine}` needs a package that is not installed: install presage[{engine}], or set [parallel] "
            "engine = local"
        ) from None


def _dask(address: str | None, workers: int) -> tuple[str, dict[str, Any], AbstractContextManager[Any]]:
    from distributed import Client, LocalCluster

    if address is not None:
        return "dask", {"n_jobs": workers}, Client(address)  # type: ignore[no-untyped-call]
    # Only on this machine, and without a dashboard: nothing listens to the outside.
    cluster = LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    )
    client = Client(cluster)  # type: ignore[no-untyped-call]
    return "dask", {"n_jobs": workers}, _Both(client, cluster)


def _ray(address: str | None, workers: int) -> tuple[str, dict[str, Any], AbstractContextManager[Any]]:
    import ray
    from ray.util.joblib import register_ray

    ray.init(address=address, ignore_reinit_error=True, include_dashboard=False)
    register_ray()
    return "ray", {"n_jobs": workers}, nullcontext()


def _spark(address: str | None, workers: int) -> tuple[str, dict[str, Any], AbstractContextManager[Any]]:
    from joblibspark import register_spark
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName("presage")
    session = (builder.master(address) if address is not None else builder).getOrCreate()
    register_spark()
    return "spark", {"n_jobs": workers, "spark": session}, nullcontext()


class _Both:
    """A client and the cluster that was started for it, closed in this order."""

    def __init__(self, client: Any, cluster: Any) -> None:
        self.client, self.cluster = client, cluster

    def __enter__(self) -> Any:
        return self.client

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.cluster.close()
