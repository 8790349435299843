"""Bulk manifests: which files an export says it has, and when it was made (E5).

Only local files are read: a URL of the manifest is matched to the file beside it that has its last path segment.
Deletions are refused until they are carried out, never passed over.
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
    """What a manifest says: its files, those that hold errors and are not loaded, and the day it was made."""

    path: Path
    files: tuple[Path, ...]
    errors: tuple[Path, ...]
    extracted_on: str


def expand_manifests(paths: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """Return the files to read, manifests replaced by what they list, and the export's day for the listed ones.

    Raises
    ------
    InputError
        When a listed file is missing, or a manifest lists deletions.
    """
    files: list[Path] = []
    made_on: dict[Path, str] = {}
    errors: set[Path] = set()
    for path in paths:
        manifest = read_manifest(path)
        if manifest is None:
            files.append(path)
            continue
        files += manifest.files
        errors |= set(manifest.errors)
        made_on |= dict.fromkeys(manifest.files, manifest.extracted_on)
    return [path for path in dict.fromkeys(files) if path not in errors], made_on


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
    if document.get("deleted"):
        raise InputError(
            "the bulk manifest lists deletions, which this version does not carry out: load the export's files one by "
            "one and delete by hand, or wait for a full export"
        )
    return Manifest(
        path,
        tuple(_beside(path, entry) for entry in document["output"]),
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
