"""The page on outcomes is true: its tasks are checked, locked, tested and run, as a reader would."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from presage_platform.labeling.tasks import engine
from presage_platform.labeling.tasks.definition import read_task
from presage_platform.labeling.tasks.front_matter import Kind
from presage_platform.labeling.tasks.locks import DatabaseConcepts
from presage_platform.labeling.tasks.metamorphic import LAWS, run_laws
from presage_platform.labeling.tasks.testing import Case, run_cases, run_fixture
from presage_platform.postgres.connection import Database, open_database
from presage_platform.settings import Settings
from tests.functional.test_documents import ROOT, fenced
from tests.lib.task_vocabulary import fill_task_vocabulary

PAGE = ROOT / "docs" / "how-to" / "define-an-outcome-in-sql.md"
NAME = re.compile(r"^task: (?P<name>\w+)$", re.MULTILINE)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    with open_database(settings, command="test") as opened:
        with opened.connect() as connection:
            fill_task_vocabulary(connection)
            results = opened.schemas.results
            connection.execute(f"INSERT INTO {results}.cohort VALUES (1042, 7, '2020-05-01', '2020-05-02')")
            connection.commit()
        yield opened


@pytest.fixture
def ready(database: Database, tmp_path: Path) -> dict[str, Any]:
    """Every task of the page, checked and locked, with the page's cases beside the first."""
    files = []
    for text in fenced(PAGE, "sql"):
        found = NAME.search(text)
        assert found is not None
        files.append(tmp_path / f"{found['name']}.sql")
        files[-1].write_text(text)
    (cases,) = fenced(PAGE, "yaml")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "pneumothorax.yaml").write_text(cases)
    with database.connect() as connection:
        engine.lock_tasks(files, DatabaseConcepts(connection))
    return {compiled.task.name: (compiled, lock) for compiled, lock in engine.prepare_in(files, database)}


def case(**given: list[dict[str, Any]]) -> Case:
    index = [{"study_id": 1, "person_id": 7, "t0": "2020-03-01 10:00:00"}]
    period = [{"person_id": 7, "start": "2015-01-01", "end": "2022-12-31"}]
    return Case("made up", {"index": index, "observation_period": period, **given}, [])


def test_l57_the_page_shows_every_kind_but_the_shipped_window(ready: dict[str, Any]) -> None:
    kinds = {compiled.task.front.kind for compiled, _ in ready.values()}
    assert kinds == set(Kind.__args__) - {"binary_window"}  # type: ignore[attr-defined]


def test_l71_the_first_task_passes_the_cases_of_the_page_and_every_law(
    ready: dict[str, Any], database: Database
) -> None:
    compiled, lock = ready["pneumothorax"]
    assert run_fixture(compiled, lock, database) == 4
    checked = run_laws(compiled, lock, database)
    assert all(checked.values())
    page = PAGE.read_text("utf-8")
    assert all(f"| {law} |" in page for law in LAWS)


def test_l62_the_count_and_the_value_of_the_page_do_what_it_says(ready: dict[str, Any], database: Database) -> None:
    stays = [
        {"person_id": 7, "concept": "Visit:IP", "start": day, "end": day}
        for day in ("2020-05-01", "2020-05-02", "2020-09-01")
    ]
    ((counted,),) = [
        list(r.values()) for r in run_cases(*ready["admissions_in_a_year"], [case(visit_occurrence=stays)], database)
    ]
    assert (counted["count"], counted["exposure_s"]) == (2, 365 * 86_400)
    values = [
        {"person_id": 7, "concept": "LOINC:2823-3", "datetime": f"2020-05-0{day} 08:00:00", "value_as_number": value,
         "unit": "UCUM:mmol/L"}
        for day, value in ((1, 6.5), (2, 7.0), (9, 6.1))
    ]  # fmt: skip
    ((found,),) = [
        list(r.values()) for r in run_cases(*ready["potassium_above_6"], [case(measurement=values)], database)
    ]
    assert (found["state"], found["days"]) == ("event", 61)


def test_l57_the_kinds_without_a_query_need_none(ready: dict[str, Any]) -> None:
    for name in ("any_heart_failure", "atlas_cohort_1042"):
        compiled, _ = ready[name]
        assert not compiled.task.has_body and read_task(compiled.task.path).body == ""
