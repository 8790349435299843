"""The patient in a CT volume: the largest solid thing above lung density, without the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from presage_platform.volumes.record import BoolArray

BODY_HU = -500
_TABLE_MM = 60.0  # a component thinner than this from front to back is a table, not a trunk

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """Voxels of the patient, and the box around them."""

    mask: BoolArray  # [z, y, x], of the box only
    box: tuple[slice, slice, slice]

    @property
    def centre_zyx(self) -> npt.NDArray[np.float64]:
        """Middle of the box, in voxel edges from the volume's corner."""
        return np.array([(part.start + part.stop) / 2 for part in self.box])

    def share_outside(self, start: Shape, size: Shape) -> float:
        """Share of the body's voxels that a window does not hold."""
        inside = tuple(
            slice(max(0, s - part.start), max(0, min(part.stop, s + length) - part.start))
            for part, s, length in zip(self.box, start, size, strict=True)
        )
        return 1.0 - int(self.mask[inside].sum()) / int(self.mask.sum())


def find_body(voxels: npt.NDArray[Any], valid: BoolArray | None, spacing_y_mm: float) -> Body | None:
    """Return the largest component, after an opening by 3 x 3 x 3 voxels, that is no thin table; None when empty.

    `voxels` are HU with axes z, y, x. Where every component is thin (a short phantom), the largest is taken.
    """
    from scipy.ndimage import find_objects, label

    solid = voxels > BODY_HU
    if valid is not None:
        solid &= valid
    labels, count = label(_opened(solid))
    if count == 0:
        return None
    boxes = find_objects(labels)
    sizes = np.bincount(labels.reshape(-1), minlength=count + 1)[1:]
    thick = np.array([(box[1].stop - box[1].start) * spacing_y_mm >= _TABLE_MM for box in boxes])
    best = int(np.argmax(np.where(thick, sizes, 0) if thick.any() else sizes))
    box = boxes[best]
    return Body(labels[box] == best + 1, (box[0], box[1], box[2]))


def _opened(mask: BoolArray) -> BoolArray:
    """Erosion and dilation by a cube of 3 voxels: three axes, two shifts each; outside the volume is air."""
    eroded = mask.copy()
    for axis in range(3):
        eroded = _neighbours(eroded, axis, np.logical_and)
    for axis in range(3):
        eroded = _neighbours(eroded, axis, np.logical_or)
    return eroded


def _neighbours(mask: BoolArray, axis: int, combine: np.ufunc) -> BoolArray:
    padded = np.pad(mask, [(1, 1) if number == axis else (0, 0) for number in range(3)])
    count = mask.shape[axis]

    def shifted(by: int) -> BoolArray:
        return padded[tuple(slice(by, by + count) if number == axis else slice(None) for number in range(3))]

    result: BoolArray = combine(combine(shifted(0), shifted(1)), shifted(2))
    return result
