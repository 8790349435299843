"""`platform db …` on a real server, and what a command sees of the database."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer

from presage_migrations.schema import HEAD
from presage_platform.errors import DatabaseError, InputError, SettingsError, UsageError
from presage_platform.postgres import cli
from presage_platform.postgres.connection import open_database
from presage_platform.postgres.embedded import use_server
from presage_platform.settings import Settings, parse_settings
from tests.lib.server import passable_workspace


@pytest.fixture(scope="module")
def embedded() -> Iterator[Path]:
    """A workspace whose embedded server stays up for the whole module."""
    with passable_workspace() as workspace:
        (workspace / "platform.toml").write_text("")
        with use_server(workspace):
            yield workspace


def test_p10_upgrade_status_and_url(embedded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.db_upgrade(embedded)
    cli.db_upgrade(embedded)
    assert capsys.readouterr().out == f"schema upgraded from nothing to {HEAD}\nschema is at {HEAD} already\n"
    cli.db_status(embedded, json=True)
    status = json.loads(capsys.readouterr().out)
    assert (status["embedded"], status["revision"], status["head"]) == (True, HEAD, HEAD)
    assert status["roles"] == ["presage_etl", "presage_reader", "presage_tasks"]
    cli.db_status(embedded)
    assert f"schema    {HEAD}\n" in capsys.readouterr().out
    cli.db_url(embedded)
    assert capsys.readouterr().out == f"postgresql://presage@/presage?host={embedded}/postgres/socket\n"


def test_p10_psql_passes_its_arguments_and_its_code(embedded: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cli.db_upgrade(embedded)
    with pytest.raises(typer.Exit) as ended:
        cli.db_psql(["-Atc", "SELECT count(*) FROM person"], embedded)
    assert ended.value.exit_code == 0
    assert capfd.readouterr().out.splitlines()[-1] == "0"
    with pytest.raises(typer.Exit) as ended:
        cli.db_psql(["-c", "SELECT nonsense"], embedded)
    assert ended.value.exit_code == 1


def test_p25_backup_comes_back_in_another_workspace(embedded: Path, tmp_path: Path) -> None:
    cli.db_upgrade(embedded)
    file = tmp_path / "presage.dump"
    with open_database(_settings(embedded), command="test") as database, database.connect() as connection:
        connection.execute("INSERT INTO location (location_id, city) VALUES (5, 'Ulm') ON CONFLICT DO NOTHING")
    cli.db_backup(file, embedded)
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(InputError, match="exists already"):
        cli.db_backup(file, embedded)
    with pytest.raises(DatabaseError, match="holds tables already"):
        cli.db_restore(file, embedded)
    with passable_workspace() as other:
        cli.db_restore(file, other)
        with open_database(_settings(other), command="test") as database:
            with database.connect() as connection:
                assert connection.execute("SELECT city FROM location").fetchall() == [("Ulm",)]
            with database.connect_tasks() as connection:
                assert connection.execute("SELECT count(*) FROM location").fetchone() == (1,)


def test_p25_other_files_are_no_backup(embedded: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no dump")
    with pytest.raises(InputError, match="is no backup"):
        cli.db_restore(tmp_path / "text", embedded)
    with pytest.raises(InputError, match="cannot be read"):
        cli.db_restore(tmp_path / "absent", embedded)


def test_start_and_stop_leave_a_foreign_server_alone(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESAGE_DATABASE__URL", "postgresql://somewhere/else")
    for command in (cli.db_start, cli.db_stop):
        with pytest.raises(UsageError, match="does not run"):
            command(workspace=workspace)


def test_p16_server_log_shows_no_value(embedded: Path) -> None:
    canary = "canary-4711"
    cli.db_upgrade(embedded)
    with (
        open_database(_settings(embedded), command="test") as database,
        database.connect(autocommit=True) as connection,
    ):
        for statement in (
            "INSERT INTO vocabulary VALUES (%s, 'n', NULL, NULL, 0), (%s, 'n', NULL, NULL, 0)",
            "SELECT %s::integer, %s::date",
        ):
            with pytest.raises(psycopg.Error):
                connection.execute(statement, (canary, canary))
    log = (embedded / "postgres" / "server.log").read_text()
    assert "ready to accept connections" in log
    assert canary not in log


@pytest.mark.parametrize("name", ["postgres", "template1"])
def test_l65_tasks_login_has_no_other_door(embedded: Path, name: str) -> None:
    cli.db_upgrade(embedded)
    with use_server(embedded) as server, pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(server.conninfo(name, user="presage_tasks"))


def test_p27_run_is_named_on_the_server(settings: Settings) -> None:
    with open_database(settings, command="etl-fhir") as database, database.connect() as connection:
        row = connection.execute("SELECT current_setting('application_name'), current_setting('search_path')")
        name, path = row.fetchone() or ("", "")
    assert name == database.run_name
    assert name.startswith("presage/etl-fhir/")
    assert path == "cdm, ledger, public"


def test_p27_serialisation_failure_is_repeated(settings: Settings) -> None:
    with open_database(settings, command="test") as database:
        with database.connect() as connection:
            connection.execute("CREATE TABLE ledger.counter AS SELECT 0 AS n")
        calls = []
        both_read = threading.Barrier(2, timeout=10)

        def add_one(connection: psycopg.Connection[Any]) -> None:
            connection.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            row = connection.execute("SELECT n FROM counter").fetchone()
            calls.append(row)
            if len(calls) <= 2:
                both_read.wait()
            connection.execute("UPDATE counter SET n = %s", ((row or (0,))[0] + 1,))

        threads = [threading.Thread(target=database.transact, args=(add_one,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with database.connect() as connection:
            assert connection.execute("SELECT n FROM counter").fetchone() == (2,)
        assert len(calls) == 3


def test_p27_lost_connection_is_repeated_and_faults_of_the_unit_are_not(settings: Settings) -> None:
    with open_database(settings, command="test") as database:
        attempts = []

        def lose_once(connection: psycopg.Connection[Any]) -> int:
            attempts.append(1)
            if len(attempts) == 1:
                with database.connect(autocommit=True) as other:
                    other.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
            connection.execute("SELECT 1")
            return len(attempts)

        assert database.transact(lose_once) == 2

        def fail(connection: psycopg.Connection[Any]) -> None:
            attempts.append(1)
            connection.execute("SELECT 1/0")

        with pytest.raises(DatabaseError, match="SQLSTATE 22012"):
            database.transact(fail)
        assert len(attempts) == 3


def test_p20_unreachable_server_is_one_line(settings: Settings, tmp_path: Path) -> None:
    url = f"postgresql://u:secret@/d?host={tmp_path}"
    with pytest.raises(DatabaseError, match="cannot be reached") as raised:
        _open(parse_settings(settings.workspace, {"database": {"url": url}}, environment={}))
    assert "secret" not in str(raised.value)
    with pytest.raises(SettingsError, match=r"database\.url is no connection string"):
        _open(parse_settings(settings.workspace, {"database": {"url": "host=a b=c"}}, environment={}))


def _settings(workspace: Path) -> Settings:
    return parse_settings(workspace, {}, environment={})


def _open(settings: Settings) -> None:
    with open_database(settings, command="test"):
        pass
