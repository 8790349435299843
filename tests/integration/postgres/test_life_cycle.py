"""The embedded server through everything that happens to processes: ends, kills, races, recycled pids."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from presage_platform.errors import LockedError
from presage_platform.postgres.embedded import keep_server, stop_server, use_server
from presage_platform.postgres.process import find_postmaster
from presage_platform.postgres.watcher import LINGER_S
from tests.lib.server import (
    begin_user,
    crash,
    first_line,
    is_running,
    mode_of,
    passable_workspace,
    postmasters,
    until,
    user_of,
)

STOPS_WITHIN_S = 10.0
LONGER_THAN_THE_WATCHER_WAITS_S = LINGER_S + 1.5


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One workspace for the tests that leave it usable: initdb runs once."""
    with passable_workspace() as workspace:
        yield workspace


@pytest.fixture
def stopped(folder: Path) -> Path:
    """The data folder of an initialised server that does not run."""
    with use_server(folder) as server:
        data = server.placement.data
    stop_server(folder)
    return data


def test_p22_server_listens_on_a_private_socket_only(folder: Path) -> None:
    with use_server(folder) as server, psycopg.connect(server.conninfo()) as connection:
        settings = {
            name: connection.execute("SELECT current_setting(%s)", (name,)).fetchone()[0]  # type: ignore[index]
            for name in ("listen_addresses", "data_checksums", "jit", "server_encoding", "TimeZone")
        }
        locale = connection.execute("SELECT datlocprovider::text, datlocale FROM pg_database LIMIT 1").fetchone()
        postmaster = find_postmaster(server.placement.data)
        assert postmaster is not None
        listening = [c for c in postmaster.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert settings == {
            "listen_addresses": "",
            "data_checksums": "on",
            "jit": "off",
            "server_encoding": "UTF8",
            "TimeZone": "UTC",
        }
        assert (locale, listening) == (("b", "C.UTF-8"), [])
        assert mode_of(server.placement.socket_folder) == 0o700
        assert mode_of(server.placement.data) == 0o700


def test_p22_the_users_own_file_wins(folder: Path, stopped: Path) -> None:
    (stopped / "user.conf").write_text("work_mem = '9MB'\n")
    (stopped / "user.conf").chmod(0o644)
    with use_server(folder) as server, psycopg.connect(server.conninfo()) as connection:
        assert connection.execute("SHOW work_mem").fetchone() == ("9MB",)


def test_p23_killed_owner_takes_the_server_with_it(folder: Path) -> None:
    with user_of(folder) as user:
        assert is_running(user.data)
        user.kill()
        assert until(lambda: not is_running(user.data), STOPS_WITHIN_S) < STOPS_WITHIN_S
        until(lambda: not postmasters(user.data), 2)


def test_p23_server_stays_for_the_second_user(folder: Path) -> None:
    with user_of(folder) as first, user_of(folder) as second:
        before = find_postmaster(first.data)
        first.kill()
        time.sleep(LONGER_THAN_THE_WATCHER_WAITS_S)
        after = find_postmaster(first.data)
        assert before is not None
        assert before == after
        second.leave()
        until(lambda: not is_running(first.data), STOPS_WITHIN_S)


def test_p23_processes_at_once_share_one_server() -> None:
    with passable_workspace() as workspace:
        racers = [begin_user(workspace) for _ in range(3)]
        try:
            lines = [first_line(racer) for racer in racers]
            assert len(set(lines)) == 1
            assert len(postmasters(Path(lines[0]))) == 1
        finally:
            for racer in racers:
                racer.kill()
                racer.communicate()
        until(lambda: not is_running(Path(lines[0])), STOPS_WITHIN_S)


def test_p23_recycled_pid_is_neither_believed_nor_touched(folder: Path, stopped: Path) -> None:
    owner = stopped.stat()
    bystander = subprocess.Popen(
        ["sleep", "60"], **({"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {})
    )
    try:
        _write_pid_file(stopped, bystander.pid)
        with use_server(folder) as server, psycopg.connect(server.conninfo()):
            assert find_postmaster(stopped) is not None
        stop_server(folder)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_p23_zombie_is_not_a_server(folder: Path, stopped: Path) -> None:
    zombie = subprocess.Popen(["true"])
    until(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_ZOMBIE, 5)
    _write_pid_file(stopped, zombie.pid)
    with use_server(folder) as server, psycopg.connect(server.conninfo()):
        pass
    zombie.wait()


def test_p23_start_after_a_crash_recovers_and_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("presage"), "propagate", True)
    with use_server(folder) as server:
        with psycopg.connect(server.conninfo()) as connection:
            connection.execute("DROP TABLE IF EXISTS survivor")
            connection.execute("CREATE TABLE survivor AS SELECT 7 AS n")
        crash(server.placement.data)
    with use_server(folder) as server, psycopg.connect(server.conninfo()) as connection:
        assert connection.execute("SELECT n FROM survivor").fetchone() == (7,)
    assert "not been stopped cleanly" in caplog.text


def test_p23_kept_server_outlives_its_users_until_it_is_stopped(folder: Path) -> None:
    data = keep_server(folder).placement.data
    time.sleep(LONGER_THAN_THE_WATCHER_WAITS_S)
    assert is_running(data)
    assert stop_server(folder)
    assert not is_running(data)
    assert not stop_server(folder)


def test_p23_server_in_use_is_not_stopped_by_hand(folder: Path) -> None:
    with user_of(folder) as user:
        with pytest.raises(LockedError, match="is using the server"):
            stop_server(folder)
        assert is_running(user.data)


def test_p23_lost_watcher_is_replaced(folder: Path) -> None:
    with user_of(folder) as user:
        postmaster = find_postmaster(user.data)
        assert postmaster is not None
        watcher = postmaster.parent()
        assert watcher is not None
        assert "presage_platform.postgres.watcher" in watcher.cmdline()
        watcher.kill()
        with user_of(folder):
            assert find_postmaster(user.data) == postmaster
        user.kill()
        until(lambda: not is_running(user.data), STOPS_WITHIN_S)


def test_interrupted_initialisation_leaves_nothing_that_looks_whole() -> None:
    with passable_workspace() as workspace:
        starter = begin_user(workspace)
        until(lambda: any(workspace.glob("postgres/data.new-*/base")) or starter.poll() is not None, 20)
        starter.kill()
        starter.communicate()
        with use_server(workspace) as server, psycopg.connect(server.conninfo()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def _write_pid_file(data: Path, pid: int) -> None:
    """Leave the pid file of a crashed server whose number has been given to another process."""
    path = data / "postmaster.pid"
    path.write_text(f"{pid}\n{data}\n{int(time.time()) - 1000}\n5432\n{data.parent / 'socket'}\n\n  123 4\nready\n")
    owner = data.stat()
    os.chown(path, owner.st_uid, owner.st_gid)
    path.chmod(0o600)
