"""The spool between tables and shards: bounded memory, counts by shard, the same shards from any order of batches."""

from __future__ import annotations

import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from presage_platform.labeling.event_rows import EARLIEST_S
from presage_platform.labeling.event_tables import EVENT_TABLES
from presage_platform.labeling.spool import UNKNOWN, ShardLookup, Spool, counts_by_name, date_tables
from presage_platform.labeling.timeline import shard_of_person
from tests.lib.timelines import day_end

CUT = day_end("2024-12-31")
ROWS = 50_000


def rows_of(seed: int, persons: int, rows: int = ROWS) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "person_id": rng.integers(1, persons + 1, rows),
        "concept": rng.integers(1, 500, rows).astype(np.int32),
        "source_concept": np.zeros(rows, dtype=np.int32),
        "time_s": rng.integers(1, CUT, rows),
        "is_date": rng.random(rows) < 0.3,
    }


def peak_of(folder: Path, n_shards: int) -> int:
    """Return the peak bytes of spilling and sorting so many shards, with as many batches."""
    folder.mkdir()
    lookup = ShardLookup(np.arange(1, 2_001), n_shards)
    tracemalloc.start()
    with Spool(folder, lookup, CUT) as spool:
        for batch in range(n_shards):
            spool.add(EVENT_TABLES[0], rows_of(batch, 2_000), "unmapped", None)
        events = sum(len(spool.sorted_shard(number, set()).time) for number in range(n_shards))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert events > 0.99 * ROWS * n_shards
    return peak


def test_l17_memory_does_not_grow_with_the_number_of_events(tmp_path: Path) -> None:
    """A batch on the way in, a shard on the way out: eight times the events need no more memory."""
    few, many = peak_of(tmp_path / "few", 4), peak_of(tmp_path / "many", 32)
    assert many < 1.5 * few  # shards differ a little in size, and each has a small write buffer
    assert list((tmp_path / "many").iterdir()) == [], "a spill has no name: a killed run leaves nothing"


def test_l10_as_many_shards_as_files_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    from presage_platform.errors import SettingsError
    from presage_platform.labeling import spool

    limits = [(100, 4_096)]
    monkeypatch.setattr(spool.resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(spool.resource, "setrlimit", lambda _, found: limits.append(found))
    spool._allow_open_files(2_048)
    assert limits[-1] == (2_048 + spool.SPARE_FILES, 4_096)
    with pytest.raises(SettingsError, match="10000 shards need as many open files, the system allows 4096"):
        spool._allow_open_files(10_000)


def test_l09_the_order_of_batches_and_threads_changes_no_shard(tmp_path: Path) -> None:
    lookup = ShardLookup(np.arange(1, 101), 4)
    batches = [rows_of(seed, 100, 2_000) for seed in range(6)]
    found = []
    for name, order in (("one", batches), ("other", batches[::-1])):
        (tmp_path / name).mkdir()
        with Spool(tmp_path / name, lookup, CUT) as spool:
            threads = [
                threading.Thread(target=spool.add, args=(EVENT_TABLES[2], batch, "unmapped", None)) for batch in order
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            found.append([spool.sorted_shard(number, set()).sha256 for number in range(4)])
    assert found[0] == found[1]


@pytest.mark.parametrize("width", [1 << 26, 0])
def test_l10_a_person_is_looked_up_by_table_or_by_search(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    from presage_platform.labeling import spool

    monkeypatch.setattr(spool, "WIDE", width)
    lookup = ShardLookup(np.array([5, 7, 900]), 8)
    wanted = np.array([7, 6, 900, 5, 901, 4, -3, 10**12])
    expected = [shard_of_person(p, 8) if p in (5, 7, 900) else UNKNOWN for p in wanted.tolist()]
    assert lookup.of(wanted).tolist() == expected


def test_l09_what_is_dropped_is_counted_once_and_by_shard(tmp_path: Path) -> None:
    lookup = ShardLookup(np.array([1, 2]), 2)
    batch = {
        "person_id": np.array([1, 1, 2, 99, 99]),
        "concept": np.full(5, 7, dtype=np.int32),
        "source_concept": np.zeros(5, dtype=np.int32),
        "time_s": np.array([0, CUT + 1, EARLIEST_S - 1, 0, CUT + 1]),
        "is_date": np.zeros(5, dtype=np.bool_),
    }
    with Spool(tmp_path, lookup, CUT) as spool:
        spool.add(EVENT_TABLES[0], batch, "unmapped", None)
    assert counts_by_name(spool.counts) == {
        "rows read from condition_occurrence": 5,
        "dropped, condition_occurrence: before 1900 or infinite": 1,
        "dropped, condition_occurrence: after the data cut": 2,
        "dropped, person not in person": 1,
    }
    assert spool.counts["condition_occurrence"]["rows"].sum() == 5
    assert date_tables(EVENT_TABLES, spool.counts) == {0}, "the one row that is left stands at midnight"
