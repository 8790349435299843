"""Kernels that paint analytic shapes into a volume, each within its bounding box, with an edge one voxel wide.

Volumes are [slice, row, column] float32 in HU; `lung` holds each voxel's share of lung. A shape is a row of numbers in
patient millimetres (LPS: x to the left, y to the back, z to the head). `frame`, shape (3, 4), takes a voxel's index to
these millimetres; its axes are orthogonal and may point anywhere. No fast arithmetic: the same bytes on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Volume = NDArray[np.float32]
Numbers = NDArray[np.float64]

# The last column of a shape: tissue takes lung away, lung gives it, and what lies within lung leaves its share.
TISSUE, LUNG, WITHIN = 0.0, 1.0, 2.0
NECK_MM, NECK_SHARE = 60.0, 0.2


@njit(cache=True)
def paint_columns(volume: Any, frame: Any, centre: Any, half: Any, angle: float, hu: float, neck_z: float) -> None:
    """Paint a superelliptic column (exponent 2.5) along the whole of z, narrower above `neck_z`."""
    section = np.zeros(volume.shape[1:], dtype=np.float32)
    axial = frame[2, 0] == 0.0 and frame[2, 1] == 0.0 and frame[0, 2] == 0.0 and frame[1, 2] == 0.0
    painted_scale = -1.0
    for k in range(volume.shape[0]):
        scale = _scale(frame[2, 3] + k * frame[2, 2], neck_z)
        if not axial or scale != painted_scale:
            _fill_section(section, frame, k, centre, half, angle, neck_z)
            painted_scale = scale
        for j in range(volume.shape[1]):
            for i in range(volume.shape[2]):
                share = section[j, i]
                if share > 0.0:
                    volume[k, j, i] += share * (np.float32(hu) - volume[k, j, i])


@njit(cache=True)
def _scale(z: float, neck_z: float) -> float:
    return 1.0 - NECK_SHARE * min(max((z - neck_z) / NECK_MM, 0.0), 1.0)


@njit(cache=True)
def _fill_section(section: Any, frame: Any, k: int, centre: Any, half: Any, angle: float, neck_z: float) -> None:
    """Share of each pixel of slice k that the column covers."""
    edge = (_length(frame, 0) + _length(frame, 1)) / 2
    thin = min(half[0], half[1])
    cosine, sine = np.cos(angle), np.sin(angle)
    for j in range(section.shape[0]):
        x = frame[0, 3] + j * frame[0, 1] + k * frame[0, 2] - centre[0]
        y = frame[1, 3] + j * frame[1, 1] + k * frame[1, 2] - centre[1]
        z = frame[2, 3] + j * frame[2, 1] + k * frame[2, 2]
        u0, v0 = cosine * x + sine * y, -sine * x + cosine * y
        u1, v1 = cosine * frame[0, 0] + sine * frame[1, 0], -sine * frame[0, 0] + cosine * frame[1, 0]
        scale = _scale(z, neck_z)
        for i in range(section.shape[1]):
            if frame[2, 0] != 0.0:
                scale = _scale(z + i * frame[2, 0], neck_z)
            u, v = abs(u0 + i * u1) / (half[0] * scale), abs(v0 + i * v1) / (half[1] * scale)
            section[j, i] = _covered(u, v, thin * scale / edge)


@njit(cache=True)
def _covered(u: float, v: float, sharpness: float) -> float:
    """Share of a pixel within a superellipse, at coordinates relative to its half axes; the root only near its edge."""
    reach = 0.5 / sharpness
    if max(u, v) > 1.0 + reach:
        return 0.0
    powered = u * u * np.sqrt(u) + v * v * np.sqrt(v)
    if powered < (1.0 - reach) ** 3:  # the inner bound is the root's, 2.5, with room to spare
        return 1.0
    return float(min(max(0.5 - (powered**0.4 - 1.0) * sharpness, 0.0), 1.0))


@njit(cache=True)
def paint_ellipsoids(volume: Any, lung: Any, frame: Any, shapes: Any) -> None:
    """Paint ellipsoids: centre (3), half axes (3), angle about z, tilt about the turned x axis, HU, kind.

    One thinner than a voxel is fainter: a sheet keeps its mass.
    """
    edge = (_length(frame, 0) + _length(frame, 1) + _length(frame, 2)) / 3
    into, turned, low, high = np.empty((3, 4)), np.empty((3, 3)), np.empty(3, np.int64), np.empty(3, np.int64)
    for row in range(shapes.shape[0]):
        shape = shapes[row]
        half, thin = shape[3:6], min(shape[3], shape[4], shape[5])
        _turn(turned, shape[6], shape[7])
        for a in range(3):
            for b in range(3):
                into[a, b] = _dot(turned[a], frame[:, b]) / half[a]
            into[a, 3] = _dot(turned[a], frame[:, 3] - shape[:3]) / half[a]
        for b in range(3):
            spacing = _length(frame, b)
            reach = 0.0
            for a in range(3):
                reach += (half[a] * _dot(turned[a], frame[:, b]) / spacing) ** 2
            middle = _dot(frame[:, b], shape[:3] - frame[:, 3]) / spacing
            low[b], high[b] = _range(middle, np.sqrt(reach) + edge, spacing, volume.shape[2 - b])
        _fill_ellipsoid(volume, lung, into, half, edge, thin, low, high, shape[8], shape[9])


@njit(cache=True)
def _fill_ellipsoid(
    volume: Any, lung: Any, into: Any, half: Any, edge: float, thin: float, low: Any, high: Any, hu: float, kind: float
) -> None:
    outer = (1.0 + 0.5 * edge / thin) ** 2
    inner = max(1.0 - 0.5 * edge / thin, 0.0) ** 2
    filled = min(1.0, 2 * thin / edge)
    m0, m1, m2 = into[0, 0], into[1, 0], into[2, 0]
    a = m0 * m0 + m1 * m1 + m2 * m2
    for k in range(low[2], high[2]):
        for j in range(low[1], high[1]):
            q0 = into[0, 3] + into[0, 1] * j + into[0, 2] * k
            q1 = into[1, 3] + into[1, 1] * j + into[1, 2] * k
            q2 = into[2, 3] + into[2, 1] * j + into[2, 2] * k
            b = q0 * m0 + q1 * m1 + q2 * m2
            root = b * b - a * (q0 * q0 + q1 * q1 + q2 * q2 - outer)
            if root <= 0.0:
                continue
            root = np.sqrt(root)
            first = max(int(np.floor((-b - root) / a)), low[0])
            last = min(int(np.ceil((-b + root) / a)) + 1, high[0])
            for i in range(first, last):
                u, v, w = q0 + m0 * i, q1 + m1 * i, q2 + m2 * i
                squared = u * u + v * v + w * w
                share = 1.0
                if squared > inner or inner == 0.0:
                    steep = np.sqrt((u / half[0]) ** 2 + (v / half[1]) ** 2 + (w / half[2]) ** 2)
                    radius = np.sqrt(squared)
                    distance = radius * (radius - 1.0) / steep if steep > 0 else -thin
                    share = min(0.5 - distance / edge, 1.0)
                _blend(volume, lung, k, j, i, share * filled, hu, kind)


@njit(cache=True)
def paint_segments(volume: Any, lung: Any, frame: Any, shapes: Any) -> None:
    """Paint tapered segments: two ends (6), two radii, HU, kind; thinner than a voxel is fainter."""
    edge = (_length(frame, 0) + _length(frame, 1) + _length(frame, 2)) / 3
    spacing, start, along = np.empty(3), np.empty(3), np.empty(3)
    for b in range(3):
        spacing[b] = _length(frame, b)
    for row in range(shapes.shape[0]):
        shape = shapes[row]
        for b in range(3):  # both ends along the axes of the grid, from its first voxel
            start[b] = _dot(frame[:, b], shape[:3] - frame[:, 3]) / spacing[b]
            along[b] = _dot(frame[:, b], shape[3:6] - shape[:3]) / spacing[b]
        reach = max(shape[6], shape[7]) + edge / 2
        _fill_segment(volume, lung, spacing, start, along, reach, edge, shape)


@njit(cache=True)
def _fill_segment(
    volume: Any, lung: Any, spacing: Any, start: Any, along: Any, reach: float, edge: float, shape: Any
) -> None:
    """Walk slices and rows; each sees only the part of the segment that can reach it."""
    r0, r1, hu, kind = shape[6], shape[7], shape[8], shape[9]
    length = along[0] ** 2 + along[1] ** 2 + along[2] ** 2
    low_k, high_k = _span(start[2], along[2], 0.0, 1.0, reach, spacing[2], volume.shape[0])
    for k in range(low_k, high_k):
        z = k * spacing[2] - start[2]
        from_k, to_k = _part(z, along[2], reach, 0.0, 1.0)
        low_j, high_j = _span(start[1], along[1], from_k, to_k, reach, spacing[1], volume.shape[1])
        for j in range(low_j, high_j):
            y = j * spacing[1] - start[1]
            from_j, to_j = _part(y, along[1], reach, from_k, to_k)
            if from_j > to_j:
                continue
            low_i, high_i = _span(start[0], along[0], from_j, to_j, reach, spacing[0], volume.shape[2])
            for i in range(low_i, high_i):
                x = i * spacing[0] - start[0]
                t = (x * along[0] + y * along[1] + z * along[2]) / length if length > 0 else 0.0
                t = min(max(t, 0.0), 1.0)
                radius = r0 + t * (r1 - r0)
                away = np.sqrt((x - t * along[0]) ** 2 + (y - t * along[1]) ** 2 + (z - t * along[2]) ** 2)
                share = min(0.5 - (away - radius) / edge, 1.0) * min(1.0, (2 * radius / edge) ** 2)
                _blend(volume, lung, k, j, i, share, hu, kind)


@njit(cache=True)
def _part(offset: float, along: float, reach: float, low: float, high: float) -> tuple[float, float]:
    """The part of a segment that comes within `reach` of a plane at `offset` from its start."""
    if abs(along) < 1e-9:
        return low, high
    first, last = (offset - reach) / along, (offset + reach) / along
    if first > last:
        first, last = last, first
    return max(low, first), min(high, last)


@njit(cache=True)
def _span(
    start: float, along: float, low: float, high: float, reach: float, spacing: float, size: int
) -> tuple[int, int]:
    """Indices along one axis that a part of a segment can reach."""
    one, other = start + low * along, start + high * along
    return _range((one + other) / 2, abs(other - one) / 2 + reach, spacing, size)


@njit(cache=True)
def _range(centre: float, reach: float, spacing: float, size: int) -> tuple[int, int]:
    low = max(int(np.floor((centre - reach) / spacing)), 0)
    high = min(int(np.ceil((centre + reach) / spacing)) + 1, size)
    return low, high


@njit(cache=True)
def _turn(turned: Any, angle: float, tilt: float) -> None:
    """Rows: the shape's own axes in patient coordinates."""
    c, s, ct, st = np.cos(angle), np.sin(angle), np.cos(tilt), np.sin(tilt)
    turned[0, 0], turned[0, 1], turned[0, 2] = c, s, 0.0
    turned[1, 0], turned[1, 1], turned[1, 2] = -s * ct, c * ct, st
    turned[2, 0], turned[2, 1], turned[2, 2] = s * st, -c * st, ct


@njit(cache=True)
def _dot(a: Any, b: Any) -> float:
    return float(a[0] * b[0] + a[1] * b[1] + a[2] * b[2])


@njit(cache=True)
def _length(frame: Any, axis: int) -> float:
    return float(np.sqrt(frame[0, axis] ** 2 + frame[1, axis] ** 2 + frame[2, axis] ** 2))


@njit(cache=True)
def _blend(volume: Any, lung: Any, k: int, j: int, i: int, share: float, hu: float, kind: float) -> None:
    if share <= 0.0:
        return
    share = min(share, 1.0)
    if kind == WITHIN:
        share *= lung[k, j, i]
    else:
        lung[k, j, i] += np.float32(share * (kind - lung[k, j, i]))
    volume[k, j, i] += np.float32(share * (hu - volume[k, j, i]))
