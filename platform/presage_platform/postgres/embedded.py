"""The embedded server: a PostgreSQL that a workspace carries with it, started by its first user.

`use_server` joins or starts it. A lock (`start.lock`) decides who starts and stops; every user holds a shared lock on
`users.lock`, which ends with the process however it ends; a watcher (`watcher.py`) stops the server when none is held.
`postmaster.pid` is believed only when that process is our postgres on our data folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from presage_platform.errors import DatabaseError, DiskFullError, LockedError, PresageError
from presage_platform.logs import get_logger
from presage_platform.postgres.binaries import find_binaries
from presage_platform.postgres.configuration import configuration_of_this_machine
from presage_platform.postgres.placement import Placement, place
from presage_platform.postgres.process import backends_of, find_postmaster, pid_in_file, stop_postmaster
from presage_platform.postgres.watcher import Orders

log = get_logger(__name__)

SUPERUSER = "presage"
DATABASE = "presage"
START_LOCK_PATIENCE_S = 330.0  # longer than the watcher's patience with a recovering server
ORPHAN_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Server:
    """A running embedded server."""

    placement: Placement

    def conninfo(self, database: str = DATABASE, user: str = SUPERUSER) -> str:
        """Return a connection string of the socket."""
        from psycopg.conninfo import make_conninfo

        return make_conninfo("", host=str(self.placement.socket_folder), user=user, dbname=database)


@contextmanager
def use_server(workspace: Path, *, data_home: Path | None = None) -> Iterator[Server]:
    """Join the server of a workspace, starting it if need be; it stays up until every user has left."""
    placement = place(workspace, find_binaries(), data_home=data_home)
    with _locked(placement.home / "start.lock"):
        users = _open_lock(placement.home / "users.lock")
        try:
            fcntl.flock(users, fcntl.LOCK_SH)
            _ensure_running(placement)
        except OSError as error:
            os.close(users)
            raise _cannot_start(error) from None
        except BaseException:
            os.close(users)
            raise
    try:
        yield Server(placement)
    finally:
        os.close(users)  # closing, not unlocking: children that were forked meanwhile still use the server


def keep_server(workspace: Path, *, data_home: Path | None = None) -> Server:
    """Start the server and let it run without users, until `stop_server`."""
    with use_server(workspace, data_home=data_home) as server:
        (server.placement.home / "keep").touch(mode=0o600)
        return server


def stop_server(workspace: Path, *, data_home: Path | None = None) -> bool:
    """Stop the server; False when none was running.

    Raises
    ------
    LockedError
        When a command is using it.
    """
    placement = place(workspace, find_binaries(), data_home=data_home)
    with _locked(placement.home / "start.lock"):
        (placement.home / "keep").unlink(missing_ok=True)
        if find_postmaster(placement.data) is None:
            return False
        users = _open_lock(placement.home / "users.lock")
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not stop_postmaster(placement.data):
                raise DatabaseError("the server does not stop: look into its server.log")
        except BlockingIOError:
            raise LockedError("a command is using the server: wait for it to end, then stop the server") from None
        finally:
            os.close(users)
    return True


def _ensure_running(placement: Placement) -> None:
    """Under `start.lock`: make sure that a verified postmaster and a watcher are there."""
    if find_postmaster(placement.data) is not None:
        _start_watcher(placement, command=None)
        return
    if (placement.data / "PG_VERSION").exists():
        _refuse_other_major(placement)
        _clear_after_crash(placement)
    else:
        _initialise(placement)
    _write_configuration(placement)
    _start_watcher(placement, command=_server_command(placement))
    _create_database(placement)


def _initialise(placement: Placement) -> None:
    """Make the data folder aside and rename it: an interrupted initdb leaves nothing that looks whole."""
    for left_over in placement.home.glob("data.new-*"):
        shutil.rmtree(left_over, ignore_errors=True)  # an initdb whose command was killed may still be writing there
    partial = Path(tempfile.mkdtemp(prefix="data.new-", dir=placement.home))
    placement.give(partial)
    locale = ["--locale-provider=builtin", "--locale=C.UTF-8"] if placement.binaries.major >= 17 else ["--locale=C"]
    command = [placement.binaries.program("initdb"), "-D", str(partial), "-U", SUPERUSER, "--auth=trust", "-E", "UTF8"]
    run = subprocess.run(
        [*command, *locale, "--data-checksums"],
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **placement.run_as,
    )
    if run.returncode != 0:
        shutil.rmtree(partial, ignore_errors=True)
        reason = next((line for line in run.stderr.splitlines() if "error:" in line), f"initdb: code {run.returncode}")
        kind = DiskFullError if "No space left" in run.stderr else DatabaseError
        raise kind(f"the data folder of the embedded server could not be made ({reason}): set database.url to a server")
    with (partial / "postgresql.conf").open("a") as file:
        file.write("\ninclude 'presage.conf'\ninclude_if_exists 'user.conf'\n")
    partial.rename(placement.data)


def _refuse_other_major(placement: Placement) -> None:
    found = (placement.data / "PG_VERSION").read_text().strip()
    if found != str(placement.binaries.major):
        raise DatabaseError(
            f"the data folder was made by PostgreSQL {found}, the programs here are {placement.binaries.major}: "
            f"run `platform db backup FILE` with PRESAGE_PG_BIN naming a PostgreSQL {found}, move the folder "
            f"{placement.data} aside, then `platform db restore FILE`"
        )


def _clear_after_crash(placement: Placement) -> None:
    """Remove a pid file that nobody stands behind; postgres itself would mistake a recycled pid for another server."""
    pid_file = placement.data / "postmaster.pid"
    if not pid_file.exists():
        return
    end = time.monotonic() + ORPHAN_PATIENCE_S
    while orphans := backends_of(placement.data):  # they end by themselves soon after their postmaster died
        if time.monotonic() > end:
            raise DatabaseError(
                f"{len(orphans)} processes of a crashed server still work in {placement.data}: "
                "end them (`ps -ef | grep postgres`), then try again"
            )
        time.sleep(0.1)
    log.warning("the database server had not been stopped cleanly: it recovers now")
    log.info("stale pid file", extra={"fields": {"pid": pid_in_file(placement.data)}})
    pid_file.unlink(missing_ok=True)


def _write_configuration(placement: Placement) -> None:
    path = placement.data / "presage.conf"
    partial = placement.data / "presage.conf.new"
    partial.write_text(configuration_of_this_machine(placement.data, placement.binaries.major))
    partial.chmod(0o600)
    placement.give(partial)
    partial.rename(path)
    for stale in placement.socket_folder.iterdir():  # no postmaster runs: a socket or its lock file is left over
        stale.unlink(missing_ok=True)


def _server_command(placement: Placement) -> list[str]:
    return [
        placement.binaries.program("postgres"),
        "-D",
        str(placement.data),
        "-k",
        str(placement.socket_folder),
        "-c",
        "listen_addresses=",
    ]


def _start_watcher(placement: Placement, command: list[str] | None) -> None:
    account = placement.account
    orders = Orders(
        home=str(placement.home),
        data=str(placement.data),
        command=command,
        uid=account.uid if account else None,
        gid=account.gid if account else None,
    )
    root = str(Path(__file__).resolve().parents[2])
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "presage_platform.postgres.watcher", orders.as_argument()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))},
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout as answers:
        answer = answers.readline().decode().strip()
    process.wait()  # the watcher has detached itself; this is its short-lived parent
    if answer != "ready":
        reason = answer.removeprefix("failed ") or "its watcher ended"
        raise DatabaseError(f"the embedded server did not start ({reason}): look into {placement.home / 'server.log'}")


def _create_database(placement: Placement) -> None:
    import psycopg
    from psycopg import sql

    with psycopg.connect(Server(placement).conninfo("postgres"), autocommit=True) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
        if found is None:
            # Only our database has a wall around SQL tasks: their login must not enter by another door.
            connection.execute("REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC")
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


def _cannot_start(error: OSError) -> PresageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError("no disk space is left to start the embedded server: free some, then try again")
    return DatabaseError(
        f"the embedded server cannot be started ({error.strerror}): put the workspace on a local disk, "
        "or set database.url to a server"
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = _open_lock(path)
    try:
        end = time.monotonic() + START_LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise LockedError("another command has been starting the server for minutes: end it") from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
