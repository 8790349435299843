"""Keeps the answers of a synthetic hospital from the commands that they are held against.

Folder `truth/` of a synthetic hospital is for `platform synth`, `platform demo` and tests. Any other command refuses a
path into it on its command line, and cannot open a file of it while it runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from presage_platform.errors import InputError

MAY_READ = frozenset(("synth", "demo"))
FOLDER = "truth"
MARKS = ("synth.json", "synth.partial")  # what lies beside the folder tells that it is that of a synthetic hospital


@dataclass
class _State:
    """How many guarded commands run in this process, and whether its audit hook is there (it cannot be removed)."""

    depth: int = 0
    hooked: bool = False


_STATE = _State()


@contextmanager
def truth_withheld(command: str, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Withhold the truth of synthetic hospitals from a command while it runs, unless it is one that may read it.

    Raises
    ------
    InputError
        An argument is a path into the truth, or a file of it is opened.
    """
    if command in MAY_READ:
        yield
        return
    for value in arguments.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, str | Path) and is_truth(Path(item).absolute().resolve()):
                raise _refusal()
    if not _STATE.hooked:
        sys.addaudithook(_audit)
        _STATE.hooked = True
    _STATE.depth += 1
    try:
        yield
    finally:
        _STATE.depth -= 1


def is_truth(path: Path) -> bool:
    """Whether a path is the truth of a synthetic hospital, or lies in it."""
    places = [place for place in (path, *path.parents) if place.name == FOLDER]
    return any((place.parent / mark).exists() for place in places for mark in MARKS)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or _STATE.depth == 0 or not isinstance(arguments[0], str | bytes | os.PathLike):
        return
    name = os.fsdecode(arguments[0])
    if FOLDER in name and is_truth(Path(name).absolute()):
        raise _refusal()


def _refusal() -> InputError:
    return InputError(
        "a path leads into the truth/ of a synthetic hospital, which holds the answers: name its fhir/, dicom/ or "
        "vocabulary/ folder; `platform synth --oracle` writes what evaluation may see"
    )
