"""A record in two deliveries: new, changed, late, merged and deleted resources end as one full export (S36, E5, E80)."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from presage_etl.fhir.pipeline import Options, load_export
from presage_platform.postgres.connection import open_database
from presage_platform.settings import Settings
from tests.lib.cdm_oracle import Generated, Loaded, Rows, differences
from tests.lib.synthetic import make, truth

FIRST, SECOND = "fhir/export-1", "fhir/export-2"
ALL_MAY_WAIT = Options(max_dead=1.0, workers=1)
"""The events of the late Patient are dead letters until it comes."""


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("exports") / "two", patients=20, exports=2, modes=("fhir", "omop"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same record in one export, as of the second."""
    return make(tmp_path_factory.mktemp("exports") / "one", patients=20, modes=("fhir", "omop"))


@contextmanager
def database_of(hospital: Path, server: Any, workspace: Path) -> Iterator[Settings]:
    """A database with the hospital's vocabulary and settings."""
    from presage_etl.omop.athena import load_vocabulary
    from presage_platform.settings import parse_settings
    from tests.lib.database import fresh_database

    with fresh_database(server) as url:
        site = tomllib.loads((hospital / "site.toml").read_text())
        settings = parse_settings(workspace, {**site, "database": {"url": url}}, environment={})
        with open_database(settings, command="test") as database, database.connect() as connection:
            load_vocabulary(hospital / "vocabulary", connection)
            connection.commit()
        yield settings


def tables_of(settings: Settings) -> dict[str, Rows]:
    """Every filled CDM table without minted ids."""
    with open_database(settings, command="test") as database, database.connect() as connection:
        loaded = Loaded(connection)
        return {name: loaded.rows(name) for name in [*loaded.filled(), "image_occurrence"]}


def counts_of(settings: Settings, hospital: Path, stage: str) -> tuple[dict[Any, int], dict[Any, int]]:
    """What the truth expects after a stage, and what is there."""
    questions = {
        "dead": "SELECT count(*) FROM dead_letter WHERE resolved_by_run IS NULL",
        "excluded": "SELECT count(*) FROM resource WHERE state = 'excluded' AND reason = %s",
        "unmapped": "SELECT count(*) FROM condition_occurrence WHERE condition_concept_id = 0",
    }
    wanted, found = {}, {}
    with open_database(settings, command="test") as database, database.connect() as connection:
        for row in truth(hospital, "expected_counts"):
            kind, name = row["kind"], row["name"]
            if row["stage"] != stage:
                continue
            query = questions.get(kind, f"SELECT count(*) FROM {name}")
            values = [name] if "%s" in query else None
            wanted[kind, name] = row["expected"]
            found[kind, name] = (connection.execute(query.encode(), values).fetchone() or [0])[0]
    return wanted, found


@pytest.fixture(scope="module")
def in_turn(delivered: Path, server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Both exports, one after the other; the truth of the first is checked between."""
    with database_of(delivered, server, tmp_path_factory.mktemp("workspace")) as settings:
        load_export(delivered / FIRST, settings=settings, options=ALL_MAY_WAIT)
        wanted, found = counts_of(settings, delivered, "etl-1")
        assert wanted["dead", "all"] > 0
        assert found == wanted
        load_export(delivered / SECOND, settings=settings, options=Options(workers=1))
        yield settings


def test_s36_the_counts_after_the_second_export_are_those_of_the_truth(in_turn: Settings, delivered: Path) -> None:
    wanted, found = counts_of(in_turn, delivered, "etl")
    assert wanted["dead", "all"] == 0
    assert found == wanted


def test_s36_loading_one_export_after_the_other_equals_a_full_one(
    in_turn: Settings, full: Path, server: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with database_of(full, server, tmp_path_factory.mktemp("workspace")) as settings:
        load_export(full / FIRST, settings=settings, options=Options(workers=1))
        once = tables_of(settings)
    twice = tables_of(in_turn)
    assert once.keys() == twice.keys()
    lines = [line for name in once for line in differences(name, once[name], twice[name])]
    assert not lines, "\n".join(lines)
    assert sum(len(rows) for rows in twice.values()) > 1000


def test_s36_and_equals_the_cdm_that_the_generator_wrote(in_turn: Settings, delivered: Path) -> None:
    generated, twice = Generated(delivered), tables_of(in_turn)
    names = generated.tables
    lines = [line for name in names for line in differences(name, generated.rows(name), twice[name])]
    assert not lines, "\n".join(lines)


def test_e5_deletions_of_a_manifest_remove_rows_and_nothing_brings_them_back(
    in_turn: Settings, delivered: Path
) -> None:
    before = tables_of(in_turn)
    with open_database(in_turn, command="test") as database, database.connect() as connection:
        gone = connection.execute("SELECT count(*) FROM resource WHERE state = 'deleted'").fetchone()
    assert gone is not None
    assert gone[0] >= 6
    for export in (SECOND, FIRST):  # the second again, and then the older one
        load_export(delivered / export, settings=in_turn, options=Options(max_dead=1.0, workers=1))
        after = tables_of(in_turn)
        lines = [line for name in before for line in differences(name, before[name], after[name])]
        assert not lines, "\n".join(lines)
