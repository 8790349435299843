"""`platform etl fhir` against the CDM that the generator wrote from its events, table by table (S39).

The two share the declarations of the tables and the published facts of the vocabulary, and no other code.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from presage_etl.omop.athena import load_vocabulary
from presage_platform.postgres.connection import open_database
from presage_platform.settings import parse_settings
from tests.lib.cdm_oracle import Generated, Loaded, differences
from tests.lib.database import fresh_database
from tests.lib.fhir_export import load
from tests.lib.synthetic import make


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("oracle") / "hospital", modes=("fhir", "omop"))


@pytest.fixture(scope="module")
def generated(hospital: Path) -> Generated:
    return Generated(hospital)


@pytest.fixture(scope="module")
def loaded(hospital: Path, server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    with cdm_of(hospital, server, tmp_path_factory.mktemp("workspace"), 1) as found:
        yield found


@contextmanager
def cdm_of(hospital: Path, server: Any, workspace: Path, num_exports: int) -> Iterator[Loaded]:
    """Load the hospital's exports one after the other into a fresh database."""
    with fresh_database(server) as url:
        site = tomllib.loads((hospital / "site.toml").read_text())
        settings = parse_settings(workspace, {**site, "database": {"url": url}}, environment={})
        with open_database(settings, command="test") as database, database.connect() as connection:
            load_vocabulary(hospital / "vocabulary", connection)
            connection.commit()
        for number in range(1, num_exports + 1):
            load(settings, hospital / "fhir" / f"export-{number}")
        with open_database(settings, command="test") as database, database.connect() as connection:
            yield Loaded(connection)


def test_s39_the_mode_writes_every_table_as_csv_and_parquet(hospital: Path, generated: Generated) -> None:
    assert {path.stem for path in (hospital / "omop").glob("*.csv")} == set(generated.tables)
    for name in ("person", "visit_occurrence", "condition_occurrence", "measurement", "observation_period"):
        assert sum(generated.rows(name).values()) > 20


def test_s39_every_row_of_the_product_is_the_oracles_and_the_other_way_round(
    generated: Generated, loaded: Loaded
) -> None:
    assert_same(generated, loaded)


def test_s36_after_two_exports_the_cdm_is_that_of_the_oracle_too(
    server: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = make(
        tmp_path_factory.mktemp("two") / "hospital",
        modes=("fhir", "omop"),
        exports=2,
        patients=40,
        grid=(32, 32, 32),
    )
    with cdm_of(folder, server, tmp_path_factory.mktemp("workspace"), 2) as found:
        assert_same(Generated(folder), found)


def assert_same(generated: Generated, loaded: Loaded) -> None:
    """Compare every table, and say how many rows agree."""
    lines: list[str] = []
    for name in generated.tables:
        wanted, found = generated.rows(name), loaded.rows(name)
        print(f"{sum((wanted & found).values()):>7,} rows of {name} agree in every column")
        lines += differences(name, wanted, found)
    assert not lines, "\n".join(lines)


def test_s39_no_table_is_filled_by_the_product_alone(generated: Generated, loaded: Loaded) -> None:
    assert set(loaded.filled()) <= set(generated.tables)


def test_s39_a_single_other_value_would_be_seen(generated: Generated) -> None:
    rows = generated.rows("measurement")
    one = next(iter(rows))
    other = tuple(value + 1 if isinstance(value, float) else value for value in one)
    lines = differences("measurement", rows, rows - Counter([one]) + Counter([other]))
    assert [line.split(":")[0] for line in lines] == ["measurement missing", "measurement too much"]
