"""Identity and bookkeeping of a load: dense ids, one origin a row, indexes as before, a run that says what it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from presage_platform.ledger.tables import TABLE_NUMBERS
from presage_platform.settings import Settings
from tests.lib.fhir_export import (
    dump,
    load,
    observation,
    patient,
    rows_of,
    small_hospital,
    write_ndjson,
)

EVENTS = ("person", "visit_occurrence", "condition_occurrence", "measurement")
INDEXES = "SELECT schemaname, tablename, indexname, indexdef FROM pg_indexes WHERE schemaname IN ('cdm', 'ledger')"
CONSTRAINTS = "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint ORDER BY 1, 2"


def test_e75_ids_are_dense_from_one_and_every_row_has_one_origin(hospital: Settings, export: Path) -> None:
    load(hospital, export)
    for table in EVENTS:
        key = f"{table}_id"
        ids = [row[0] for row in rows_of(hospital, f"SELECT {key} FROM {table} ORDER BY 1")]
        assert ids == list(range(1, len(ids) + 1)) and ids, table
        origins = rows_of(hospital, "SELECT row_id FROM origin WHERE table_no = %s ORDER BY 1", TABLE_NUMBERS[table])
        assert [row[0] for row in origins] == ids, table
    twice = rows_of(hospital, "SELECT resource_no, table_no, slot FROM origin GROUP BY 1, 2, 3 HAVING count(*) > 1")
    assert twice == []


def test_e75_ids_of_two_sources_never_collide(hospital: Settings, tmp_path: Path) -> None:
    write_ndjson(tmp_path / "one" / "a.ndjson", [patient("a"), observation("o", "a", "2020-01-01")])
    write_ndjson(tmp_path / "two" / "a.ndjson", [patient("a", "1960-01-01"), observation("o", "a", "2021-01-01")])
    load(hospital, tmp_path / "one", source="one")
    load(hospital, tmp_path / "two", source="two")
    born = rows_of(hospital, "SELECT person_id, year_of_birth FROM person ORDER BY 1")
    assert born == [(1, 1950), (2, 1960)]
    assert rows_of(hospital, "SELECT person_id, measurement_date::text FROM measurement ORDER BY 1") == [
        (1, "2020-01-01"),
        (2, "2021-01-01"),
    ]


def test_e88_stages_leave_nothing_behind(hospital: Settings, export: Path) -> None:
    load(hospital, export)
    left = rows_of(hospital, "SELECT tablename FROM pg_tables WHERE schemaname = 'ledger' AND tablename LIKE 'stage%%'")
    assert left == []
    assert rows_of(hospital, "SELECT DISTINCT state FROM run") == [("finished",)]


@pytest.mark.parametrize("workers", [2, 3])
def test_e89_the_number_of_workers_changes_no_row(
    hospital: Settings, second: Settings, tmp_path: Path, workers: int
) -> None:
    resources = small_hospital()
    for number in range(6):
        write_ndjson(tmp_path / "export" / f"{number}.ndjson", resources[number::6])
    load(hospital, tmp_path / "export", workers=1)
    load(second, tmp_path / "export", workers=workers)
    assert dump(second) == dump(hospital)


def test_e91_a_first_load_leaves_indexes_and_constraints_as_they_were(
    hospital: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from presage_etl.fhir import merge

    monkeypatch.setattr(merge, "WORTH_IT_ROWS", 1)  # so that a small load builds its indexes after the rows, too
    before = (sorted(rows_of(hospital, INDEXES)), rows_of(hospital, CONSTRAINTS))
    write_ndjson(tmp_path / "export" / "a.ndjson", small_hospital())
    assert load(hospital, tmp_path / "export").num_inserted > 80
    assert (sorted(rows_of(hospital, INDEXES)), rows_of(hospital, CONSTRAINTS)) == before


def test_e93_a_run_says_what_it_read_and_with_what(hospital: Settings, export: Path) -> None:
    load(hospital, export)
    ((command, state, vocabulary, policies, zone, version),) = rows_of(
        hospital,
        "SELECT command, state, vocabulary_release, policy_hash, timezone, presage_version FROM run"
        " WHERE command LIKE '%%fhir%%'",
    )
    assert state == "finished" and "fhir" in command and vocabulary and policies and version
    assert zone == "UTC"
    ((size, digest, resources),) = rows_of(hospital, "SELECT size_bytes, length(sha256), resources FROM source_file")
    assert size == (export / "a.ndjson").stat().st_size and digest == 32
    assert resources == len(small_hospital())
