"""Structured logs: JSON lines in the workspace, a short line for people on stderr, a run id on each record.

Rule of the house: a record carries counts, durations and run ids. Values of patients, resource keys and names of files
below an argument never reach a record; exceptions are logged by type and place, not by message.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = "presage"


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module; every presage logger hangs below one root that is silent until configured."""
    return logging.getLogger(f"{ROOT}.{name.removeprefix('presage_')}")


def new_run_id() -> str:
    """Return an id for one invocation of a command: its UTC start and process number."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}"


def configure_logs(*, verbosity: int, quiet: bool, run_id: str, workspace: Path | None = None) -> None:
    """Send presage's records of this process to stderr and to one file a day in `workspace/logs` (mode 0600).

    The workspace may not exist yet: the file is opened by the first record that finds it there.
    """
    root = logging.getLogger(ROOT)
    for handler in list(root.handlers):
        handler.close()
        root.removeHandler(handler)
    root.propagate = False
    root.setLevel(logging.DEBUG)
    people = logging.StreamHandler(sys.stderr)
    people.setLevel(logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)])
    people.setFormatter(_HumanFormatter())
    handlers: list[logging.Handler] = [people]
    if workspace is not None:
        handlers.append(_WorkspaceHandler(workspace))
    for handler in handlers:
        handler.addFilter(_RunFilter(run_id))
        root.addHandler(handler)


def where(error: BaseException) -> list[str]:
    """Return the frames of an exception as `module:line function`, without its message or any value."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{Path(frame.filename).stem}:{frame.lineno} {frame.name}" for frame in frames]


class _WorkspaceHandler(logging.Handler):
    def __init__(self, workspace: Path) -> None:
        super().__init__(level=logging.DEBUG)
        self.workspace = workspace
        self.setFormatter(_JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if not self.workspace.is_dir():
                return
            folder = self.workspace / "logs"
            folder.mkdir(mode=0o700, exist_ok=True)
            path = folder / f"{time.strftime('%Y-%m-%d', time.gmtime())}.jsonl"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "a", encoding="utf-8") as file:
                file.write(self.format(record) + "\n")
        except OSError:
            return  # a log that cannot be written says nothing of its own: the command meets the same folder and tells


class _RunFilter(logging.Filter):
    def __init__(self, run_id: str) -> None:
        super().__init__()
        self.run_id = run_id

    def filter(self, record: logging.LogRecord) -> bool:
        record.run_id = self.run_id
        return True


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", {})
    return {key: value for key, value in fields.items() if isinstance(value, (int, float, str, bool, type(None)))}


class _HumanFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{key}={value}" for key, value in _fields(record).items())
        return f"{record.levelname.lower()}: {record.getMessage()}{' ' + fields if fields else ''}"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "run": getattr(record, "run_id", None),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            document["exception"] = type(record.exc_info[1]).__name__
            document["frames"] = where(record.exc_info[1])
        return json.dumps(document, separators=(",", ":"))
