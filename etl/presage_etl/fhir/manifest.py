"""Bulk manifests: which files an export says it has, what was deleted since, and when it was made (E5).

Only local files are read: a URL of the manifest is matched to the file beside it that has its last path segment.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from presage_platform.errors import InputError

MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says: its files, those of deletions, those that hold errors, and the day it was made."""

    path: Path
    files: tuple[Path, ...]
    deleted: tuple[Path, ...]
    errors: tuple[Path, ...]
    extracted_on: str


@dataclass(frozen=True, slots=True)
class Listing:
    """The files to read, those among them that are applied after all others, and the export's day of listed ones."""

    files: tuple[Path, ...]
    deleted: frozenset[Path]
    made_on: dict[Path, str]


def expand_manifests(paths: Sequence[Path]) -> Listing:
    """Return the files to read, manifests replaced by what they list; files of errors are not loaded.

    Raises
    ------
    InputError
        When a listed file is missing.
    """
    files: list[Path] = []
    deleted: set[Path] = set()
    made_on: dict[Path, str] = {}
    errors: set[Path] = set()
    for path in paths:
        manifest = read_manifest(path)
        if manifest is None:
            files.append(path)
            continue
        files += (*manifest.files, *manifest.deleted)
        deleted |= set(manifest.deleted)
        errors |= set(manifest.errors)
        made_on |= dict.fromkeys((*manifest.files, *manifest.deleted), manifest.extracted_on)
    return Listing(tuple(path for path in dict.fromkeys(files) if path not in errors), frozenset(deleted), made_on)


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest that a file is, None when it is something else."""
    if path.suffix != ".json" or path.stat().st_size > MAX_BYTES:
        return None
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        return None
    if not isinstance(document, dict) or not {"transactionTime", "output"} <= document.keys():
        return None
    return Manifest(
        path,
        tuple(_beside(path, entry) for entry in document["output"]),
        tuple(_beside(path, entry) for entry in document.get("deleted") or ()),
        tuple(_beside(path, entry) for entry in document.get("error") or ()),
        str(document["transactionTime"])[:10],
    )


def _beside(manifest: Path, entry: Any) -> Path:
    name = urlsplit(str(entry.get("url", ""))).path.rsplit("/", 1)[-1] if isinstance(entry, dict) else ""
    for candidate in (name, f"{name}.gz", f"{name}.zst"):
        path = manifest.parent / candidate
        if name and path.is_file():
            return path
    kind = entry.get("type") if isinstance(entry, dict) else None
    raise InputError(
        f"the bulk manifest lists a file of type {kind} that is not beside it: download it again, or load the files "
        "that are there by naming them"
    )
