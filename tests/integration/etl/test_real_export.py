"""Sixty real-shaped patients (Synthea) with a real vocabulary: every resource is accounted for, twice."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from presage_etl.omop.athena import load_vocabulary
from presage_platform.postgres.connection import open_database
from presage_platform.settings import Settings, parse_settings
from tests.lib.database import empty_database
from tests.lib.fhir_export import load, portable_dump, rows_of

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def loaded(server: Any, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Any]]:
    with empty_database(server, template=server.template) as url:
        workspace = tmp_path_factory.mktemp("workspace")
        settings = parse_settings(workspace, {"database": {"url": url}}, environment={})
        with open_database(settings, command="test") as database, database.connect() as connection:
            load_vocabulary(real_data / "vocabulary", connection)
            connection.commit()
        yield settings, load(settings, real_data / "fhir_synthea")


def test_e95_counts_per_type_balance_with_the_files(loaded: tuple[Settings, Any], real_data: Path) -> None:
    _, report = loaded
    expected: Counter[str] = Counter()
    for path in sorted((real_data / "fhir_synthea").glob("*.gz")):
        expected.update(
            entry["resource"]["resourceType"] for entry in json.loads(gzip.decompress(path.read_bytes()))["entry"]
        )
    assert {kind: account.num_in for kind, account in report.types.items()} == expected
    assert report.balances
    assert report.types["Patient"].num_loaded == 60
    assert report.types["Observation"].num_loaded == 7464


def test_e77_the_same_files_again_change_nothing(loaded: tuple[Settings, Any], real_data: Path) -> None:
    settings, first = loaded
    before = portable_dump(settings)
    again = load(settings, real_data / "fhir_synthea")
    assert (again.num_inserted, again.num_updated, again.num_deleted) == (0, 0, 0)
    assert again.total.num_loaded == first.total.num_loaded
    whole = load(settings, real_data / "fhir_synthea", full=True)
    assert (whole.num_inserted, whole.num_updated, whole.num_deleted) == (0, 0, 0)
    assert portable_dump(settings) == before


def test_e84_every_person_with_events_has_one_observation_period(loaded: tuple[Settings, Any]) -> None:
    settings, _ = loaded
    query = (
        "SELECT count(*) FROM observation_period AS p JOIN (SELECT person_id, min(visit_start_date) AS first_day, "
        "max(visit_start_date) AS last_day FROM visit_occurrence GROUP BY person_id) AS v USING (person_id) "
        "WHERE p.observation_period_start_date <= v.first_day AND p.observation_period_end_date >= v.last_day"
    )
    assert rows_of(settings, query) == [(60,)]


def test_e87_cdm_source_says_what_this_is(loaded: tuple[Settings, Any]) -> None:
    settings, _ = loaded
    ((version, concept, reference),) = rows_of(
        settings, "SELECT cdm_version, cdm_version_concept_id, cdm_etl_reference FROM cdm_source"
    )
    assert (version, concept) == ("5.4", 756265)
    assert " policies " in reference
