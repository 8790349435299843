"""Stored values to Hounsfield units, slice by slice, in the one order that is right.

Mask and sign-extend to the stored bits; find padding among stored values; invert MONOCHROME1; modality LUT or slope
and intercept in float64; int16. Whole numbers stay whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from presage_etl.dicom.candidate import SliceRef

AIR_HU = -1024
_INT16 = np.iinfo(np.int16)

Stored = NDArray[np.int16] | NDArray[np.uint16]


@dataclass(slots=True)
class SliceCounts:
    """What conversion did to voxels, summed over slices."""

    dirty_high_bits: int = 0
    padded: int = 0
    below_air: int = 0
    clipped: int = 0
    max_rounding: float = 0.0
    source_min: int = _INT16.max
    source_max: int = _INT16.min
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1 << 16, np.int64))  # index: hu as uint16

    def percentiles(self, invalid: int, shares: tuple[float, ...]) -> list[float]:
        """Return percentiles over valid voxels: the smallest value that at least that share does not exceed."""
        counts = np.roll(self.histogram, 1 << 15)  # index 0 is now -32768
        counts[AIR_HU + (1 << 15)] -= invalid
        cumulated = np.cumsum(counts)
        if not cumulated[-1]:
            return [float(AIR_HU)] * len(shares)
        ranks = np.maximum(np.ceil(np.array(shares) * cumulated[-1]), 1)
        return [float(place - (1 << 15)) for place in np.searchsorted(cumulated, ranks)]

    def count_between(self, low: int, high: int) -> int:
        """Return the number of voxels with low <= HU <= high."""
        counts = np.roll(self.histogram, 1 << 15)
        return int(counts[low + (1 << 15) : high + (1 << 15) + 1].sum())


def stored_values(raw: NDArray[Any], ref: SliceRef, counts: SliceCounts) -> Stored:
    """Return the stored values of a frame: high bits masked away, sign extended as the header says."""
    bits = (raw if raw.dtype in (np.uint16, np.int16) else raw.astype(np.uint16)).view(np.uint16)
    if ref.pixel_representation == 1:
        # a signed container repeats the sign above the stored bits, or holds anything: the shifts settle it
        shift = 16 - ref.bits_stored
        return bits.view(np.int16) if not shift else (bits << np.uint16(shift)).view(np.int16) >> np.int16(shift)
    highest = (1 << ref.bits_stored) - 1
    if int(bits.max()) <= highest:
        return bits
    counts.dirty_high_bits += int(np.count_nonzero(bits > highest))
    return bits & np.uint16(highest)


def padding_mask(stored: Stored, ref: SliceRef) -> NDArray[np.bool_] | None:
    """Return where a frame is padded, by its stored values; None where nothing is declared or found."""
    if ref.padding_value is None:
        return None
    limit = ref.padding_value if ref.padding_limit is None else ref.padding_limit
    low, high = sorted((ref.padding_value, limit))
    mask = (stored == low) if low == high else ((stored >= low) & (stored <= high))
    return mask if mask.any() else None


def inverted(stored: Stored, ref: SliceRef) -> Stored:
    """Return MONOCHROME1 values turned over within the stored range."""
    if ref.photometric != "MONOCHROME1":
        return stored
    if ref.pixel_representation == 1:
        return -1 - stored  # least + greatest value of two's complement
    return np.uint16((1 << ref.bits_stored) - 1) - stored


def hounsfield(
    stored: Stored, ref: SliceRef, lut: Any | None, counts: SliceCounts, out: NDArray[np.int16]
) -> NDArray[np.bool_] | None:
    """Write Hounsfield units of one slice to `out`; return its invalid voxels, or None when all are valid.

    Parameters
    ----------
    stored
        Of `stored_values`; may be the memory of `out`.
    lut
        The pydicom data set of the file where a modality LUT applies, else None.
    counts
        Added to.
    out : NDArray[np.int16], shape = (rows, columns)
        Voxels that are padded, or below -1024 without being declared so, become -1024.
    """
    padded = padding_mask(stored, ref)
    values = inverted(stored, ref)
    if lut is not None or not _add_in_place(values, ref, counts, out):
        _rescale(values, ref, lut, counts, out)
    lowest = int(out.min())
    counts.source_min = min(counts.source_min, lowest)
    counts.source_max = max(counts.source_max, int(out.max()))
    invalid = padded
    if lowest < AIR_HU:
        below = out < AIR_HU
        counts.below_air += int(np.count_nonzero(below if padded is None else below & ~padded))
        invalid = below if padded is None else below | padded
    if invalid is not None:
        out[invalid] = AIR_HU
    if padded is not None:
        counts.padded += int(np.count_nonzero(padded))
    counts.histogram += np.bincount(out.reshape(-1).view(np.uint16), minlength=1 << 16)
    return invalid


def _add_in_place(values: Stored, ref: SliceRef, counts: SliceCounts, out: NDArray[np.int16]) -> bool:
    """Take the short way where slope is 1 and everything fits int16."""
    slope, intercept = ref.rescale_slope, ref.rescale_intercept
    if slope != 1.0 or intercept is None or not intercept.is_integer():
        return False
    low, high = int(values.min()) + int(intercept), int(values.max()) + int(intercept)
    if low < _INT16.min or high > _INT16.max or not _INT16.min <= intercept <= _INT16.max:
        return False
    # modular arithmetic of 16 bits: exact, because both ends of the result fit
    np.add(values.view(np.uint16), np.uint16(int(intercept) & 0xFFFF), out=out.view(np.uint16))
    return True


def _rescale(values: Stored, ref: SliceRef, lut: Any | None, counts: SliceCounts, out: NDArray[np.int16]) -> None:
    if lut is not None:
        from pydicom.pixels.processing import apply_modality_lut

        exact = np.asarray(apply_modality_lut(values, lut), np.float64)
    else:
        exact = values.astype(np.float64) * (ref.rescale_slope or 0.0) + (ref.rescale_intercept or 0.0)
    rounded = np.rint(exact)  # half to even
    counts.max_rounding = max(counts.max_rounding, float(np.abs(rounded - exact).max()))
    outside = (rounded < _INT16.min) | (rounded > _INT16.max)
    counts.clipped += int(np.count_nonzero(outside))
    np.copyto(out, np.clip(rounded, _INT16.min, _INT16.max), casting="unsafe")
