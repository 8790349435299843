"""Makes text fit its column: what is too long is cut between characters; whoever cuts keeps it whole (E74)."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def fit(texts: pa.Array, width: int) -> tuple[pa.Array, dict[int, str]]:
    """Return texts that a column of `width` characters takes, and by place those that had to be cut.

    Whole arrays are looked at, not texts one by one: nearly always nothing is to be done.
    """
    too_long = pc.indices_nonzero(pc.fill_null(pc.greater(pc.utf8_length(texts), width), fill_value=False))
    cut = {place: texts[place].as_py() for place in too_long.to_pylist()}
    return pc.utf8_slice_codeunits(texts, 0, width) if cut else texts, cut
