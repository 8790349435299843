"""SQL tasks on a real server: fixtures, locks, and the wall with the guard switched off."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from presage_platform.errors import TaskError, TaskTestError
from presage_platform.labeling.tasks import engine
from presage_platform.labeling.tasks.compile import Block, compile_task
from presage_platform.labeling.tasks.definition import parse_task, read_task
from presage_platform.labeling.tasks.engine import prepare_in
from presage_platform.labeling.tasks.execute import _snapshot, _walled
from presage_platform.labeling.tasks.library import copy_tasks, shipped_tasks
from presage_platform.labeling.tasks.locks import DatabaseConcepts, read_lock, resolve_lock, write_lock
from presage_platform.labeling.tasks.run_schema import run_schemas
from presage_platform.labeling.tasks.testing import Case, read_fixture, run_cases, run_fixture
from presage_platform.postgres.connection import Database, open_database
from presage_platform.settings import Settings
from tests.lib.attacks import attacks
from tests.lib.task_vocabulary import fill_task_vocabulary


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    with open_database(settings, command="test") as opened:
        with opened.connect() as connection:
            fill_task_vocabulary(connection)
        yield opened


def lock_tasks(files: list[Path], database: Database) -> list[Any]:
    """Lock task files in the vocabulary of a database."""
    with database.connect() as connection:
        return engine.lock_tasks(files, DatabaseConcepts(connection), database)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    copy_tasks("all", tmp_path / "tasks")
    return tmp_path / "tasks"


def test_l71_every_shipped_task_passes_its_own_fixture(database: Database, library: Path) -> None:
    files = sorted(library.glob("*.sql"))
    lock_tasks(files, database)
    passed = {
        compiled.task.name: run_fixture(compiled, lock, database) for compiled, lock in prepare_in(files, database)
    }
    assert set(passed) == set(shipped_tasks()) and all(number >= 4 for number in passed.values())


def test_l71_a_wrong_expectation_and_a_missing_state_fail(database: Database, library: Path) -> None:
    path = library / "pleural_effusion.sql"
    lock_tasks([path], database)
    ((compiled, lock),) = prepare_in([path], database)
    fixture = compiled.task.fixture_path
    text = fixture.read_text()
    fixture.write_text(text.replace("state: event, days: 91", "state: event, days: 90"))
    with pytest.raises(TaskTestError, match="has days 91, expected 90"):
        run_fixture(compiled, lock, database)
    fixture.write_text("\n".join(re.split(r"(?m)^(?=- name)", text)[1:2]))
    with pytest.raises(TaskTestError, match="covers no censored, competing, prevalent"):
        run_fixture(compiled, lock, database)
    fixture.unlink()
    with pytest.raises(TaskTestError, match="test missing"):
        run_fixture(compiled, lock, database)


def test_l61_the_lock_holds_descendants_and_goes_stale(database: Database, library: Path) -> None:
    path = library / "pleural_effusion.sql"
    (change,) = lock_tasks([path], database)
    assert change.changes == {"outcome": (2, 0)}
    task = read_task(path)
    with database.connect() as connection:
        concepts = DatabaseConcepts(connection)
        assert read_lock(task, concepts).concept_ids("outcome") == [254061, 2000000001]
        path.write_text(path.read_text().replace("join   cs_outcome", "join  cs_outcome"))
        with pytest.raises(TaskError, match="changed since it was locked"):
            read_lock(read_task(path), concepts)
        with pytest.raises(TaskError, match="version is still 1"):
            write_lock(read_task(path), resolve_lock(read_task(path), concepts))
        path.write_text(path.read_text().replace("version: 1", "version: 2"))
        write_lock(read_task(path), resolve_lock(read_task(path), concepts))
        connection.execute("UPDATE vocabulary SET vocabulary_version = 'test 2' WHERE vocabulary_id = 'None'")
        with pytest.raises(TaskError, match="locked with vocabulary test 1, found test 2"):
            read_lock(read_task(path), concepts)


def test_l61_codes_that_do_not_resolve_as_expected(database: Database, library: Path) -> None:
    text = (library / "pleural_effusion.sql").read_text()
    with database.connect() as connection:
        for old, new, words in (
            ("SNOMED:60046008", "SNOMED:1", "not in the vocabulary"),
            ("expect_concept_id: 254061", "expect_concept_id: 254062", "resolves to 254061, expected 254062"),
        ):
            task = parse_task(text.replace(old, new).encode(), library / "pleural_effusion.sql")
            with pytest.raises(TaskError, match=words):
                resolve_lock(task, DatabaseConcepts(connection))


def test_l58_wrong_types_break_the_contract(database: Database, library: Path) -> None:
    path = library / "all_cause_mortality.sql"
    path.write_text(path.read_text().replace("d.death_date as event_date", "d.death_datetime as event_date"))
    lock_tasks([path], database)
    ((compiled, lock),) = prepare_in([path], database)
    case = read_fixture(compiled.task)[0]
    with pytest.raises(TaskError, match="Q10 `event_date` is timestamp, expected date"):
        run_cases(compiled, lock, [case], database)


def fingerprint(database: Database) -> Any:
    """What an attack could have changed: tables and their rows, roles, settings, functions."""
    with database.connect() as connection:
        return connection.execute(
            "SELECT (SELECT json_agg(json_build_array(schemaname, relname, n_live_tup) ORDER BY 1::text)"
            " FROM pg_stat_user_tables WHERE schemaname NOT LIKE 'task_run%%'),"
            " (SELECT json_agg(r ORDER BY rolname) FROM (SELECT rolname, rolsuper, rolconfig FROM pg_roles) r),"
            " (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_extension), (SELECT count(*) FROM death),"
            " (SELECT json_agg(a ORDER BY a::text) FROM (SELECT relacl FROM pg_class WHERE relname = 'person') a)"
        ).fetchone()


SECRETS = re.compile(r"root:|SCRAM-SHA|md5[0-9a-f]{32}")


@pytest.fixture
def wall(database: Database, library: Path) -> Iterator[Any]:
    """A function that sends a statement as a task would, with nothing between it and the server but the role."""
    path = library / "all_cause_mortality.sql"
    lock_tasks([path], database)
    ready = prepare_in([path], database)
    with run_schemas(ready, engine.no_studies(), database, 100) as schemas, _snapshot(database) as snapshot:

        def send(query: str) -> list[Any]:
            with _walled(database, schemas["all_cause_mortality"].path, snapshot) as connection:
                connection.execute("SET LOCAL statement_timeout = '3s'")
                cursor = psycopg.RawCursor(connection)
                cursor.execute(query, (), prepare=True)
                return cursor.fetchmany(100) if cursor.description else []

        yield send


def test_l65_without_the_guard_no_attack_changes_or_reveals_anything(database: Database, wall: Any) -> None:
    with database.connect() as connection:
        connection.execute(
            "INSERT INTO person (person_id, gender_concept_id, year_of_birth, race_concept_id,"
            " ethnicity_concept_id) VALUES (1, 0, 1950, 0, 0)"
        )
        connection.execute("INSERT INTO death (person_id, death_date) VALUES (1, '2020-01-01')")
        connection.commit()
    before = fingerprint(database)
    refused = 0
    for _, query in attacks():
        try:
            rows = wall(query)
        except psycopg.Error:
            refused += 1
            continue
        assert not SECRETS.search(json.dumps(rows, default=str)), query
    assert refused >= 45
    assert fingerprint(database) == before


@pytest.mark.parametrize(
    "query",
    [
        "select * from ledger.resource", "select note_text from note", "insert into death values (1, '2020-01-01')",
        "create table cdm.x (i int)", "create temp table x (i int)", "set role postgres",
        "select pg_read_file('/etc/passwd')", "select lo_import('/etc/passwd')", "select pg_sleep(1)",
    ],
)  # fmt: skip
def test_l65_the_role_is_the_wall(wall: Any, query: str) -> None:
    with pytest.raises(psycopg.Error):
        wall(query)


def test_l66_one_statement_a_message(wall: Any) -> None:
    with pytest.raises(psycopg.Error):
        wall("select 1; select 2")


def test_l66_all_tasks_see_one_state(database: Database, wall: Any) -> None:
    with database.connect() as connection:
        connection.execute(
            "INSERT INTO person (person_id, gender_concept_id, year_of_birth, race_concept_id,"
            " ethnicity_concept_id) VALUES (77, 0, 1950, 0, 0)"
        )
        connection.commit()
    assert wall("select count(*) from person") == [(0,)]


def test_l59_the_run_schema_is_gone_afterwards(database: Database, library: Path) -> None:
    path = library / "pleural_effusion.sql"
    lock_tasks([path], database)
    ((compiled, lock),) = prepare_in([path], database)
    run_fixture(compiled, lock, database)
    with database.connect() as connection:
        left = connection.execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'task\\_%'").fetchone()
    assert left == (0,)


def test_l60_a_value_with_sql_in_it_stays_a_value(database: Database, library: Path) -> None:
    path = library / "all_cause_mortality.sql"
    text = path.read_text().replace(
        "requires: [death]", "requires: [death]\nparams: {who: {type: text, value: \"x' or '1'='1\"}}"
    )
    path.write_text(text + "where d.cause_source_value = :who\n")
    lock_tasks([path], database)
    ((compiled, lock),) = prepare_in([path], database)
    assert isinstance(compiled.body, Block) and "or '1'" not in compiled.body.sql
    (found,) = run_cases(compiled, lock, read_fixture(compiled.task)[:1], database)
    assert found[1]["state"] == "censored"
    assert compile_task(read_task(path)).body.values == ("x' or '1'='1",)


SECRET, STUDY, PERSON = "kx-4711-zz", 424242, 313131


@pytest.mark.parametrize(
    ("clause", "words"),
    [
        ("where cast(d.cause_source_value as integer) > 0", "SQLSTATE 22P02"),
        ("where i.study_id / (i.study_id - i.study_id) > 0", "SQLSTATE 22012"),
    ],
)
def test_l70_an_error_and_the_log_hold_no_value_of_a_patient(
    database: Database, library: Path, caplog: pytest.LogCaptureFixture, clause: str, words: str
) -> None:
    path = library / "all_cause_mortality.sql"
    path.write_text(f"{path.read_text().rstrip()}\n{clause}\n")
    lock_tasks([path], database)
    ((compiled, lock),) = prepare_in([path], database)
    given = {
        "index": [{"study_id": STUDY, "person_id": PERSON, "t0": "2020-03-01 10:00:00"}],
        "observation_period": [{"person_id": PERSON, "start": "2015-01-01", "end": "2022-12-31"}],
        "death": [{"person_id": PERSON, "date": "2021-07-09", "cause_source_value": SECRET}],
    }
    with caplog.at_level("DEBUG"), pytest.raises(TaskError, match=words) as raised:
        run_cases(compiled, lock, [Case("made up", given, [])], database)
    for text in (str(raised.value), caplog.text, repr(raised.value.__cause__)):
        assert not re.search(rf"{SECRET}|{STUDY}|{PERSON}|2021-07-09", text)
    assert "\n" not in str(raised.value)


def test_l70_a_task_that_ran_is_logged_by_counts_alone(
    database: Database, library: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = library / "all_cause_mortality.sql"
    lock_tasks([path], database)
    ((compiled, lock),) = prepare_in([path], database)
    with caplog.at_level("DEBUG"):
        run_cases(compiled, lock, read_fixture(compiled.task), database)
    fields = [getattr(record, "fields", {}) for record in caplog.records if record.message == "task run"]
    assert fields and all(set(one) == {"studies"} for one in fields)
