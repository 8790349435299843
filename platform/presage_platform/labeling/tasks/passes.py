"""Which task has passed its own tests, remembered by everything that a pass depends on."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.resources import files
from pathlib import Path

from presage_platform.labeling.hashing import hash_json
from presage_platform.labeling.tasks.compile import Compiled
from presage_platform.labeling.tasks.locks import Lock
from presage_platform.runs import write_atomically

ENGINE = ("labeling", "labeling.tasks")
"""Packages whose code decides what a task gives."""


class Passes:
    """Passes in one file of the workspace: task → hash of its text, lock, fixture and of the engine's code."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.known: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.known = {}  # nothing is remembered: every test runs again

    def holds(self, compiled: Compiled, lock: Lock) -> bool:
        """Return whether this very task has passed before."""
        return self.known.get(compiled.task.name) == pass_key(compiled, lock)

    def remember(self, compiled: Compiled, lock: Lock) -> None:
        """Write a pass down."""
        self.known[compiled.task.name] = pass_key(compiled, lock)
        write_atomically(self.path, (json.dumps(self.known, indent=1, sort_keys=True) + "\n").encode())


def pass_key(compiled: Compiled, lock: Lock) -> str:
    """Return the hash of a task's text, lock and fixture and of the engine's code."""
    task = compiled.task
    fixture = task.fixture_path.read_bytes() if task.fixture_path.is_file() else b""
    return hash_json([task.body_hash, lock.lock_hash, hashlib.sha256(fixture).hexdigest(), engine_sha256()])


@cache
def engine_sha256() -> str:
    """Return the hash of the code that runs tasks."""
    digest = hashlib.sha256()
    for package in ENGINE:
        for entry in sorted(files(f"presage_platform.{package}").iterdir(), key=lambda found: found.name):
            if entry.name.endswith(".py"):
                digest.update(entry.read_bytes())
    return digest.hexdigest()
