"""Splits by person: stated once, hashed, never rewritten, and proved free of overlap on every run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from presage_platform.errors import IntegrityError, UsageError
from presage_platform.labeling.hashing import NAME_DIGITS
from presage_platform.labeling.store_writer import SPLITS, write_json


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Which part each person belongs to: 0 train, 1 valid, 2 test."""

    split_id: str
    person_id: NDArray[np.int64]
    part: NDArray[np.uint8]
    document: Mapping[str, Any]

    def of(self, person_id: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the part of each person of a list."""
        return self.part[np.searchsorted(self.person_id, person_id)]


def split_persons(
    person_id: NDArray[np.int64],
    *,
    seed: int,
    fractions: Sequence[float],
    method: str = "hash",
    group: Sequence[Any] | None = None,
) -> Split:
    """Divide persons into train, valid and test.

    Parameters
    ----------
    person_id
        Distinct persons, any order.
    method
        ``"hash"`` of the person, ``"site"``: hash of the site, ``"date"``: by first study, earliest to train.
    group
        For ``"site"`` and ``"date"``: the site or first date of each person, in the order of `person_id`.
    """
    order = np.argsort(person_id, kind="stable")
    persons = person_id[order]
    edges = np.cumsum(fractions)[:-1]
    if method == "date":
        position = _date_position(np.asarray(group)[order])
    else:
        keys = persons.tolist() if method == "hash" else [str((group or [])[i]) for i in order]
        position = np.array([unit_interval(seed, key) for key in keys], dtype=np.float64)
    part = np.searchsorted(edges, position, side="right").astype(np.uint8)
    listing = "".join(f"{person}:{number}\n" for person, number in zip(persons.tolist(), part.tolist(), strict=True))
    sha256 = hashlib.sha256(listing.encode()).hexdigest()
    document = {
        "split_id": sha256[:NAME_DIGITS],
        "sha256": sha256,
        "seed": seed,
        "fractions": list(fractions),
        "method": method,
        "persons": {name: int((part == number).sum()) for number, name in enumerate(SPLITS)},
        "persons_sha256": persons_hash(persons),
        "persons_sha256_by_split": {name: persons_hash(persons[part == number]) for number, name in enumerate(SPLITS)},
    }
    return Split(sha256[:NAME_DIGITS], persons, part, document)


def unit_interval(seed: int, key: object) -> float:
    """Return the place of a person (or site) in [0, 1): the first 32 bits of a hash, so that it never moves."""
    return int(hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()[:8], 16) / 2**32


def persons_hash(person_id: NDArray[np.int64]) -> str:
    """Return the sha256 over the sorted distinct person ids."""
    lines = "".join(f"{person}\n" for person in np.unique(person_id).tolist())
    return hashlib.sha256(lines.encode()).hexdigest()


def keep_split(folder: Path, split: Split, *, new_split: bool = False) -> Path:
    """Write the manifest of a split once; an existing one is never rewritten.

    Raises
    ------
    UsageError
        If these persons were split otherwise before and a new split was not asked for.
    """
    path = folder / f"{split.split_id}.json"
    if path.is_file():
        return path
    others = [json.loads(other.read_text(encoding="utf-8")) for other in sorted(folder.glob("*.json"))]
    same = [other["split_id"] for other in others if other["persons_sha256"] == split.document["persons_sha256"]]
    if same and not new_split:
        raise UsageError(
            f"usage: these persons are split already ({', '.join(same)}) with another seed, method or fractions: "
            "restore those settings, or ask for another split with --new-split"
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_suffix(".partial")
    write_json(partial, split.document)
    partial.rename(path)
    return path


def prove_no_overlap(
    part: NDArray[np.uint8], keys_by_name: Mapping[str, tuple[NDArray[np.int64], Sequence[Any]]]
) -> dict[str, int]:
    """Return how many keys of each kind lie in two parts; any number but zero raises.

    Parameters
    ----------
    part
        Part of each study, by row.
    keys_by_name
        Kind (``"persons"``, ``"image UIDs"``, …) to (row of the study, key).

    Raises
    ------
    IntegrityError
        With the counts, never a key.
    """
    counts = {name: _num_shared(part[rows], keys) for name, (rows, keys) in keys_by_name.items()}
    broken = {name: count for name, count in counts.items() if count}
    if broken:
        listed = ", ".join(f"{count} {name}" for name, count in broken.items())
        raise IntegrityError(
            f"integrity: split overlap: {listed} lie in more than one of train, valid and test, expected none: link "
            "the copies of a study to one person (`platform link`), or leave one copy out"
        )
    return counts


def _num_shared(part: NDArray[np.uint8], keys: Sequence[Any]) -> int:
    if len(keys) == 0:
        return 0
    _, number = np.unique(np.asarray(keys), return_inverse=True)
    pairs = np.unique(number.astype(np.int64) * len(SPLITS) + part)
    return int((np.bincount(pairs // len(SPLITS)) > 1).sum())


def _date_position(first_day: NDArray[Any]) -> NDArray[np.float64]:
    """Place persons by the date of their first study; persons of one date share a place."""
    ranked = np.sort(first_day)
    return np.searchsorted(ranked, first_day, side="left") / max(len(ranked), 1)
