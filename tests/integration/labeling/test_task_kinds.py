"""Counts, thresholds and cohorts on a real server, through fixtures and against a plain reading."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from presage_platform.errors import TaskError
from presage_platform.labeling.tasks import engine
from presage_platform.labeling.tasks.engine import prepare_in
from presage_platform.labeling.tasks.execute import run_tasks
from presage_platform.labeling.tasks.locks import DatabaseConcepts
from presage_platform.labeling.tasks.scratch import day_s, index_of
from presage_platform.labeling.tasks.testing import Case, run_cases
from presage_platform.postgres.connection import Database, open_database
from presage_platform.settings import Settings
from tests.lib.task_vocabulary import fill_task_vocabulary

CUT = date(2021, 12, 31)
ADMISSIONS = """/*---
task: admissions_90d
version: 1
title: Admissions in the three months after the scan
kind: recurrent_count
window: 90 days
era_gap: 3 days
risk: next
concept_sets:
  inpatient: {include: ["Visit:IP"]}
requires: [visit_occurrence]
---*/
select i.study_id, v.visit_start_date as event_date
from   task_index i
join   visit_occurrence v on v.person_id = i.person_id
join   cs_inpatient c on c.concept_id = v.visit_concept_id
"""
LOW = """/*---
task: low_haemoglobin
version: 1
title: Low haemoglobin, confirmed
kind: measurement_threshold
threshold: {below: 8.0, unit: "UCUM:g/dL", factors: {"UCUM:g/L": 0.1}, confirm: {times: 2, within: 30 days}}
concept_sets:
  test: {include: ["LOINC:718-7"]}
requires: [measurement]
---*/
select i.study_id, m.measurement_date as event_date, m.value_as_number as value, m.unit_concept_id
from   task_index i
join   measurement m on m.person_id = i.person_id
join   cs_test t on t.concept_id = m.measurement_concept_id
"""
COHORT = """/*---
task: an_atlas_cohort
version: 1
title: Enters a cohort
kind: cohort
cohort_definition_id: 17
---*/
"""


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    with open_database(settings, command="test") as opened:
        with opened.connect() as connection:
            fill_task_vocabulary(connection)
        yield opened


def ready(text: str, folder: Path, database: Database) -> tuple[Any, Any]:
    name = text.split("task: ")[1].split("\n")[0]
    path = folder / f"{name}.sql"
    path.write_text(text)
    with database.connect() as connection:
        engine.lock_tasks([path], DatabaseConcepts(connection))
    ((compiled, lock),) = prepare_in([path], database)
    return compiled, lock


def case(**given: list[dict[str, Any]]) -> Case:
    index = [{"study_id": 1, "person_id": 7, "t0": "2020-03-01 10:00:00"}]
    period = [{"person_id": 7, "start": "2015-01-01", "end": "2022-12-31"}]
    return Case("made up", {"index": index, "observation_period": period, **given}, [])


def stays(*days: str) -> list[dict[str, Any]]:
    return [{"person_id": 7, "concept": "Visit:IP", "start": day, "end": day} for day in days]


def values(*rows: tuple[str, float | None, str | None]) -> list[dict[str, Any]]:
    return [
        {"person_id": 7, "concept": "LOINC:718-7", "date": day, "value_as_number": value}
        | ({"unit": f"UCUM:{unit}"} if unit else {})
        for day, value, unit in rows
    ]


def test_l62_a_recurrent_count_merges_what_is_close_and_has_its_exposure(database: Database, tmp_path: Path) -> None:
    compiled, lock = ready(ADMISSIONS, tmp_path, database)
    cases = [
        case(
            visit_occurrence=stays("2020-03-10", "2020-03-12", "2020-03-14", "2020-03-17", "2020-04-20", "2020-08-01")
        ),
        case(),
        case(visit_occurrence=stays("2020-03-10", "2020-03-10")),
        case(visit_occurrence=stays("2020-03-10"), death=[{"person_id": 7, "date": "2020-03-11"}]),
        case(death=[{"person_id": 7, "date": "2019-03-11"}]),
    ]
    found = [rows[1] for rows in run_cases(compiled, lock, cases, database)]
    # 10, 12 and 14 March are one, 17 March is three days later and not closer, 20 April another; August lies outside.
    assert [row["count"] for row in found] == [3, 0, 1, 1, None]
    full = 90 * 86_400
    to_death = int((date(2020, 3, 11) - date(2020, 3, 1)).days) * 86_400 + 86_399 - 36_000
    assert [row["exposure_s"] for row in found] == [full, full, full, to_death, None]
    assert [row["state"] for row in found] == ["event", "censored", "event", "event", "masked"]


def test_l62_a_confirmed_value_is_dated_by_the_last_of_them(database: Database, tmp_path: Path) -> None:
    compiled, lock = ready(LOW, tmp_path, database)
    first, second, late = "2020-05-01", "2020-05-20", "2020-07-01"
    cases = [
        case(measurement=values((first, 7.0, "g/dL"), (second, 75.0, "g/L"))),
        case(measurement=values((first, 7.0, "g/dL"), (late, 7.0, "g/dL"))),
        case(measurement=values((first, 7.0, "g/dL"), (first, 6.0, "g/dL"))),
        case(measurement=values((first, 7.0, "g/dL"), (second, 8.0, "g/dL"))),
        case(measurement=values(("2020-02-20", 7.0, "g/dL"), ("2020-03-05", 7.0, "g/dL"))),
        case(measurement=values((first, None, "g/dL"), (second, 7.0, "g/dL"), ("2020-05-25", 7.0, "g/dL"))),
    ]
    found = [rows[1] for rows in run_cases(compiled, lock, cases, database)]
    assert [row["state"] for row in found] == ["event", "censored", "censored", "censored", "event", "event"]
    assert [found[place]["days"] for place in (0, 4, 5)] == [79, 3, 84]


@pytest.mark.parametrize(("unit", "words"), [("pg/mL", "unit 8845"), (None, "unit missing")])
def test_l64_a_value_in_an_undeclared_or_missing_unit_is_never_compared(
    database: Database, tmp_path: Path, unit: str | None, words: str
) -> None:
    compiled, lock = ready(LOW.replace(", confirm: {times: 2, within: 30 days}", ""), tmp_path, database)
    known = [(f"2020-05-{day:02d}", 9.0, "g/dL") for day in range(1, 31)]
    few, many = [("2020-06-01", 1.0, unit)], [(f"2020-06-{day:02d}", 1.0, unit) for day in (1, 2)]
    (found,) = run_cases(compiled, lock, [case(measurement=values(*known, *few))], database)
    assert found[1]["state"] == "censored", "one of 31 is dropped, and is no event though it is below 8"
    with pytest.raises(TaskError, match=rf"2 of 32 values are in no declared unit \(2 of {words}\)"):
        run_cases(compiled, lock, [case(measurement=values(*known, *many))], database)


def test_l64_what_is_dropped_is_counted_by_unit(database: Database, tmp_path: Path) -> None:
    compiled, lock = ready(LOW.replace(", confirm: {times: 2, within: 30 days}", ""), tmp_path, database)
    with database.connect() as connection:
        fill_person(connection)
        for number in range(1, 61):
            unit = {1: 8845, 2: None}.get(number, 8713)
            value = None if number == 3 else 9.0
            connection.execute(
                "INSERT INTO measurement (measurement_id, person_id, measurement_concept_id, measurement_date,"
                " measurement_type_concept_id, value_as_number, unit_concept_id) VALUES (%s, 7, 3000963, '2020-05-01', 0,"
                " %s, %s)",
                [number, value, unit],
            )
        connection.commit()
        index = index_of([{"study_id": 1, "person_id": 7, "t0": "2020-03-01 10:00:00"}], connection)
    result = run_tasks([(compiled, lock)], index, data_cut_s=day_s(CUT), database=database)["low_haemoglobin"]
    assert result.dropped == {"unit_8845": 1, "unit_missing": 1, "without_value": 1}


def fill_person(connection: Any) -> None:
    connection.execute(
        "INSERT INTO person (person_id, gender_concept_id, year_of_birth, race_concept_id, ethnicity_concept_id)"
        " VALUES (7, 0, 1950, 0, 0)"
    )
    connection.execute(
        "INSERT INTO observation_period (observation_period_id, person_id, observation_period_start_date,"
        " observation_period_end_date, period_type_concept_id) VALUES (1, 7, '2015-01-01', '2021-12-31', 0)"
    )


def test_l79_a_cohort_of_the_results_schema_is_an_outcome(database: Database, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="holds no row of cohort 17"):
        ready(COHORT, tmp_path, database)
    results = database.schemas.results
    with database.connect() as connection:
        fill_person(connection)
        for definition, day in ((17, "2020-05-01"), (17, "2020-09-01"), (18, "2020-04-01")):
            connection.execute(f"INSERT INTO {results}.cohort VALUES (%s, 7, %s, %s)", [definition, day, "2021-01-01"])
        connection.commit()
        index = index_of(
            [
                {"study_id": 1, "person_id": 7, "t0": "2020-03-01 10:00:00"},
                {"study_id": 2, "person_id": 7, "t0": "2020-06-01 10:00:00"},
                {"study_id": 3, "person_id": 7, "t0": "2020-10-01 10:00:00"},
            ],
            connection,
        )
    compiled, lock = ready(COHORT, tmp_path, database)
    rows = run_tasks([(compiled, lock)], index, data_cut_s=day_s(CUT), database=database)["an_atlas_cohort"].rows
    assert rows.column("state").to_pylist() == ["event", "prevalent", "prevalent"]
    assert rows.column("time_s").to_pylist()[0] == int((date(2020, 5, 1) - date(2020, 3, 1)).days) * 86_400 - 36_000
