"""A candidate's slices to one int16 Hounsfield volume, voxel for voxel what the scanner stored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from presage_etl.dicom.candidate import Candidate, SliceRef, Unused
from presage_etl.dicom.codecs import chosen_plugin, is_fallback
from presage_etl.dicom.geometry import Float64, Geometry
from presage_etl.dicom.hounsfield import SliceCounts, hounsfield, stored_values
from presage_etl.dicom.pixels import UnusableSliceError, modality_lut, raw_frame
from presage_etl.dicom.series import DUPLICATE
from presage_etl.dicom.stack import Finding, Stack, build_stack
from presage_platform.settings import SeriesSettings
from presage_platform.volumes.catalogue import Action, Reason, Verdict, gravest

_ROUNDING_NOISE = 1e-6
_PLAUSIBLE_HU = 300


@dataclass(slots=True, eq=False)
class NativeVolume:
    """A candidate's pixels; `array` is None when they made its verdict a rejection."""

    array: NDArray[np.int16] | None  # [z, y, x] Hounsfield units
    affine_ras: Float64  # (4, 4), index (x, y, z) → RAS mm
    valid: NDArray[np.bool_] | None  # [z, y, x], None = all voxels are valid
    geometry: Geometry | None
    slices: list[SliceRef]  # the ones used, in order of z (invented slices have none)
    unused: list[Unused]
    pixel_hashes: list[str]  # sha256 of the stored values, one for each of `slices`
    source_min: int  # over all voxels, before padding became air; Hounsfield units
    source_max: int
    hu_p01: float  # percentiles over valid voxels
    hu_p50: float
    hu_p99: float
    invented: tuple[int, ...]  # z of interpolated slices; invalid in `valid`
    verdict: Verdict
    reasons: list[str]
    actions: list[str]
    decoder: str  # package and version, for the run ledger


def read_native(candidate: Candidate, roots: Mapping[int, Path], policy: SeriesSettings | None = None) -> NativeVolume:
    """Decode a candidate that its headers accepted.

    Parameters
    ----------
    candidate
        Of `series.candidates`, with a geometry.
    roots
        Folders behind `root_id` (`walk.read_roots`).
    policy
        `[imaging.series]`, as it was given to `candidates`.

    Returns
    -------
    NativeVolume
        With the final verdict: the pixels can make it graver, never lighter.

    Raises
    ------
    StaleSeriesError
        When a file is gone or is not the one that was scanned.
    ValueError
        When the candidate was rejected by its headers.
    """
    if candidate.geometry is None or candidate.verdict.status != "ok":
        raise ValueError(f"series {candidate.series_key[:12]} is {candidate.verdict}: it has no volume")
    reading = _Reading(candidate, roots)
    reading.read_all()
    reading.check_duplicates()
    stack = reading.usable_stack(policy or SeriesSettings())
    return reading.finish(stack)


@dataclass(slots=True)
class _Reading:
    """One candidate under work."""

    candidate: Candidate
    roots: Mapping[int, Path]
    array: NDArray[np.int16] = field(init=False)
    counts: SliceCounts = field(default_factory=SliceCounts)
    invalid: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    hashes: dict[int, str] = field(default_factory=dict)
    unusable: dict[int, str] = field(default_factory=dict)
    finding: Finding = field(default_factory=Finding)
    has_copies: bool = False

    def __post_init__(self) -> None:
        first = self.candidate.slices[0]
        self.array = np.empty((len(self.candidate.slices), first.rows, first.columns), np.int16)

    def read_all(self) -> None:
        for place, ref in enumerate(self.candidate.slices):
            try:
                self._read_slice(place, ref)
            except UnusableSliceError as error:
                self.unusable[place] = str(error)

    def _read_slice(self, place: int, ref: SliceRef) -> None:
        out = self.array[place]
        stored = stored_values(raw_frame(self._path(ref), ref, out), ref, self.counts)
        self.hashes[place] = hashlib.sha256(np.ascontiguousarray(stored).data).hexdigest()
        lut = modality_lut(self._path(ref)) if ref.has_modality_lut else None
        invalid = hounsfield(stored, ref, lut, self.counts, out)
        if invalid is not None:
            self.invalid[place] = invalid

    def _path(self, ref: SliceRef) -> str:
        return str(self.roots[ref.root_id] / ref.rel_path)

    def check_duplicates(self) -> None:
        """Hold the pixels of every dropped copy against those of the slice that was kept; other pixels are no copy."""
        kept = {ref.sop_uid: self.hashes.get(place) for place, ref in enumerate(self.candidate.slices)}
        conflicts = 0
        scratch = np.empty(self.array.shape[1:], np.int16)
        for copy in self.candidate.unused:
            if copy.reason != DUPLICATE:
                continue
            try:
                stored = stored_values(raw_frame(self._path(copy.ref), copy.ref, scratch), copy.ref, SliceCounts())
            except UnusableSliceError:
                continue
            expected = kept.get(copy.ref.sop_uid)
            conflicts += (
                expected is not None and hashlib.sha256(np.ascontiguousarray(stored).data).hexdigest() != expected
            )
        self.has_copies = conflicts < sum(copy.reason == DUPLICATE for copy in self.candidate.unused)
        if conflicts:
            self.finding.add(Verdict.UID_CONFLICT, Reason.UID_CONFLICT, f"{conflicts} SOP UIDs stand for two images")

    def usable_stack(self, policy: SeriesSettings) -> Stack:
        """Return the stack of the slices that have pixels; a slice without is a gap like any other."""
        candidate = self.candidate
        if not self.unusable:
            return Stack(candidate.slices, candidate.geometry, candidate.missing_after)
        detail = (
            f"{len(self.unusable)} of {len(candidate.slices)} slices: {', '.join(sorted(set(self.unusable.values())))}"
        )
        if len(self.unusable) == len(candidate.slices):
            self.finding.add(Verdict.UNDECODABLE, Reason.UNDECODABLE, detail)
            return Stack([])
        self.finding.add(None, Reason.UNUSABLE_SLICES, detail)
        usable = [ref for place, ref in enumerate(candidate.slices) if place not in self.unusable]
        header = candidate.attributes
        spacing, thickness = header["pixel_spacing"], header["slice_thickness"]
        return build_stack(usable, header["iop"], spacing, thickness, policy, self.finding)

    def finish(self, stack: Stack) -> NativeVolume:
        self._note_actions()
        verdict = gravest([self.candidate.verdict, *self.finding.verdicts])
        accepted = verdict.status == "ok" and stack.geometry is not None
        places = [place for place in range(len(self.candidate.slices)) if place not in self.unusable]
        array, valid, invented = self._volume(places, stack) if accepted else (None, None, ())
        num_invalid = sum(int(np.count_nonzero(mask)) for mask in self.invalid.values())
        p01, p50, p99 = self.counts.percentiles(num_invalid, (0.01, 0.5, 0.99))
        broken = [Unused(self.candidate.slices[place], f"unusable: {why}") for place, why in self.unusable.items()]
        return NativeVolume(
            array=array,
            affine_ras=stack.geometry.affine_ras if stack.geometry is not None else np.full((4, 4), np.nan),
            valid=valid,
            geometry=stack.geometry,
            slices=stack.slices,
            unused=[*self.candidate.unused, *broken],
            pixel_hashes=[self.hashes[place] for place in places],
            source_min=self.counts.source_min,
            source_max=self.counts.source_max,
            hu_p01=p01,
            hu_p50=p50,
            hu_p99=p99,
            invented=invented,
            verdict=verdict,
            reasons=self._with(self.finding.reasons, self.candidate.reasons, Reason.DUPLICATES),
            actions=self._with(self.finding.actions, self.candidate.actions, Action.DROPPED_DUPLICATES),
            decoder=self._decoder(),
        )

    def _with(self, found: list[str], earlier: list[str], of_copies: str) -> list[str]:
        """What the headers said and what the pixels add; not what was said of copies that proved to be none."""
        kept = [one for one in earlier if self.has_copies or not one.startswith(of_copies)]
        return [*kept, *(one for one in found if one not in kept)]

    def _volume(
        self, places: list[int], stack: Stack
    ) -> tuple[NDArray[np.int16], NDArray[np.bool_] | None, tuple[int, ...]]:
        array = self.array if len(places) == len(self.array) else self.array[places]
        valid: NDArray[np.bool_] | None = None
        if self.invalid:
            valid = np.ones(array.shape, bool)
            for z, place in enumerate(places):
                if place in self.invalid:
                    np.logical_not(self.invalid[place], out=valid[z])
        if not stack.missing_after:
            return array, valid, ()
        return _fill_gaps(array, valid, stack.missing_after)

    def _note_actions(self) -> None:
        counts, finding = self.counts, self.finding
        if counts.max_rounding > _ROUNDING_NOISE:
            finding.verdicts.append(Verdict.OK_ROUNDED_HU)
            finding.actions.append(f"{Action.ROUNDED_HU.value}: at most {counts.max_rounding:.3f} HU")
        for action, number in (
            (Action.HU_CLIPPED, counts.clipped),
            (Action.MASKED_HIGH_BITS, counts.dirty_high_bits),
            (Action.PADDING_TO_AIR, counts.padded + counts.below_air),
        ):
            if number:
                finding.actions.append(f"{action.value}: {number} voxels")
        if any(is_fallback(syntax) for syntax in self._syntaxes()):
            finding.actions.append(f"{Action.DECODER_FALLBACK.value}: {self._decoder()}")
        if self.hashes and not self._is_plausible():
            finding.add(None, Reason.HU_IMPLAUSIBLE, f"all voxels on one side of -{_PLAUSIBLE_HU} HU")

    def _is_plausible(self) -> bool:
        """Whether a CT of a body: voxels of air and of more than air."""
        air = self.counts.count_between(-32768, -_PLAUSIBLE_HU - 1)
        return bool(air and self.counts.count_between(-_PLAUSIBLE_HU + 1, 32767))

    def _syntaxes(self) -> list[str]:
        return sorted({ref.transfer_syntax_uid for ref in self.candidate.slices})

    def _decoder(self) -> str:
        plugins = [chosen_plugin(syntax) for syntax in self._syntaxes()]
        return ", ".join(sorted({plugin.label for plugin in plugins if plugin is not None}))


def _fill_gaps(
    array: NDArray[np.int16], valid: NDArray[np.bool_] | None, missing_after: tuple[tuple[int, int], ...]
) -> tuple[NDArray[np.int16], NDArray[np.bool_], tuple[int, ...]]:
    """Put the mean of its neighbours where one slice is missing; the invented slices are invalid."""
    gaps = dict(missing_after)
    slices: list[NDArray[np.int16]] = []
    masks: list[NDArray[np.bool_]] = []
    invented: list[int] = []
    for z in range(len(array)):
        slices.append(array[z])
        masks.append(np.ones(array.shape[1:], bool) if valid is None else valid[z])
        for part in range(1, gaps.get(z, 0) + 1):
            share = part / (gaps[z] + 1)
            between = np.rint(array[z] * (1.0 - share) + array[z + 1] * share).astype(np.int16)
            invented.append(len(slices))
            slices.append(between)
            masks.append(np.zeros(array.shape[1:], bool))
    return np.stack(slices), np.stack(masks), tuple(invented)
