"""The parent of the embedded server: it outlives every command, and stops the server when the last user is gone.

Users hold a shared lock on `users.lock`, which the kernel releases however they end, SIGKILL included. The watcher
tries the exclusive one: when it gets it, nobody is left. Started by `embedded.py` as `python -m …watcher`, with one
JSON argument; it answers on its standard output with one line, `ready` or `failed <reason>`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from presage_platform.postgres.process import find_postmaster, stop_postmaster

POLL_S = 0.25
LINGER_S = 3.0  # the next command of a script finds the server still warm; with both shutdowns below 10 s
START_PATIENCE_S = 300.0  # recovery after a crash may replay gigabytes of log


@dataclass(frozen=True)
class Orders:
    """What a watcher is told: paths, the account of the server (None: our own), and the command that starts it."""

    home: str
    data: str
    command: list[str] | None  # None: the server runs already, its watcher was lost
    uid: int | None = None
    gid: int | None = None

    def as_argument(self) -> str:
        """Serialise for the command line."""
        return json.dumps(asdict(self))


def main() -> None:
    """Detach from the starting command, start the server when asked to, and watch it to its end."""
    orders = Orders(**json.loads(sys.argv[1]))
    if os.fork():
        os._exit(0)
    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watching = os.open(Path(orders.home) / "watcher.lock", os.O_RDWR | os.O_CREAT, 0o600)
    # To start a server, wait for the watcher of the one before, which ends at its next look; to adopt one, do not.
    patience = 0 if orders.command else fcntl.LOCK_NB
    try:
        fcntl.flock(watching, fcntl.LOCK_EX | patience)
    except BlockingIOError:
        _answer("ready")  # the server has a watcher
        return
    child = _start(orders)
    if orders.command is not None and child is None:
        return
    _watch(orders, child)


def _start(orders: Orders) -> subprocess.Popen[bytes] | None:
    if orders.command is None:
        _answer("ready")
        return None
    log = os.open(Path(orders.home) / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    child = subprocess.Popen(
        orders.command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
        start_new_session=True,
        user=orders.uid,
        group=orders.gid,
        extra_groups=None if orders.uid is None else [],
    )
    os.close(log)
    end = time.monotonic() + START_PATIENCE_S
    while time.monotonic() < end:
        if child.poll() is not None:
            _answer(f"failed the server ended with code {child.returncode} while starting")
            return None
        if _is_ready(Path(orders.data)):
            _answer("ready")
            return child
        time.sleep(0.03)
    stop_postmaster(Path(orders.data))
    _answer(f"failed the server was not ready after {START_PATIENCE_S:.0f} s")
    return None


def _is_ready(data: Path) -> bool:
    """The postmaster writes its state into line 8 of its pid file."""
    try:
        lines = (data / "postmaster.pid").read_text(errors="replace").split("\n")
    except OSError:
        return False
    return len(lines) > 7 and lines[7].strip() == "ready" and find_postmaster(data) is not None


def _answer(line: str) -> None:
    """Tell the starting command, then let go of its pipe."""
    with contextlib.suppress(BrokenPipeError, OSError):
        os.write(1, f"{line}\n".encode())
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _watch(orders: Orders, child: subprocess.Popen[bytes] | None) -> None:
    """Poll until the server is gone; stop it when nobody has used it for a while and it is not to be kept."""
    home, data = Path(orders.home), Path(orders.data)
    idle_since: float | None = None
    while _is_alive(child, data):
        with _nobody_uses(home) as free:
            if not free or (home / "keep").exists():
                idle_since = None
            elif idle_since is None:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since >= LINGER_S and stop_postmaster(data):
                if child is not None:
                    child.wait()
                return
        time.sleep(POLL_S)


def _is_alive(child: subprocess.Popen[bytes] | None, data: Path) -> bool:
    if child is not None:
        return child.poll() is None
    return find_postmaster(data) is not None


@contextlib.contextmanager
def _nobody_uses(home: Path) -> Iterator[bool]:
    """Hold both locks for a moment: no start is under way, and no user is left. False when either is taken."""
    with contextlib.ExitStack() as held:
        for name in ("start.lock", "users.lock"):
            descriptor = os.open(home / name, os.O_RDWR | os.O_CREAT, 0o600)
            held.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
        yield True


if __name__ == "__main__":
    main()
