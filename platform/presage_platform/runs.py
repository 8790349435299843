"""The run folder: what was asked, with which inputs, seeds and versions; written once, locked while in use."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform as host_platform
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from presage_platform.errors import InputError, LockedError, RecipeError

PACKAGES = ("presage", "torch", "monai", "numpy", "scikit-survival", "scikit-learn", "pyarrow")


class RunFolder:
    """A folder below `runs/`, held by one process at a time.

    Use as a context manager; entering takes the lock, leaving gives it back. The kernel drops the lock of a process
    that was killed, so a dead run never blocks its own resumption.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def __enter__(self) -> Self:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise LockedError(
                f"run {self.path.name} is in use by {holder}: wait for it, or choose another run"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{socket.gethostname()} pid {os.getpid()}".encode(), 0)
        self._lock = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write_json(self, name: str, document: Any) -> None:
        """Write `name` atomically: readers see the old document or the new one."""
        write_atomically(self.path / name, canonical_json(document, indent=2).encode())

    def read_json(self, name: str) -> Any:
        """Read a document that `write_json` wrote."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{self.path} holds no {name}: expected a run folder of `platform train`") from None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file by temporary name, fsync and rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def canonical_json(document: Any, *, indent: int | None = None) -> str:
    """Return JSON with sorted keys and no NaN: equal documents give equal text."""
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(
        document, sort_keys=True, indent=indent, separators=separators, allow_nan=False, ensure_ascii=False
    )


def sha256_json(document: Any) -> str:
    """Return the sha256 (64 hex digits) of a document's canonical JSON."""
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()


def environment_fingerprint() -> dict[str, Any]:
    """Return versions of packages, interpreter and system, and the git revision when there is one."""
    packages: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = None
    return {
        "packages": packages,
        "python": host_platform.python_version(),
        "system": f"{host_platform.system()} {host_platform.machine()}",
        "revision": _git_revision(),
    }


def check_same(what: str, *, found: str, expected: str) -> None:
    """Raise RecipeError when a fingerprint differs from the one that a run was started with."""
    if found != expected:
        raise RecipeError(
            f"{what} is {found[:16]}, the run was started with {expected[:16]}: "
            "resume with the same inputs, or start a new run"
        )


def _git_revision() -> str | None:
    try:
        run = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip() or None
