"""Shards labelled by other engines: which worker labels which shard changes no byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from presage_platform.errors import UsageError
from presage_platform.labeling import command
from presage_platform.labeling.command import Request
from presage_platform.parallel import ENGINES, map_partitions
from presage_platform.postgres.connection import open_database
from presage_platform.settings import ParallelSettings, Settings
from tests.lib.label_hospital import fill

# Its scheduler lives in threads of this process, whose sockets and logs outlive the last line of a test by moments.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def square(number: int) -> int:
    return number * number


@pytest.fixture
def hospital(settings: Settings) -> Iterator[Settings]:
    with open_database(settings, command="test") as database:
        with database.connect() as connection:
            fill(connection, persons=24)
            connection.commit()
        labeling = settings.labeling.model_copy(update={"k": 4, "min_events": 1, "n_shards": 4})
        yield settings.model_copy(update={"labeling": labeling})


def store_bytes(settings: Settings, label_hash: str) -> dict[str, bytes]:
    folder = settings.labels_dir / label_hash
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_l80_dask_and_local_processes_give_the_same_bytes(hospital: Settings) -> None:
    pytest.importorskip("distributed")
    found = []
    for parallel in (
        ParallelSettings(workers=1),
        ParallelSettings(workers=2),
        ParallelSettings(engine="dask", workers=2),
    ):
        settings = hospital.model_copy(update={"parallel": parallel})
        report = command.label(settings, Request(allow_fewer=True))
        assert not report.reused
        found.append(store_bytes(settings, report.label_hash))
        remove(settings.labels_dir / report.label_hash)
    assert found[0] == found[1] == found[2]
    assert sum(name.startswith("shard-") for name in found[0]) >= 4


def remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


def test_l80_dask_maps_partitions_lazily_and_in_any_order() -> None:
    pytest.importorskip("distributed")
    taken = []

    def partitions() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    assert sorted(map_partitions(square, partitions(), workers=2, engine="dask")) == [n * n for n in range(20)]
    assert taken == list(range(20))


def test_l80_an_engine_without_its_package_says_what_to_install() -> None:
    for engine in set(ENGINES) - {"local", "dask"}:
        with pytest.raises(UsageError, match=rf"install presage\[{engine}\]"):
            list(map_partitions(square, [1], engine=engine))
    with pytest.raises(UsageError, match="expected one of local, dask, ray, spark"):
        list(map_partitions(square, [1], engine="slurm"))
