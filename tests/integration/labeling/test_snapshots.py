"""Snapshots from a real PostgreSQL: filters, value bins, parallel connections, and refresh equal to a full read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from presage_platform.labeling import extraction, refresh
from presage_platform.labeling.extraction import extract_snapshot
from presage_platform.labeling.timeline import Snapshot
from presage_platform.labeling.value_bins import SCHEMA, read_bins
from presage_platform.postgres.connection import Database, open_database
from presage_platform.settings import LabelingSettings, Settings
from tests.lib.label_hospital import fill

CONDITION = (
    "INSERT INTO condition_occurrence (condition_occurrence_id, person_id, condition_concept_id, condition_start_date,"
    " condition_start_datetime, condition_type_concept_id, condition_status_concept_id)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s)"
)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    with open_database(settings, command="test") as opened:
        with opened.connect() as connection:
            fill(connection)
        yield opened


@pytest.fixture
def extract(database: Database, tmp_path: Path) -> Callable[..., Snapshot]:
    """Extract into a folder of the test, with some keys of `[labeling]`."""

    def run(folder: str = "timeline", **changes: Any) -> Snapshot:
        settings = LabelingSettings(**{"n_shards": 8, "refresh": "fingerprint", **changes})
        return extract_snapshot(database, settings, tmp_path / folder)

    return run


def execute(database: Database, *statements: str) -> None:
    with database.connect() as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def content(snapshot: Snapshot) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(snapshot.path.iterdir()) if path.is_file()}


def events(snapshot: Snapshot, table: int) -> set[tuple[int, int]]:
    """Return (person, concept) of a table's events."""
    found = set()
    for path in snapshot.path.glob("shard-*.parquet"):
        for row in pq.read_table(path).to_pylist():
            if row["flags"] & 7 == table:
                found.add((row["person_id"], row["concept"]))
    return found


CHANGES = {
    "insert": ["INSERT INTO measurement (measurement_id, person_id, measurement_concept_id, measurement_date,"
               " measurement_type_concept_id) VALUES (70001, 3, 1006, '2020-02-02', 32817)"],
    "update": ["UPDATE condition_occurrence SET condition_concept_id = 1003 WHERE condition_occurrence_id ="
               " (SELECT min(condition_occurrence_id) FROM condition_occurrence WHERE condition_concept_id <> 1003)"],
    "time": ["UPDATE drug_exposure SET drug_exposure_start_datetime = drug_exposure_start_datetime + interval '1 second'"
             " WHERE drug_exposure_id = (SELECT min(drug_exposure_id) FROM drug_exposure"
             " WHERE drug_exposure_start_datetime IS NOT NULL)"],
    "delete": ["DELETE FROM condition_occurrence WHERE person_id = 5"],
    "death": ["INSERT INTO death (person_id, death_date) VALUES (2, '2021-02-02')"],
    "person": ["INSERT INTO person (person_id, gender_concept_id, year_of_birth, race_concept_id, ethnicity_concept_id)"
               " VALUES (4711, 8532, 1970, 8527, 0)",
               "INSERT INTO condition_occurrence (condition_occurrence_id, person_id, condition_concept_id,"
               " condition_start_date, condition_type_concept_id) VALUES (70002, 4711, 1001, '2020-02-02', 32817)"],
    "person who goes": ["DELETE FROM condition_occurrence WHERE person_id = 7", "DELETE FROM measurement WHERE person_id = 7",
                        "DELETE FROM drug_exposure WHERE person_id = 7", "DELETE FROM visit_occurrence WHERE person_id = 7",
                        "DELETE FROM observation_period WHERE person_id = 7", "DELETE FROM study_link WHERE person_id = 7",
                        "DELETE FROM person WHERE person_id = 7"],
    "a table of midnights": ["UPDATE measurement SET measurement_datetime = measurement_date::timestamp"],
    "one table becomes empty": ["DELETE FROM measurement"],
}  # fmt: skip


@pytest.mark.parametrize("change", list(CHANGES))
def test_l15_a_refresh_equals_a_full_extraction_byte_for_byte(
    extract: Callable[..., Snapshot], database: Database, change: str
) -> None:
    first = extract()
    execute(database, *CHANGES[change])
    again = extract()
    full = extract("elsewhere")
    assert again.snapshot_id == full.snapshot_id != first.snapshot_id
    assert content(again) == content(full)


def test_l15_only_changed_shards_are_read_and_the_others_linked(
    extract: Callable[..., Snapshot], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = extract()
    execute(database, *CHANGES["insert"])
    read = []
    original = extraction.Reader.read
    monkeypatch.setattr(
        extraction.Reader, "read", lambda self, parts, shards: read.append(set(shards)) or original(self, parts, shards)
    )
    again = extract()
    changed = int(again.shards_of(_ids(3))[0])
    assert read == [{changed}]
    for number in range(8):
        name = f"shard-{number:05d}.parquet"
        assert os.path.samefile(first.path / name, again.path / name) == (number != changed)


def test_l15_without_a_change_nothing_is_read(
    extract: Callable[..., Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = extract()
    monkeypatch.setattr(extraction, "_batches", lambda *_: pytest.fail("a row was read"))
    assert extract().snapshot_id == first.snapshot_id


def test_l15_with_a_ledger_the_touched_persons_are_read(
    extract: Callable[..., Snapshot], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load that is over vouches for the persons that it touched; while one goes on, the rows themselves are compared."""
    load = "INSERT INTO run (command, started_at, state, phase) VALUES ('etl fhir', now(), '{}', 'done')"
    execute(database, load.format("finished"))
    with monkeypatch.context() as patch:
        patch.setattr(refresh, "fingerprints", lambda *_: pytest.fail("rows were compared"))
        first = extract(refresh="auto")
        execute(
            database,
            *CHANGES["insert"],
            load.format("finished"),
            "INSERT INTO touched_person (run_no, person_id) SELECT max(run_no), 3 FROM run",
        )
        again = extract(refresh="auto")
        full = extract("elsewhere", refresh="auto")
    assert again.snapshot_id == full.snapshot_id != first.snapshot_id and content(again) == content(full)
    kept = [os.path.samefile(first.path / name, again.path / name) for name in _shard_names()]
    assert kept.count(False) == 1
    execute(database, load.format("running"), *CHANGES["delete"])
    assert extract(refresh="auto").snapshot_id == extract("other").snapshot_id


def test_l15_another_server_version_is_read_in_full(extract: Callable[..., Snapshot], tmp_path: Path) -> None:
    first = extract()
    path = first.path / "refresh.json"
    known = json.loads(path.read_text())
    assert refresh.newest(tmp_path / "timeline", known) is not None
    path.write_text(json.dumps({**known, "server_major": known["server_major"] - 1}))
    assert refresh.newest(tmp_path / "timeline", known) is None


def test_l89_a_refresh_sees_one_state_while_another_connection_writes(
    extract: Callable[..., Snapshot], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract()
    execute(database, *CHANGES["update"])
    expected = extract("elsewhere")
    compare, written = refresh.fingerprints, []

    def writing_between(*arguments: Any) -> Any:
        found = compare(*arguments)
        if not written:
            execute(database, *CHANGES["delete"], *CHANGES["insert"])
            written.append(True)
        return found

    monkeypatch.setattr(refresh, "fingerprints", writing_between)
    again = extract()
    assert written and again.snapshot_id == expected.snapshot_id and content(again) == content(expected)
    assert extract().snapshot_id != again.snapshot_id


def test_l09_parts_and_connections_change_no_byte(
    extract: Callable[..., Snapshot], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = extract("one", connections=1)
    with database.connect() as connection:
        assert len(extraction.table_parts(connection, database)) == 7, "one part a small table"
    monkeypatch.setattr(extraction, "PAGES_A_PART", 1)
    with database.connect() as connection:
        parts = extraction.table_parts(connection, database)
    assert len([part for part in parts if part.source.name == "condition_occurrence"]) > 1
    many = extract("many", connections=4)
    assert content(many) == content(one)


def test_l09_a_failing_connection_fails_the_extraction_and_leaves_nothing(
    extract: Callable[..., Snapshot], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("the connection went away")

    monkeypatch.setattr(extraction, "_batches", failing)
    with pytest.raises(RuntimeError):
        extract(connections=2)
    assert list((tmp_path / "timeline").iterdir()) == []


def test_l10_the_server_and_the_product_agree_on_shards(database: Database) -> None:
    from sqlalchemy import literal, select

    from presage_platform.labeling.event_tables import literal_sql, shard_expression
    from presage_platform.labeling.timeline import shard_of_person

    for person in (1, 17, 4711, 10**15, 2**62):
        query = literal_sql(select(shard_expression(literal(person), 64)), database)
        with database.connect() as connection:
            row = connection.execute(query).fetchone()
        assert row is not None and int(row[0]) == shard_of_person(person, 64)


def test_l07_rows_are_filtered_by_type_and_status(extract: Callable[..., Snapshot], database: Database) -> None:
    """A problem list is not billing: filters are per table."""
    with database.connect() as connection:
        for number, (kind, status) in enumerate([(32840, 32902), (32840, 32908), (32810, 32902)]):
            connection.execute(CONDITION, [80_000 + number, 1, 9_001 + number, "2020-01-01", None, kind, status])
        connection.commit()
    every = events(extract("all"), 0)
    assert {(1, 9001), (1, 9002), (1, 9003)} < every
    filtered = extract(type_concept={"condition_occurrence": (32840,)})
    assert events(filtered, 0) == {(1, 9001), (1, 9002)}
    assert events(filtered, 3) == events(extract("all"), 3) != set(), "other tables are not filtered"
    both = extract(type_concept={"condition_occurrence": (32840,)}, status_concept={"condition_occurrence": (32902,)})
    assert events(both, 0) == {(1, 9001)} and both.snapshot_id != filtered.snapshot_id


BINS = [
    {"bin_id": -1, "concept_id": 1006, "unit_concept_id": 8840, "low": None, "high": 1.0, "range": None},
    {"bin_id": -2, "concept_id": 1006, "unit_concept_id": 8840, "low": 1.0, "high": 2.0, "range": None},
    {"bin_id": -3, "concept_id": 1006, "unit_concept_id": 8840, "low": 2.0, "high": None, "range": None},
    {"bin_id": -4, "concept_id": 1006, "unit_concept_id": None, "low": None, "high": None, "range": "below_range"},
    {"bin_id": -5, "concept_id": 1006, "unit_concept_id": None, "low": None, "high": None, "range": "above_range"},
]


def test_l08_an_event_carries_its_bin_as_well_as_its_concept(
    extract: Callable[..., Snapshot], database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "bins.parquet"
    pq.write_table(pa.Table.from_pylist(BINS, schema=SCHEMA), path)
    rows: list[tuple[float | None, int | None, float | None, float | None, set[int]]] = [
        (0.9, 8840, 0.5, 1.5, {-1}),
        (1.0, 8840, 0.5, 1.5, {-2}),
        (2.0, 8840, 0.5, 1.5, {-3, -5}),
        (0.4, 8840, 0.5, 1.5, {-1, -4}),
        (5.0, 9999, None, None, set()),  # another unit, no range
        (5.0, None, 0.0, 4.0, {-5}),
        (None, 8840, 0.5, 1.5, set()),
    ]
    with database.connect() as connection:
        connection.execute("DELETE FROM measurement")
        for number, (value, unit, low, high, _) in enumerate(rows):
            connection.execute(
                "INSERT INTO measurement (measurement_id, person_id, measurement_concept_id, measurement_date,"
                " measurement_type_concept_id, value_as_number, unit_concept_id, range_low, range_high)"
                " VALUES (%s, %s, 1006, '2020-01-01', 32817, %s, %s, %s, %s)",
                [number + 1, number + 1, value, unit, low, high],
            )
        connection.commit()
    snapshot, plain = extract(value_bins=path), extract()
    expected = {(n + 1, concept) for n, row in enumerate(rows) for concept in {1006, *row[4]}}
    assert events(snapshot, 3) == expected
    assert events(plain, 3) == {(n + 1, 1006) for n in range(len(rows))} and plain.snapshot_id != snapshot.snapshot_id
    assert snapshot.bin_concepts() == {row["bin_id"]: (1006,) for row in BINS} and plain.bin_concepts() == {}
    assert snapshot.concepts[:5].tolist() == [-5, -4, -3, -2, -1]
    assert read_bins(path).table.num_rows == 5


def _ids(*persons: int) -> Any:
    import numpy as np

    return np.array(persons, dtype=np.int64)


def _shard_names() -> list[str]:
    return [f"shard-{number:05d}.parquet" for number in range(8)]
