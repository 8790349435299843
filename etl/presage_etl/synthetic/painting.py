"""Kernels that paint analytic shapes into a volume, each within its bounding box, with an edge one voxel wide.

Volumes are [z, y, x] float32 in HU; `lung` holds each voxel's share of lung. A shape is a row of numbers in patient
millimetres (LPS: x to the left, y to the back, z to the head). Grids are (origin x, y, z, spacing x, y, z).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Volume = NDArray[np.float32]
Numbers = NDArray[np.float64]

TISSUE, LUNG = 0.0, 1.0  # the last column of a shape: what it does to the share of lung


@njit(cache=True)
def paint_columns(volume: Any, grid: Any, centre: Any, half: Any, angle: float, hu: float, neck_z: float) -> None:
    """Paint a superelliptic column (exponent 2.5) along the whole of z, narrower above `neck_z`."""
    section = np.zeros(volume.shape[1:], dtype=np.float32)
    painted_scale = 0.0
    for k in range(volume.shape[0]):
        above = min(max((grid[2] + k * grid[5] - neck_z) / 60.0, 0.0), 1.0)
        scale = 1.0 - 0.2 * above
        if scale != painted_scale:
            _fill_section(section, grid, centre, half * scale, angle)
            painted_scale = scale
        for j in range(volume.shape[1]):
            for i in range(volume.shape[2]):
                volume[k, j, i] += section[j, i] * (np.float32(hu) - volume[k, j, i])


@njit(cache=True)
def _fill_section(section: Any, grid: Any, centre: Any, half: Any, angle: float) -> None:
    """Share of each pixel that a superellipse covers."""
    edge = (grid[3] + grid[4]) / 2
    cosine, sine = np.cos(angle), np.sin(angle)
    for j in range(section.shape[0]):
        y = grid[1] + j * grid[4] - centre[1]
        for i in range(section.shape[1]):
            x = grid[0] + i * grid[3] - centre[0]
            u = abs(cosine * x + sine * y) / half[0]
            v = abs(-sine * x + cosine * y) / half[1]
            radius = (u * u * np.sqrt(u) + v * v * np.sqrt(v)) ** 0.4
            section[j, i] = min(max(0.5 - (radius - 1.0) * min(half[0], half[1]) / edge, 0.0), 1.0)


@njit(cache=True)
def paint_ellipsoids(volume: Any, lung: Any, grid: Any, shapes: Any) -> None:
    """Paint ellipsoids: centre (3), half axes (3), angle about z, HU, lung or tissue."""
    edge = (2 * grid[3] + grid[5]) / 3
    for row in range(shapes.shape[0]):
        cx, cy, cz, ax, ay, az, angle, hu, kind = shapes[row]
        cosine, sine = np.cos(angle), np.sin(angle)
        reach_x = np.sqrt((ax * cosine) ** 2 + (ay * sine) ** 2) + edge
        reach_y = np.sqrt((ax * sine) ** 2 + (ay * cosine) ** 2) + edge
        low_i, high_i = _range(cx, reach_x, grid[0], grid[3], volume.shape[2])
        low_j, high_j = _range(cy, reach_y, grid[1], grid[4], volume.shape[1])
        low_k, high_k = _range(cz, az + edge, grid[2], grid[5], volume.shape[0])
        for k in range(low_k, high_k):
            z = grid[2] + k * grid[5] - cz
            for j in range(low_j, high_j):
                y = grid[1] + j * grid[4] - cy
                for i in range(low_i, high_i):
                    x = grid[0] + i * grid[3] - cx
                    u, v = cosine * x + sine * y, -sine * x + cosine * y
                    squared = (u / ax) ** 2 + (v / ay) ** 2 + (z / az) ** 2
                    steep = np.sqrt((u / ax**2) ** 2 + (v / ay**2) ** 2 + (z / az**2) ** 2)
                    radius = np.sqrt(squared)
                    distance = radius * (radius - 1.0) / steep if steep > 0 else -min(ax, ay, az)
                    _blend(volume, lung, k, j, i, 0.5 - distance / edge, hu, kind)


@njit(cache=True)
def paint_segments(volume: Any, lung: Any, grid: Any, shapes: Any) -> None:
    """Paint tapered segments: two ends (6), two radii, HU, lung or tissue; thinner than a voxel is fainter."""
    edge = (2 * grid[3] + grid[5]) / 3
    for row in range(shapes.shape[0]):
        x0, y0, z0, x1, y1, z1, r0, r1, hu, kind = shapes[row]
        reach = max(r0, r1) + edge
        low_i, high_i = _range((x0 + x1) / 2, abs(x1 - x0) / 2 + reach, grid[0], grid[3], volume.shape[2])
        low_j, high_j = _range((y0 + y1) / 2, abs(y1 - y0) / 2 + reach, grid[1], grid[4], volume.shape[1])
        low_k, high_k = _range((z0 + z1) / 2, abs(z1 - z0) / 2 + reach, grid[2], grid[5], volume.shape[0])
        dx, dy, dz = x1 - x0, y1 - y0, z1 - z0
        length = dx * dx + dy * dy + dz * dz
        for k in range(low_k, high_k):
            z = grid[2] + k * grid[5] - z0
            for j in range(low_j, high_j):
                y = grid[1] + j * grid[4] - y0
                for i in range(low_i, high_i):
                    x = grid[0] + i * grid[3] - x0
                    along = (x * dx + y * dy + z * dz) / length if length > 0 else 0.0
                    along = min(max(along, 0.0), 1.0)
                    radius = r0 + along * (r1 - r0)
                    away = np.sqrt((x - along * dx) ** 2 + (y - along * dy) ** 2 + (z - along * dz) ** 2)
                    filled = min(1.0, (2 * radius / edge) ** 2)
                    share = min(0.5 - (away - radius) / edge, 1.0) * filled
                    _blend(volume, lung, k, j, i, share, hu, kind)


@njit(cache=True)
def _range(centre: float, reach: float, origin: float, spacing: float, size: int) -> tuple[int, int]:
    low = max(int(np.floor((centre - reach - origin) / spacing)), 0)
    high = min(int(np.ceil((centre + reach - origin) / spacing)) + 1, size)
    return low, high


@njit(cache=True)
def _blend(volume: Any, lung: Any, k: int, j: int, i: int, share: float, hu: float, kind: float) -> None:
    if share <= 0.0:
        return
    share = min(share, 1.0)
    volume[k, j, i] += np.float32(share * (hu - volume[k, j, i]))
    lung[k, j, i] += np.float32(share * (kind - lung[k, j, i]))


@njit(cache=True)
def nearest_squared(x: Any, y: Any, z: Any, centres: Any) -> Any:
    """Squared distance of each point to the nearest of the points that `centres` numbers."""
    found = np.empty(len(x))
    for place in range(len(x)):
        best = np.inf
        for centre in centres:
            away = (x[place] - x[centre]) ** 2 + (y[place] - y[centre]) ** 2 + (z[place] - z[centre]) ** 2
            best = min(best, away)
        found[place] = best
    return found
