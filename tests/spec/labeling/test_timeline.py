"""The timeline snapshot: what makes an event, how it is sorted, what names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from presage_platform.errors import IntegrityError, SettingsError
from presage_platform.labeling import timeline
from presage_platform.labeling.event_rows import MIDNIGHT, events_of, settle_midnights
from presage_platform.labeling.event_tables import EVENT_TABLES, check_filters
from presage_platform.labeling.side_tables import deaths, visits
from presage_platform.labeling.timeline import (
    EVENT_DTYPE,
    Snapshot,
    choose_n_shards,
    shard_of_person,
    sort_shard,
)
from presage_platform.labeling.timeline_writer import count_posthumous, stage_shard, write_snapshot
from presage_platform.settings import LabelingSettings
from tests.lib.timelines import at, day_end

CUT = day_end("2024-12-31")


def batch(**columns: list[int]) -> dict[str, Any]:
    size = len(next(iter(columns.values())))
    defaults = {"person_id": [1] * size, "concept": [5] * size, "source_concept": [0] * size}
    defaults |= {"time_s": [at("2020-03-01 10:00")] * size, "is_date": [0] * size}
    return {name: np.array(values) for name, values in {**defaults, **columns}.items()}


def events(*rows: tuple[int, int, int, int]) -> Any:
    """Return events of (person, time, concept, flags)."""
    return np.array(list(rows), dtype=EVENT_DTYPE)


@pytest.mark.parametrize(
    ("policy", "found"), [("unmapped", [(5, 0), (8, 16)]), ("all", [(5, 0), (7, 16), (8, 16)]), ("none", [(5, 0)])]
)
def test_l07_source_concepts(policy: str, found: list[tuple[int, int]]) -> None:
    """Concept 0 gives no standard event; the source concept enters by policy, with flag bit 4."""
    rows = batch(concept=[5, 0, 0], source_concept=[7, 8, 0])
    if policy == "none":
        rows["source_concept"][:] = 0
    made = events_of(rows, 0, policy)
    assert sorted((int(e["concept"]), int(e["flags"]) & 16) for e in made) == found


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        (
            {"type_concept": {"conditions": (1,)}},
            "type_concept names conditions, expected one of condition_occurrence,",
        ),
        ({"status_concept": {"measurement": (1,)}}, "status_concept names measurement, expected one of condition_occ"),
    ],
)
def test_l07_a_filter_of_an_unknown_table_is_refused(filters: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        check_filters(LabelingSettings(**filters))
    check_filters(LabelingSettings(type_concept={"measurement": (1,)}, status_concept={"condition_occurrence": (2,)}))


def test_l07_every_table_has_its_bit() -> None:
    assert {table.name: table.bit for table in EVENT_TABLES} == {
        "condition_occurrence": 0,
        "procedure_occurrence": 1,
        "drug_exposure": 2,
        "measurement": 3,
        "observation": 4,
        "device_exposure": 5,
        "visit_occurrence": 6,
    }


def test_l03_midnights_become_bare_dates_in_a_table_of_midnights() -> None:
    """A datetime at 00:00:00 in a column where more than half of the rows are midnight has day precision."""
    made = events_of(batch(time_s=[at("2020-03-01"), at("2020-03-01 10:00")]), 3, "none")
    assert made["flags"].tolist() == [3 | MIDNIGHT, 3]
    assert settle_midnights(made.copy(), {3})["flags"].tolist() == [3 | 8, 3]
    assert settle_midnights(made.copy(), {0})["flags"].tolist() == [3, 3]


def test_l10_a_person_is_wholly_in_one_shard() -> None:
    """First 8 hex digits of sha256(str(person_id)) modulo n_shards; the power of two nearest to events / 4 M."""
    assert shard_of_person(1, 4) == int("6b86b273", 16) % 4
    sizes = {0: 1, 4_000_000: 1, 5_900_000: 1, 6_100_000: 2, 20_000_000: 4, 225_000_000: 64}
    assert {size: choose_n_shards(size) for size in sizes} == sizes


def test_l11_sorted_by_person_time_concept_flags_without_duplicates() -> None:
    shard = sort_shard(events((2, 50, 1, 0), (1, 90, 3, 0), (1, 10, 3, 8), (1, 10, 3, 0), (1, 10, 2, 0), (2, 50, 1, 0)))
    assert shard.person_id.tolist() == [1, 2] and shard.offset.tolist() == [0, 4, 5]
    assert shard.time.tolist() == [10, 10, 10, 90, 50]
    assert shard.concept.tolist() == [2, 3, 3, 3, 1] and shard.flags.tolist() == [0, 0, 8, 0, 0]


@pytest.mark.parametrize("spread", [1, 1_000_003])
def test_l11_both_ways_of_sorting_give_the_same_shard(monkeypatch: pytest.MonkeyPatch, spread: int) -> None:
    """One number for (person, time, concept, flags), or columns where that does not fit; ids far apart or close."""
    rng = np.random.default_rng(3)
    rows = np.empty(5_000, dtype=EVENT_DTYPE)
    rows["person_id"] = rng.integers(1, 40, 5_000) * spread
    rows["time"] = rng.integers(-(10**9), 10**9, 5_000) // 10**7 * 10**7
    rows["concept"] = rng.integers(-20, 500, 5_000) * min(spread, 4_000_000)
    rows["flags"] = rng.choice([0, 3, 8, 11, 27], 5_000)
    one = sort_shard(rows.copy())
    by_columns = timeline._sort_by_columns(rows["person_id"], rows["time"], timeline._minor(rows))
    monkeypatch.setattr(timeline, "WIDE", 0)
    without_tables = sort_shard(rows.copy())
    expected = sorted({tuple(row) for row in rows[["person_id", "time", "concept", "flags"]].tolist()})
    for made in (one, by_columns, without_tables):
        assert made.sha256 == one.sha256
        person = np.repeat(made.person_id, np.diff(made.offset)).tolist()
        found = list(zip(person, made.time.tolist(), made.concept.tolist(), made.flags.tolist(), strict=True))
        assert found == expected


def test_l11_an_empty_shard_is_a_shard() -> None:
    made = sort_shard(np.empty(0, dtype=EVENT_DTYPE))
    assert made.offset.tolist() == [0] and len(made.person_id) == len(made.time) == 0


def snapshot(folder: Path, *rows: tuple[int, int, int, int], version: str = "v1", **settings: Any) -> Snapshot:
    empty = {
        "person_id": pa.array([], pa.int64()),
        "start_s": pa.array([], pa.int64()),
        "end_s": pa.array([], pa.int64()),
    }
    sides = {
        "person": pa.table({"person_id": pa.array([1, 2], pa.int64())}),
        "observation_period": pa.table(empty),
        "visit": pa.table({**empty, "visit_occurrence_id": pa.array([], pa.int64())}),
        "death": pa.table(
            {"person_id": pa.array([1], pa.int64()), "death_s": pa.array([at("2020-01-01")], pa.int64())}
        ),
    }
    return write_snapshot(
        folder,
        iter([sort_shard(events(*rows))]),
        sides,
        settings={"data_cut_s": CUT, **settings},
        vocabulary_version=version,
        counts=lambda: {"dropped": 3},
    )


def test_l14_the_id_depends_on_content_and_settings_only(tmp_path: Path) -> None:
    rows = [(1, 10, 3, 0), (2, 20, 4, 8)]
    first = snapshot(tmp_path / "a", *rows)
    assert snapshot(tmp_path / "b", *reversed(rows), rows[0]).snapshot_id == first.snapshot_id
    assert snapshot(tmp_path / "a", (1, 10, 3, 0), (2, 20, 4, 0)).snapshot_id != first.snapshot_id
    assert snapshot(tmp_path / "a", *rows, version="v2").snapshot_id != first.snapshot_id
    assert snapshot(tmp_path / "a", *rows, source_concepts="all").snapshot_id != first.snapshot_id


def test_l14_a_shard_that_a_worker_staged_gives_the_same_snapshot(tmp_path: Path) -> None:
    rows = [(1, 10, 900, 0), (1, at("2020-06-01"), 500, 3), (2, 20, 500, 8), (2, 30, 900, 1)]
    direct = snapshot(tmp_path / "direct", *rows)
    folder = tmp_path / "staged"
    folder.mkdir()
    staged = stage_shard(folder / "waiting.parquet", sort_shard(events(*rows)), direct.table("death"))
    sides = {name: direct.table(name) for name in ("person", "observation_period", "visit", "death")}
    made = write_snapshot(
        folder,
        iter([staged]),
        sides,
        settings={"data_cut_s": CUT},
        vocabulary_version="v1",
        counts=lambda: {"dropped": 3},
    )
    assert made.manifest == direct.manifest and made.manifest["counts"]["events_long_after_death"] == 1
    assert made.table("concept_counts").equals(direct.table("concept_counts"))
    assert (made.path / "shard-00000.parquet").read_bytes() == (direct.path / "shard-00000.parquet").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == [made.snapshot_id]


def test_l15_an_equal_extraction_is_the_same_snapshot(tmp_path: Path) -> None:
    first = snapshot(tmp_path, (1, 10, 3, 0))
    stamp = (first.path / "manifest.json").stat().st_mtime_ns
    again = snapshot(tmp_path, (1, 10, 3, 0))
    assert again.path == first.path and (again.path / "manifest.json").stat().st_mtime_ns == stamp


def test_l16_a_failed_extraction_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Any:
        yield sort_shard(events((1, 10, 3, 0)))
        raise RuntimeError("the connection went away")

    sides = {
        name: pa.table({"person_id": pa.array([], pa.int64())}) for name in ("person", "observation_period", "visit")
    }
    sides["death"] = pa.table({"person_id": pa.array([], pa.int64()), "death_s": pa.array([], pa.int64())})
    with pytest.raises(RuntimeError):
        write_snapshot(tmp_path, failing(), sides, settings={}, vocabulary_version="", counts=dict)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wide", [timeline.WIDE, 0])
def test_l12_the_cached_arrays_are_the_parquet_shard_with_dense_concepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wide: int
) -> None:
    monkeypatch.setattr(timeline, "WIDE", wide)
    made = snapshot(tmp_path, (1, 10, 900, 0), (2, 20, 500, 8), (2, 30, 900, 1))
    shard = made.shard(0)
    assert made.concepts.tolist() == [500, 900]
    assert made.concepts[shard.concept].tolist() == [900, 500, 900] and shard.time.tolist() == [10, 20, 30]
    counts = made.table("concept_counts").to_pylist()
    assert [(c["concept"], c["rows"], c["persons"], c["tables"]) for c in counts] == [(500, 1, 1, 1), (900, 2, 2, 3)]


def test_l14_verify_finds_a_changed_shard(tmp_path: Path) -> None:
    made = snapshot(tmp_path, (1, 10, 3, 0))
    made.verify()
    other = snapshot(tmp_path, (1, 11, 3, 0))
    (made.path / "shard-00000.parquet").write_bytes((other.path / "shard-00000.parquet").read_bytes())
    with pytest.raises(IntegrityError, match="shard 0"):
        made.verify()


def test_l26_events_long_after_death_are_counted_as_faults(tmp_path: Path) -> None:
    """Administrative rows up to 60 days are dropped silently, later ones are a fault of the data."""
    shard = sort_shard(events((1, at("2020-03-01"), 3, 0), (1, at("2020-03-02"), 3, 0), (2, at("2023-01-01"), 3, 0)))
    assert count_posthumous(shard, np.array([1]), np.array([at("2020-01-01")])) == 1


def test_l24_the_earliest_death_counts_and_conflicts_are_counted() -> None:
    raw = pa.table(
        {
            "person_id": [1, 1, 2, 2, 3],
            "day_s": [at(d) for d in ("2021-05-02", "2021-05-01", "2021-01-01", "2021-01-01", "2030-01-01")],
            "moment_s": pa.array([None, None, at("2021-01-01 08:00"), None, None], pa.int64()),
        }
    )
    counts: dict[str, int] = {}
    table, rows = deaths(raw, CUT, counts)
    assert table.column("person_id").to_pylist() == [1, 2]
    assert table.column("death_s").to_pylist() == [day_end("2021-05-01"), at("2021-01-01 08:00")]
    assert counts == {"death rows after the data cut": 1, "persons with conflicting deaths": 1}
    assert len(rows[0]) == 4, "every death row up to the data cut is an event"


def test_l13_a_visit_without_times_covers_its_days() -> None:
    raw = pa.table(
        {
            "visit_occurrence_id": [5, 4],
            "person_id": [1, 1],
            "concept": [9201, 9202],
            "start_day_s": [at("2020-03-01"), at("2020-02-01")],
            "end_day_s": [at("2020-03-03"), at("2020-02-01")],
            "start_moment_s": pa.array([None, at("2020-02-01 08:00")], pa.int64()),
            "end_moment_s": pa.array([None, at("2020-02-01 07:00")], pa.int64()),
            "site": pa.array([None, "A"]),
        }
    )
    counts: dict[str, int] = {}
    table = visits(raw, counts)
    assert table.column("visit_occurrence_id").to_pylist() == [4, 5]
    assert table.column("start_s").to_pylist() == [at("2020-02-01 08:00"), at("2020-03-01")]
    assert table.column("end_s").to_pylist() == [at("2020-02-01 08:00"), day_end("2020-03-03")]
    assert counts == {"visits that end before they start": 1}
