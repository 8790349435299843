"""A series to groups that could each be one volume: split by what must be constant within a stack.

Folders and numbers play no part. A cluster is formed against its first member in sorted order, never by rounding.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from presage_etl.dicom.elements import CT_IMAGE, ENHANCED_CT, LEGACY_CONVERTED_CT
from presage_etl.dicom.geometry import SAME_POSITION_MM, same_orientation

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SPACING_TOLERANCE_MM = 1e-4
THICKNESS_TOLERANCE_MM = 0.01
DIAMETER_TOLERANCE_MM = 0.1

Row = dict[str, Any]


@dataclass(slots=True)
class Group:
    """Instances that may make one volume, and the values that set them apart from their siblings."""

    rows: list[Row]
    split_values: dict[str, Any]


def split_series(rows: list[Row]) -> tuple[list[Group], tuple[str, ...]]:
    """Return the groups of a series, and the attributes that split it, in the order in which they were tried.

    Acquisition number splits only where positions repeat without it.
    """
    groups = [Group(sorted(rows, key=_identity), {})]
    split_by: list[str] = []
    for name, value, same in _SPLITS:
        groups = _split(groups, name, value, same, split_by, always=True)
    groups = _split(groups, "acquisition_number", _acquisition, _equal, split_by, always=False)
    return groups, tuple(split_by)


def sop_class_family(sop_class_uid: str | None) -> str:
    """Return the kind of object behind a SOP class."""
    if sop_class_uid == CT_IMAGE:
        return "ct"
    if sop_class_uid in (ENHANCED_CT, LEGACY_CONVERTED_CT):
        return "enhanced_ct"
    if (sop_class_uid or "").startswith(SECONDARY_CAPTURE) and (sop_class_uid or "")[len(SECONDARY_CAPTURE) :][
        :1
    ] in ".":
        return "secondary_capture"
    return sop_class_uid or "none"


def count_orientations(rows: list[Row]) -> int:
    """Return the number of orientation clusters."""
    return len(_clusters(sorted(rows, key=_identity), _orientation, _same_orientation))


def derived_study_uid(row: Row) -> str:
    """Return the UID of a study that has none: from its frame of reference and its date."""
    return _derive_uid("study", row["frame_of_reference_uid"], _day(row["study_dt"]))


def derived_series_uid(row: Row) -> str:
    """Return the UID of a series that has none: from frame of reference, acquisition and geometry."""
    constant = ("series_number", "acquisition_number", "rows", "columns", "kernel", "sop_class_uid")
    study = row["study_uid"] or derived_study_uid(row)
    return _derive_uid("series", study, row["frame_of_reference_uid"], str(row["series_dt"]), *map(row.get, constant))


def series_key(study_uid: str, series_uid: str, split_values: dict[str, Any], sop_uids: set[str]) -> str:
    """Return 32 hex digits that name a candidate wherever its files lie, and in whatever order they come."""
    identity = json.dumps([study_uid, series_uid, split_values, sorted(sop_uids)], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def _identity(row: Row) -> tuple[str, int, str]:
    return row["sop_uid"] or "", row["frame"], row["header_hash"]


def _derive_uid(*parts: Any) -> str:
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _day(moment: Any) -> str | None:
    return moment.date().isoformat() if moment is not None else None


def _split(
    groups: list[Group],
    name: str,
    value: Callable[[Row], Any],
    same: Callable[[Any, Any], bool],
    split_by: list[str],
    *,
    always: bool,
) -> list[Group]:
    result: list[Group] = []
    for group in groups:
        clusters = _clusters(group.rows, value, same) if always or _positions_repeat(group.rows) else []
        if len(clusters) <= 1:
            result.append(group)
            continue
        if name not in split_by:
            split_by.append(name)
        result.extend(Group(rows, {**group.split_values, name: shown}) for shown, rows in clusters)
    return result


def _clusters(
    rows: list[Row], value: Callable[[Row], Any], same: Callable[[Any, Any], bool]
) -> list[tuple[Any, list[Row]]]:
    """Return (value of the first member, rows) for each cluster; rows keep their order within it."""
    values = [value(row) for row in rows]
    if values.count(values[0]) == len(values):
        return [(values[0], rows)]
    firsts: list[Any] = []
    for one in sorted(values, key=lambda one: (one is not None, one if one is not None else 0)):
        if not any(same(first, one) for first in firsts):
            firsts.append(one)
    members: list[list[Row]] = [[] for _ in firsts]
    for row, one in zip(rows, values, strict=True):
        members[next(place for place, first in enumerate(firsts) if same(first, one))].append(row)
    return list(zip(firsts, members, strict=True))


def _positions_repeat(rows: list[Row]) -> bool:
    positions = [row["ipp"] for row in rows if row["ipp"] is not None and len(row["ipp"]) == 3]
    if len(positions) < 2:
        return False
    places = np.array(positions)
    places = places[np.lexsort(places.T)]
    return bool((np.abs(np.diff(places, axis=0)).max(axis=1) <= SAME_POSITION_MM).any())


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other)


def _within(tolerance: float) -> Callable[[Any, Any], bool]:
    def same(one: Any, other: Any) -> bool:
        if one is None or other is None:
            return one is other
        return all(abs(a - b) <= tolerance for a, b in zip(one, other, strict=True))

    return same


def _same_orientation(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return same_orientation(one, other)


def _numbers(row: Row, name: str, count: int) -> tuple[float, ...] | None:
    value = row[name]
    if value is None or not isinstance(value, list):
        return None if value is None or not math.isfinite(value) else (value,)
    return tuple(value) if len(value) == count and all(map(math.isfinite, value)) else None


def _orientation(row: Row) -> tuple[float, ...] | None:
    return _numbers(row, "iop", 6)


def _acquisition(row: Row) -> int | None:
    return row["acquisition_number"]  # type: ignore[no-any-return]


def _texts(row: Row, name: str, count: int | None) -> tuple[str, ...] | None:
    return tuple(row[name][:count]) if row[name] else None


_SPLITS: tuple[tuple[str, Callable[[Row], Any], Callable[[Any, Any], bool]], ...] = (
    ("sop_class", lambda row: sop_class_family(row["sop_class_uid"]), _equal),
    ("matrix", lambda row: (row["rows"] or 0, row["columns"] or 0), _equal),
    ("orientation", _orientation, _same_orientation),
    ("pixel_spacing", lambda row: _numbers(row, "pixel_spacing", 2), _within(SPACING_TOLERANCE_MM)),
    ("kernel", lambda row: _texts(row, "kernel", None), _equal),
    ("slice_thickness", lambda row: _numbers(row, "slice_thickness", 1), _within(THICKNESS_TOLERANCE_MM)),
    (
        "reconstruction_diameter",
        lambda row: _numbers(row, "reconstruction_diameter", 1),
        _within(DIAMETER_TOLERANCE_MM),
    ),
    ("image_type", lambda row: _texts(row, "image_type", 3), _equal),
    ("temporal_position", lambda row: row["temporal_position"], _equal),
    ("stack_id", lambda row: row["stack_id"], _equal),
    ("contrast_phase", lambda row: row["contrast_phase"], _equal),
)
