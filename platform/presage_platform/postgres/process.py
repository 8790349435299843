"""Which process is our postmaster, and how it is stopped: a pid in a file is a rumour until the process itself agrees.

Used by the embedded server and by its watcher; a process group is never signalled, only one verified postmaster.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil

FAST_SHUTDOWN_S = 5.0
IMMEDIATE_SHUTDOWN_S = 1.5


def find_postmaster(data: Path) -> psutil.Process | None:
    """Return the live process that serves this data folder, or None; zombies and recycled pids do not count."""
    pid = pid_in_file(data)
    if pid is None:
        return None
    try:
        process = psutil.Process(pid)
        return process if _serves(process, data) else None
    except psutil.Error:
        return None


def pid_in_file(data: Path) -> int | None:
    """Return what postmaster.pid claims, or None when it is absent or not a number."""
    try:
        first = (data / "postmaster.pid").read_text(errors="replace").split("\n", 1)[0].strip()
    except OSError:
        return None
    return abs(int(first)) if first.lstrip("-").isdigit() else None


def backends_of(data: Path) -> list[psutil.Process]:
    """Return every live postgres process that works in this data folder, the postmaster included."""
    found = []
    for process in psutil.process_iter():
        try:
            if _serves(process, data):
                found.append(process)
        except psutil.Error:
            continue
    return found


def stop_postmaster(data: Path) -> bool:
    """Stop the verified postmaster: a fast shutdown, then an immediate one; True when nothing serves the folder now."""
    for number, patience_s in ((signal.SIGINT, FAST_SHUTDOWN_S), (signal.SIGQUIT, IMMEDIATE_SHUTDOWN_S)):
        process = find_postmaster(data)
        if process is None:
            return True
        _signal(process, number, data)
        if _gone(process, patience_s):
            return True
    return False


def _serves(process: psutil.Process, data: Path) -> bool:
    if process.status() == psutil.STATUS_ZOMBIE:
        return False
    if not process.name().startswith("postgres"):
        return False
    return os.path.realpath(process.cwd()) == os.path.realpath(data)  # every postgres process works in its data folder


def _signal(process: psutil.Process, number: signal.Signals, data: Path) -> None:
    """Send a signal to exactly this process: the handle is taken first and the identity checked after it."""
    try:
        if not hasattr(os, "pidfd_open"):
            process.send_signal(number)  # psutil compares the start time
            return
        handle = os.pidfd_open(process.pid)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return
    try:
        if process.is_running() and _serves(process, data):
            signal.pidfd_send_signal(handle, number)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return
    finally:
        os.close(handle)


def _gone(process: psutil.Process, patience_s: float) -> bool:
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        try:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False
