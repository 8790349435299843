"""Why a series was judged as it was, and why a study is represented by it: for the operator's terminal only.

This is the one place that prints file paths; it does so on request and never into a log.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from presage_etl.dicom.candidate import Candidate, SliceRef
from presage_etl.dicom.choice import rank, read_overrides
from presage_etl.dicom.instances import instance_parts, read_instances
from presage_etl.dicom.series import candidates, find_shared_uids
from presage_etl.dicom.walk import read_roots
from presage_platform.errors import InputError
from presage_platform.settings import Settings

MIN_KEY_DIGITS = 6


def explain_series(settings: Settings, series_key: str) -> str:
    """Return everything known about one candidate: verdict, reasons, geometry, slices in order, slices not used.

    Raises
    ------
    InputError
        When no candidate, or more than one, has a key that starts like this.
    """
    found = [one for one in _all_candidates(settings) if one.series_key.startswith(series_key)]
    if len(series_key) < MIN_KEY_DIGITS or len(found) != 1:
        raise InputError(
            f"{len(found)} series have a key that starts with these {len(series_key)} digits: "
            f"give {MIN_KEY_DIGITS} digits or more of one"
        )
    return "\n".join(_series_lines(found[0], read_roots(settings.catalogue_dir)))


def explain_study(settings: Settings, study_uid: str) -> str:
    """Return the ranking of a study's candidates with the reason of each place.

    Raises
    ------
    InputError
        When the catalogue has no such study.
    """
    found = [one for one in _all_candidates(settings) if one.study_uid == study_uid]
    if not found:
        raise InputError("the catalogue has no such study: scan its files with `platform etl dicom`")
    ranked = sorted(found, key=lambda one: (one.rank is None, one.rank or 0, one.series_key))
    return "\n".join(_study_line(candidate) for candidate in ranked)


def study_candidates(settings: Settings, study_uids: Sequence[str]) -> list[Candidate]:
    """Return the ranked candidates of some studies, read from the catalogue alone."""
    wanted = frozenset(study_uids)
    return [one for one in _all_candidates(settings) if one.study_uid in wanted]


def _all_candidates(settings: Settings) -> list[Candidate]:
    imaging = settings.imaging
    columns = ["series_uid", "sop_uid", "patient_key"]
    shared = find_shared_uids(read_instances(settings.catalogue_dir, columns))
    found: list[Candidate] = []
    for part in instance_parts(settings.catalogue_dir):
        table = pq.read_table(part)
        images = table.filter(pc.equal(table["read_status"], "ok"))
        made = candidates(images, imaging.series, shared_uids=shared, max_volume_gb=imaging.max_volume_gb)
        found.extend(made)
    rank(found, imaging.choice, read_overrides(imaging.choice.override))
    return found


def _study_line(candidate: Candidate) -> str:
    place = f"{candidate.rank:>2}" if candidate.rank is not None else " -"
    why = candidate.rank_reason or "; ".join(candidate.reasons)
    return f"{place}  {candidate.series_key}  {candidate.verdict:<24}  {len(candidate.slices):>4} slices  {why}"


def _series_lines(candidate: Candidate, roots: dict[int, Path]) -> list[str]:
    lines = [
        f"series   {candidate.series_key}",
        f"verdict  {candidate.verdict}: {candidate.verdict.meaning}",
        f"split    {', '.join(candidate.split_by) or 'not split'}",
        *(f"reason   {reason}" for reason in candidate.reasons),
        *(f"action   {action}" for action in candidate.actions),
        f"rank     {candidate.rank or '-'} {candidate.rank_reason or ''}".rstrip(),
    ]
    geometry = candidate.geometry
    if geometry is not None:
        x, y, z = geometry.spacing_mm
        lines.append(f"geometry {x:g} x {y:g} x {z:g} mm, extent {geometry.extent_mm:.1f} mm")
    lines.extend(f"used     {_slice_words(ref, roots)}" for ref in candidate.slices)
    lines.extend(f"unused   {_slice_words(one.ref, roots)}  {one.reason}" for one in candidate.unused)
    return lines


def _slice_words(ref: SliceRef, roots: dict[int, Path]) -> str:
    # repr: a name with a newline or invalid bytes is shown escaped
    path = repr(str(roots[ref.root_id] / ref.rel_path))
    return f"d={ref.d_mm:.3f} mm  frame {ref.frame}  {ref.header_hash[:12]}  {ref.sop_uid}  {path}"
