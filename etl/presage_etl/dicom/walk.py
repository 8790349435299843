"""The sources of a scan, and every regular file under them: streamed, each real path once, names as bytes."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from presage_platform.errors import InputError

ROOTS_FILE = "roots.json"


@dataclass(frozen=True, slots=True)
class Source:
    """One place to scan: a folder or a file below a registered root."""

    root_id: int
    root: Path
    below: bytes  # path relative to the root; b"" = all of it
    is_file: bool

    def covers(self, root_id: int, rel_path: bytes) -> bool:
        """Tell whether a catalogued file lies within this source."""
        if root_id != self.root_id:
            return False
        return rel_path == self.below if self.is_file else not self.below or rel_path.startswith(self.below + b"/")


@dataclass(slots=True)
class Skipped:
    """What the walk saw and did not hand on."""

    links_outside: int = 0
    links_inside: int = 0
    special_files: int = 0
    unreadable_folders: int = 0


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file, as `stat` saw it."""

    root_id: int
    rel_path: bytes
    size: int
    mtime_ns: int


def read_roots(catalogue_dir: Path) -> dict[int, Path]:
    """Return the roots that `root_id` stands for."""
    path = catalogue_dir / ROOTS_FILE
    if not path.exists():
        return {}
    return {int(number): Path(root) for number, root in json.loads(path.read_text(encoding="utf-8")).items()}


def register_sources(given: Sequence[Path | str], catalogue_dir: Path) -> list[Source]:
    """Check the sources before any work, and give each a root; a source below a known root belongs to it.

    Raises
    ------
    InputError
        When a source is missing, unreadable or of a kind that is not read.
    """
    resolved = sorted({_check_source(source) for source in given})
    roots = read_roots(catalogue_dir)
    known = len(roots)
    sources = [_place(path, roots) for path in resolved]
    if len(roots) > known:
        _write_roots(catalogue_dir, roots)
    return sources


def walk_source(source: Source, skipped: Skipped, *, follow_links: bool = False) -> Iterator[FoundFile]:
    """Yield every regular file of a source, folder by folder in the order of names."""
    root = os.fsencode(source.root)
    start = root + b"/" + source.below if source.below else root
    if source.is_file:
        found = os.stat(start)  # noqa: PTH116 - names are bytes
        yield FoundFile(source.root_id, source.below, found.st_size, found.st_mtime_ns)
        return
    yield from _Walk(source.root_id, root, skipped, follow_links).folder(start, source.below)


def _check_source(given: Path | str) -> Path:
    if str(given).startswith(("http:", "https:")):
        raise InputError("a DICOMweb address is not read yet: give a folder or a file")
    path = Path(given)
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"source {path} cannot be read ({error.strerror}): give a folder or a file") from None
    path = path.resolve()
    if stat.S_ISREG(found.st_mode):
        # a DICOMDIR is an index of its folder: the walk finds what it lists, and what it does not
        path = path.parent if path.name.upper() == "DICOMDIR" else path
    elif not stat.S_ISDIR(found.st_mode):
        raise InputError(f"source {path} is neither a folder nor a regular file: give a folder or a file")
    if not os.access(path, os.R_OK):
        raise InputError(f"source {path} cannot be read (Permission denied): change its mode or give another")
    return path


def _place(path: Path, roots: dict[int, Path]) -> Source:
    is_file = path.is_file()
    for root_id, root in sorted(roots.items()):
        if path == root or root in path.parents:
            below = b"" if path == root else os.fsencode(path.relative_to(root))
            return Source(root_id, root, below, is_file)
    root_id = max(roots, default=0) + 1
    roots[root_id] = path.parent if is_file else path
    return Source(root_id, roots[root_id], os.fsencode(path.name) if is_file else b"", is_file)


def _write_roots(catalogue_dir: Path, roots: dict[int, Path]) -> None:
    new = catalogue_dir / f"{ROOTS_FILE}.tmp"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({str(number): str(root) for number, root in roots.items()}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    new.replace(catalogue_dir / ROOTS_FILE)


@dataclass(slots=True)
class _Walk:
    """State of one walk: which real folders were entered, what was skipped."""

    root_id: int
    root: bytes
    skipped: Skipped
    follow_links: bool
    entered: set[tuple[int, int]] = field(default_factory=set)

    def folder(self, path: bytes, below: bytes) -> Iterator[FoundFile]:
        pending = [(path, below)]
        while pending:
            path, below = pending.pop()
            folders: list[tuple[bytes, bytes]] = []
            for entry in self._entries(path):
                rel_path = below + b"/" + entry.name if below else entry.name
                yield from self._entry(entry, rel_path, folders)
            pending.extend(reversed(folders))

    def _entries(self, path: bytes) -> list[os.DirEntry[bytes]]:
        try:
            found = os.stat(path)  # noqa: PTH116 - names are bytes
            if (found.st_dev, found.st_ino) in self.entered:
                return []
            self.entered.add((found.st_dev, found.st_ino))
            with os.scandir(path) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError:
            self.skipped.unreadable_folders += 1
            return []

    def _entry(
        self, entry: os.DirEntry[bytes], rel_path: bytes, folders: list[tuple[bytes, bytes]]
    ) -> Iterator[FoundFile]:
        if entry.is_symlink() and not self._follows(entry.path):
            return
        try:
            found = entry.stat()
        except OSError:
            self.skipped.special_files += 1
            return
        if stat.S_ISDIR(found.st_mode):
            folders.append((entry.path, rel_path))
        elif stat.S_ISREG(found.st_mode):
            yield FoundFile(self.root_id, rel_path, found.st_size, found.st_mtime_ns)
        else:
            self.skipped.special_files += 1

    def _follows(self, path: bytes) -> bool:
        """Judge a symbolic link: one that stays inside is seen at its real path, one that leaves needs permission."""
        target = os.path.realpath(path)
        if target == self.root or target.startswith(self.root + b"/"):
            self.skipped.links_inside += 1
            return False
        if not self.follow_links:
            self.skipped.links_outside += 1
        return self.follow_links
