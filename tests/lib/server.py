"""Processes that use an embedded server, so that tests can end them in every way a process ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg

import presage_platform
from presage_platform.postgres.process import backends_of, find_postmaster, stop_postmaster

SOURCE_ROOT = Path(presage_platform.__file__).parents[1]
SITE_PACKAGES = Path(psycopg.__file__).parents[1]

USE_SERVER = """
import sys, time
from pathlib import Path
import psycopg
from presage_platform.errors import PresageError
from presage_platform.postgres.embedded import use_server
try:
    with use_server(Path(sys.argv[1])) as server:
        with psycopg.connect(server.conninfo()) as connection:
            connection.execute("SELECT 1")
        print(server.placement.data, flush=True)
        sys.stdin.readline()
except PresageError as error:
    print("refused:", error, flush=True)
"""


@dataclass
class User:
    """A process that uses the server of a workspace until it is told, or killed, to end."""

    process: subprocess.Popen[str]
    data: Path

    def leave(self) -> None:
        """End in good order."""
        self.process.communicate("\n", timeout=30)

    def kill(self) -> None:
        """End by SIGKILL."""
        self.process.kill()
        self.process.communicate(timeout=30)


def begin_user(workspace: Path, *, python: str = sys.executable, **run_as: Any) -> subprocess.Popen[str]:
    """Start a process that will use the server; its first line is the data folder, or `refused: …`."""
    return subprocess.Popen(
        [python, "-c", USE_SERVER, str(workspace)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(SOURCE_ROOT), str(SITE_PACKAGES)))},
        **run_as,
    )


def first_line(process: subprocess.Popen[str]) -> str:
    """Return what a user says first."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextlib.contextmanager
def user_of(workspace: Path, **options: Any) -> Iterator[User]:
    """Start a user and wait until it is connected; it is killed at the end if it still lives."""
    process = begin_user(workspace, **options)
    try:
        line = first_line(process)
        assert line.startswith("/"), line
        yield User(process, Path(line))
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)


@contextlib.contextmanager
def passable_workspace() -> Iterator[Path]:
    """An empty workspace that every account can reach (pytest's own folders are private)."""
    folder = Path(tempfile.mkdtemp(prefix="presage-life-"))
    try:
        yield folder
    finally:
        end_server(folder / "postgres" / "data")
        shutil.rmtree(folder, ignore_errors=True)


def end_server(data: Path) -> None:
    """Stop what a failed test may have left."""
    stop_postmaster(data)


def until(condition: Callable[[], bool], patience_s: float) -> float:
    """Wait for a condition; return the seconds that it took, or fail."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < patience_s, f"nothing happened within {patience_s} s"
        time.sleep(0.05)
    return time.monotonic() - begin


def is_running(data: Path) -> bool:
    """True when a verified postmaster serves this folder."""
    return find_postmaster(data) is not None


def postmasters(data: Path) -> list[psutil.Process]:
    """Return processes of the server whose parent is not one of them."""
    found = backends_of(data)
    return [process for process in found if process.ppid() not in {other.pid for other in found}]


def crash(data: Path) -> None:
    """SIGKILL the verified postmaster."""
    postmaster = find_postmaster(data)
    assert postmaster is not None
    os.kill(postmaster.pid, signal.SIGKILL)
    until(lambda: not backends_of(data), 15)


def mode_of(path: Path) -> int:
    """Return the permission bits of a path."""
    return stat.S_IMODE(path.stat().st_mode)


def python_for(**run_as: Any) -> str | None:
    """Return a Python that this account can run with our packages, or None."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            run = subprocess.run(
                [python, "-c", "import psycopg, psutil, presage_platform"],
                env={"PYTHONPATH": os.pathsep.join((str(SOURCE_ROOT), str(SITE_PACKAGES)))},
                cwd="/",
                capture_output=True,
                check=False,
                **run_as,
            )
        except OSError:
            continue
        if run.returncode == 0:
            return python
    return None
