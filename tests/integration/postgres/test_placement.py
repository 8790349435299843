"""Who runs the server, and where, when root or an unusual account starts it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from presage_platform.postgres.binaries import find_binaries
from presage_platform.postgres.connection import open_database
from presage_platform.postgres.embedded import stop_server
from presage_platform.postgres.placement import STATE_FOLDER, state_folder_of
from presage_platform.postgres.process import find_postmaster
from presage_platform.settings import read_settings
from tests.lib.server import begin_user, end_server, first_line, is_running, mode_of, python_for, until, user_of

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root hands the server to another account")
UNNAMED_UID = 54_321


@pytest.fixture
def private_home() -> Iterator[Path]:
    """A 0700 folder of root's, as /root is, on a path that is otherwise passable."""
    folder = Path(tempfile.mkdtemp(prefix="presage-home-"))
    yield folder
    state = state_folder_of(folder / "workspace")
    end_server(state / "data")
    shutil.rmtree(state, ignore_errors=True)
    shutil.rmtree(folder)


@as_root
def test_p24_root_hands_the_server_to_an_existing_account() -> None:
    parent = Path(tempfile.mkdtemp(prefix="presage-root-"))
    parent.chmod(0o755)
    workspace = parent / "workspace"
    workspace.mkdir(mode=0o700)
    accounts = pwd.getpwall()
    try:
        with user_of(workspace) as user:
            postmaster = find_postmaster(user.data)
            assert postmaster is not None
            assert pwd.getpwuid(postmaster.uids().effective).pw_name in ("postgres", "nobody")
            assert postmaster.uids().saved != 0
            assert user.data.stat().st_uid == postmaster.uids().effective
            assert (mode_of(workspace), mode_of(parent), mode_of(user.data)) == (0o711, 0o755, 0o700)
        assert pwd.getpwall() == accounts
    finally:
        end_server(workspace / "postgres" / "data")
        shutil.rmtree(parent)


@as_root
def test_p24_workspace_under_a_private_home_keeps_its_data_elsewhere(private_home: Path) -> None:
    workspace = private_home / "workspace"
    state = state_folder_of(workspace)
    settings = read_settings(workspace, create=True)
    with open_database(settings, command="test") as database, database.connect() as connection:
        connection.execute("INSERT INTO location (location_id) VALUES (1)")
    assert state.parent == STATE_FOLDER
    assert (state / "data" / "PG_VERSION").exists()
    assert f'data_home = "{state}"' in (workspace / "platform.toml").read_text()
    assert mode_of(private_home) == 0o700

    moved = private_home / "renamed"
    workspace.rename(moved)
    with open_database(read_settings(moved), command="test") as database, database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM location").fetchone() == (1,)
    stop_server(moved, data_home=state)


@as_root
def test_p24_programs_under_a_private_home_are_copied(private_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRESAGE_PG_BIN", raising=False)
    found = find_binaries()
    hidden = private_home / found.tree.parent.name / found.tree.name
    shutil.copytree(found.tree, hidden, symlinks=True)
    for libraries in found.tree.parent.parent.glob(f"{found.tree.parent.name}.libs"):
        shutil.copytree(libraries, private_home / libraries.name)
    monkeypatch.setenv("PRESAGE_PG_BIN", str(hidden / "bin"))
    workspace = private_home / "workspace"
    workspace.mkdir()
    with user_of(workspace) as user:
        postmaster = find_postmaster(user.data)
        assert postmaster is not None
        assert Path(postmaster.exe()).is_relative_to(state_folder_of(workspace) / "programs")


def test_p24_ordinary_user_runs_the_server_as_himself() -> None:
    run_as = _unprivileged()
    python = python_for(**run_as)
    if python is None:
        pytest.skip("no Python here that an unprivileged account may run")
    workspace = Path(tempfile.mkdtemp(prefix="presage-user-"))
    if run_as:
        os.chown(workspace, run_as["user"], run_as["group"])
    try:
        with user_of(workspace, python=python, **run_as) as user:
            postmaster = find_postmaster(user.data)
            assert postmaster is not None
            assert postmaster.uids().effective == run_as.get("user", os.geteuid())
            assert (mode_of(workspace), mode_of(user.data)) == (0o700, 0o700)
            user.kill()
            until(lambda: not is_running(user.data), 10)
    finally:
        end_server(workspace / "postgres" / "data")
        shutil.rmtree(workspace)


@as_root
def test_p24_account_without_a_passwd_entry_gets_one_line() -> None:
    run_as = {"user": UNNAMED_UID, "group": UNNAMED_UID, "extra_groups": []}
    python = python_for(**run_as)
    if python is None:
        pytest.skip("no Python here that an unprivileged account may run")
    workspace = Path(tempfile.mkdtemp(prefix="presage-unnamed-"))
    os.chown(workspace, UNNAMED_UID, UNNAMED_UID)
    try:
        process = begin_user(workspace, python=python, stderr=subprocess.PIPE, **run_as)
        line = first_line(process)
        _, errors = process.communicate("\n", timeout=30)
        assert line.startswith("refused: uid 54321 has no account")
        assert "set database.url" in line
        assert errors == ""
    finally:
        shutil.rmtree(workspace)


def test_p22_long_workspace_path_gets_a_short_socket_folder() -> None:
    parent = Path(tempfile.mkdtemp(prefix="presage-long-"))
    parent.chmod(0o755)
    workspace = parent / ("w" * 100)
    workspace.mkdir(mode=0o700)
    try:
        with user_of(workspace) as user:
            assert is_running(user.data)
            from presage_platform.postgres.embedded import use_server

            with use_server(workspace) as server, psycopg.connect(server.conninfo()):
                folder = server.placement.socket_folder
                assert folder.parent == Path("/tmp")
                assert mode_of(folder) == 0o700
    finally:
        end_server(workspace / "postgres" / "data")
        shutil.rmtree(parent)
        shutil.rmtree(folder)


def test_p21_system_programs_serve_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    usable = [folder for folder in folders if (folder / "initdb").exists() and int(folder.parent.name) >= 15]
    if not usable:
        pytest.skip("no PostgreSQL of the system here")
    monkeypatch.setenv("PRESAGE_PG_BIN", str(usable[-1]))
    workspace = Path(tempfile.mkdtemp(prefix="presage-system-"))
    try:
        settings = read_settings(workspace, create=True)
        with open_database(settings, command="test") as database, database.connect() as connection:
            version = connection.info.server_version // 10_000
            assert version == int(usable[-1].parent.name)
            assert connection.execute("SELECT count(*) FROM person").fetchone() == (0,)
        monkeypatch.delenv("PRESAGE_PG_BIN")
        stop_server(workspace)
        _refuses_another_major(workspace, version)
    finally:
        end_server(workspace / "postgres" / "data")
        shutil.rmtree(workspace)


def _refuses_another_major(workspace: Path, version: int) -> None:
    from presage_platform.errors import DatabaseError

    if find_binaries().major == version:
        return
    expected = f"made by PostgreSQL {version}.*platform db backup.*platform db restore"
    with pytest.raises(DatabaseError, match=expected), open_database(read_settings(workspace), command="test"):
        pass


def _unprivileged() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam("nobody")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
