"""Where the voxels of a synthetic scan are: any orthonormal orientation, and the affine that a right reader finds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Grid:
    """Voxels in LPS millimetres: centre of the first one, spacing and number along row, column and slice axis.

    `row` and `column` are the unit directions of DICOM's ImageOrientationPatient; slices follow their cross product.
    """

    origin: Vector
    spacing: Vector
    size: tuple[int, int, int]
    row: Vector = (1.0, 0.0, 0.0)
    column: Vector = (0.0, 1.0, 0.0)

    @property
    def normal(self) -> Vector:
        """Unit direction in which slices follow each other."""
        (a, b, c), (d, e, f) = self.row, self.column
        return b * f - c * e, c * d - a * f, a * e - b * d

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel."""
        return self.spacing[0] * self.spacing[1] * self.spacing[2] / 1000.0

    @property
    def edge_mm(self) -> float:
        """Width of an edge that is one voxel wide."""
        return (self.spacing[0] + self.spacing[1] + self.spacing[2]) / 3.0

    def frame(self) -> NDArray[np.float64]:
        """Index (i, j, k, 1) to LPS, shape (3, 4); what the painting kernels take."""
        axes = np.array([self.row, self.column, self.normal]).T * np.array(self.spacing)
        return np.ascontiguousarray(np.column_stack([axes, self.origin]))

    def position(self, place: int) -> Vector:
        """Centre of the first voxel of slice `place`."""
        step = self.spacing[2] * place
        x, y, z = (start + step * along for start, along in zip(self.origin, self.normal, strict=True))
        return x, y, z

    def affine_ras(self) -> tuple[float, ...]:
        """Index (i, j, k) to RAS millimetres, 16 numbers row by row: the first two axes of LPS are turned."""
        frame = self.frame() * np.array([[-1.0], [-1.0], [1.0]]) + 0.0  # no negative zeros
        return (*(float(number) for number in frame.ravel()), 0.0, 0.0, 0.0, 1.0)


def centred(spacing: Vector, size: tuple[int, int, int], row: Vector, column: Vector) -> Grid:
    """A grid whose middle is the scanner's centre; the origin is rounded to what a header can hold."""
    grid = Grid((0.0, 0.0, 0.0), spacing, size, row, column)
    middle = grid.frame()[:, :3] @ ((np.array(size) - 1) / 2)
    x, y, z = (round(-float(value), 4) + 0.0 for value in middle)
    return Grid((x, y, z), spacing, size, row, column)
