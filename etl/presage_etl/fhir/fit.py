"""Makes text fit its column: NUL bytes are taken out, what is too long is cut between characters (E74)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

NUL = "\0"


@dataclass(frozen=True, slots=True)
class Change:
    """One text that did not fit: the place of its row, and the text without NUL bytes."""

    place: int
    whole: str
    is_cut: bool


def fit(texts: pa.Array, width: int | None) -> tuple[pa.Array, list[Change]]:
    """Return texts that a column of `width` characters takes, and what had to change.

    Whole arrays are looked at, not texts one by one: nearly always nothing is to be done.
    """
    wrong = pc.match_substring(texts, NUL)
    if width is not None:
        wrong = pc.or_(wrong, pc.greater(pc.utf8_length(texts), width))
    if not pc.any(wrong).as_py():
        return texts, []
    changes = list(_changes(texts, wrong, width))
    values = texts.to_pylist()
    for change in changes:
        values[change.place] = change.whole[:width]
    return pa.array(values, type=texts.type), changes


def _changes(texts: pa.Array, wrong: pa.Array, width: int | None) -> Iterator[Change]:
    for place in pc.indices_nonzero(pc.fill_null(wrong, fill_value=False)).to_pylist():
        whole = texts[place].as_py().replace(NUL, "")
        yield Change(place, whole, width is not None and len(whole) > width)
