"""Slices to a stack: sort them by position, and say whether their geometry makes a volume.

Used twice: on all slices of a candidate by its headers, and again on those whose pixels proved usable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from presage_etl.dicom.candidate import SliceRef
from presage_etl.dicom.geometry import (
    DRIFT_MM,
    SAME_POSITION_MM,
    Float64,
    Geometry,
    Orientation,
    Regularity,
    Spacing,
    distances,
    drift_mm,
    orientation,
    regularity,
    stack_geometry,
    tilt_degrees,
)
from presage_platform.settings import SeriesSettings
from presage_platform.volumes.catalogue import Action, Reason, Verdict

MAX_INTERPOLATED_GAP_MM = 6.0
THICKNESS_TOLERANCE = 0.01


@dataclass(slots=True)
class Finding:
    """What was found: verdict codes, reasons with numbers, actions."""

    verdicts: list[Verdict] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)

    def add(self, verdict: Verdict | None, reason: Reason, detail: str, action: Action | None = None) -> None:
        """Note one finding; `detail` is words and numbers, never a resource's text."""
        if verdict is not None:
            self.verdicts.append(verdict)
        line = f"{reason.value}: {detail}"
        if line not in self.reasons:
            self.reasons.append(line)
        if action is not None and action.value not in self.actions:
            self.actions.append(action.value)


@dataclass(slots=True)
class Stack:
    """Slices in order, and what their geometry is; `geometry` is None when they make no regular volume."""

    slices: list[SliceRef]
    geometry: Geometry | None = None
    missing_after: tuple[tuple[int, int], ...] = ()


def build_stack(
    slices: Sequence[SliceRef],
    iop: Sequence[float] | None,
    pixel_spacing_mm: Sequence[float] | None,
    thickness_mm: float | None,
    policy: SeriesSettings,
    finding: Finding,
) -> Stack:
    """Sort slices along their normal and judge the stack; verdicts and reasons go into `finding`."""
    by_name = sorted(slices, key=lambda one: (one.sop_uid, one.frame, one.header_hash))
    _count_slices(len(by_name), policy, finding)
    directions = orientation(iop)
    if directions is None:
        finding.add(Verdict.BAD_ORIENTATION, Reason.BAD_ORIENTATION, "no pair of orthogonal unit directions")
        return Stack(by_name)
    positions = _positions(by_name)
    if positions is None or not _is_spacing(pixel_spacing_mm):
        what = "a slice has no finite position" if positions is None else "pixel spacing is missing or not positive"
        finding.add(Verdict.BAD_POSITION, Reason.BAD_POSITION, what)
        return Stack(by_name)
    along = distances(positions, directions)
    order = np.argsort(along, kind="stable")
    ordered = [replace(by_name[at], d_mm=float(along[at])) for at in order]
    stack = Stack(ordered)
    if _are_distinct(along[order], finding):
        _judge(stack, positions[order], directions, pixel_spacing_mm or (), thickness_mm, policy, finding)
    return stack


def _count_slices(count: int, policy: SeriesSettings, finding: Finding) -> None:
    if count <= 1:
        finding.add(Verdict.SINGLE_SLICE, Reason.SINGLE_SLICE, f"{count} slice")
    elif count < policy.min_slices:
        finding.add(Verdict.TOO_FEW_SLICES, Reason.TOO_FEW_SLICES, f"{count} slices, at least {policy.min_slices}")


def _positions(slices: Sequence[SliceRef]) -> Float64 | None:
    if any(len(one.ipp) != 3 for one in slices):
        return None
    positions = np.array([one.ipp for one in slices], np.float64)
    return positions if np.isfinite(positions).all() else None


def _is_spacing(pixel_spacing_mm: Sequence[float] | None) -> bool:
    if pixel_spacing_mm is None or len(pixel_spacing_mm) != 2:
        return False
    return bool(np.isfinite(pixel_spacing_mm).all()) and min(pixel_spacing_mm) > 0


def _are_distinct(along: Float64, finding: Finding) -> bool:
    """Tell whether there are two slices or more, each at a place of its own."""
    if len(along) < 2:
        return False
    if along[-1] - along[0] <= SAME_POSITION_MM:
        finding.add(Verdict.BAD_POSITION, Reason.BAD_POSITION, f"all {len(along)} slices stand at one position")
        return False
    ties = int((np.diff(along) <= SAME_POSITION_MM).sum())
    if ties:
        finding.add(Verdict.DUPLICATE_POSITIONS, Reason.DUPLICATE_POSITIONS, f"{ties} slices repeat a position")
    return ties == 0


def _judge(
    stack: Stack,
    positions: Float64,
    directions: Orientation,
    pixel_spacing_mm: Sequence[float],
    thickness_mm: float | None,
    policy: SeriesSettings,
    finding: Finding,
) -> None:
    found = regularity(distances(positions, directions))
    straight = _judge_line(positions, directions, finding)
    even = _judge_steps(found, policy, finding)
    _judge_thickness(thickness_mm, found, finding)
    if directions.orthonormalised:
        finding.actions.append(Action.ORTHONORMALISED.value)
    if not (straight and even):
        return
    first = stack.slices[0]
    stack.geometry = stack_geometry(positions, directions, pixel_spacing_mm, (first.rows, first.columns), found)
    stack.missing_after = tuple((at, missing) for at, missing, _ in found.gaps)
    if stack.geometry.extent_mm < policy.min_extent_mm:
        detail = f"extent {stack.geometry.extent_mm:.1f} mm, at least {policy.min_extent_mm:.1f} mm"
        finding.add(Verdict.COVERAGE, Reason.COVERAGE, detail)


def _judge_line(positions: Float64, directions: Orientation, finding: Finding) -> bool:
    off = drift_mm(positions, directions)
    if off > DRIFT_MM:
        detail = f"positions leave the straight line by {off:.2f} mm, at most {DRIFT_MM} mm"
        finding.add(Verdict.POSITION_DRIFT, Reason.POSITION_DRIFT, detail)
        return False
    tilt = tilt_degrees(positions, directions)
    if tilt:
        finding.add(None, Reason.TILT, f"stack tilted by {tilt:.2f} degrees against its slices")
        finding.add(Verdict.POSITION_DRIFT, Reason.NOT_SUPPORTED_YET, f"gantry tilt of {tilt:.2f} degrees")
        return False
    return True


def _judge_steps(found: Regularity, policy: SeriesSettings, finding: Finding) -> bool:
    if found.spacing is Spacing.REGULAR:
        return True
    if found.spacing is Spacing.ROUNDED:
        detail = f"positions off the grid by up to {found.residual_mm:.3f} mm; step {found.step_mm:.3f} mm"
        finding.add(Verdict.OK_ROUNDED_POSITIONS, Reason.ROUNDED_POSITIONS, detail, Action.ROUNDED_POSITIONS)
        return True
    if found.spacing is Spacing.MISSING:
        return _judge_gaps(found, policy, finding)
    steps = f"steps from {found.min_step_mm:.2f} to {found.max_step_mm:.2f} mm"
    finding.add(None, Reason.SPACING, f"{steps}, not explained by missing slices")
    if found.max_step_mm > policy.max_step_mm:
        finding.add(Verdict.SPACING, Reason.SPACING, f"{steps}, at most {policy.max_step_mm:.2f} mm")
    else:
        finding.add(Verdict.SPACING, Reason.NOT_SUPPORTED_YET, f"varying {steps}")
    return False


def _judge_gaps(found: Regularity, policy: SeriesSettings, finding: Finding) -> bool:
    fillable = all(missing == 1 and gap <= MAX_INTERPOLATED_GAP_MM for _, missing, gap in found.gaps)
    interpolated = policy.missing == "interpolate" and fillable
    verdict = Verdict.OK_INTERPOLATED_GAPS if interpolated else Verdict.MISSING_SLICES
    for at, _, gap in found.gaps:
        detail = f"gap of {gap:.1f} mm after slice {at + 1}; step {found.step_mm:.1f} mm"
        finding.add(verdict, Reason.MISSING_SLICES, detail, Action.INTERPOLATED_GAPS if interpolated else None)
    return interpolated


def _judge_thickness(thickness_mm: float | None, found: Regularity, finding: Finding) -> None:
    if thickness_mm is None or not thickness_mm > 0:
        return
    if abs(thickness_mm - found.step_mm) > THICKNESS_TOLERANCE * found.step_mm:
        detail = f"thickness {thickness_mm:.2f} mm, step {found.step_mm:.2f} mm"
        finding.add(None, Reason.THICKNESS_DIFFERS, detail)
