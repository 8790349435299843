"""Catalogue rows to volume candidates: every image lands in exactly one, each has one verdict and all its reasons."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from presage_etl.dicom.candidate import Candidate, SliceRef, Unused
from presage_etl.dicom.grouping import (
    Group,
    Row,
    count_orientations,
    derived_series_uid,
    derived_study_uid,
    series_key,
    split_series,
)
from presage_etl.dicom.judgement import judge_clock, judge_headers
from presage_etl.dicom.stack import Finding, Stack, build_stack
from presage_platform.settings import SeriesSettings
from presage_platform.volumes.catalogue import Action, ReadStatus, Reason, Verdict, gravest

MAX_LOCALIZER_IMAGES = 3
DUPLICATE = "duplicate"
SENSITIVE = frozenset({"rel_path", "series_description", "protocol_name"})
_FILE_COLUMNS = frozenset(
    {
        "root_id",
        "size",
        "mtime_ns",
        "header_hash",
        "absent_since",
        "pixel_offset",
        "pixel_length",
        "read_status",
        "frame",
    }
)
_SAME_IMAGE = (
    "rows", "columns", "ipp", "iop", "pixel_spacing", "rescale_slope", "rescale_intercept", "bits_stored",
    "pixel_representation", "photometric", "patient_key",
)  # fmt: skip


def candidates(
    instances: pa.Table,
    policy: SeriesSettings,
    *,
    shared_uids: frozenset[str] | None = None,
    max_volume_gb: float = 8.0,
) -> list[Candidate]:
    """Group the images of a catalogue into volume candidates with their verdict by the headers.

    Parameters
    ----------
    instances
        Rows of `INSTANCE_SCHEMA`: the whole catalogue, or whole studies of it.
    policy
        `[imaging.series]`.
    shared_uids
        SOP and series UIDs that stand under two patients anywhere in the catalogue; None = found in `instances`.
    max_volume_gb
        `imaging.max_volume_gb`.

    Returns
    -------
    list[Candidate]
        In order of (study_uid, series_uid, series_key); the same for any order of rows.
    """
    images = instances.filter(pc.equal(instances["read_status"], ReadStatus.OK.value))
    shared = shared_uids if shared_uids is not None else find_shared_uids(images)
    series: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in images.to_pylist():
        study_uid = row["study_uid"] or derived_study_uid(row)
        series[study_uid, row["series_uid"] or derived_series_uid(row)].append(row)
    found: list[Candidate] = []
    for (study_uid, series_uid), rows in sorted(series.items()):
        present, is_stale = _present_rows(rows)
        made = _Series(study_uid, series_uid, present, policy, shared, max_volume_gb).candidates()
        for candidate in made:
            candidate.stale = is_stale
        found.extend(made)
    return found


def _present_rows(rows: list[Row]) -> tuple[list[Row], bool]:
    """Drop the old places of images that moved; a series of which an image is gone is stale, and stays as it was."""
    present = {_sop(row) for row in rows if row["absent_since"] is None}
    kept = [row for row in rows if row["absent_since"] is None or _sop(row) not in present]
    return kept, any(row["absent_since"] is not None for row in kept)


def find_shared_uids(instances: pa.Table) -> frozenset[str]:
    """Return the SOP and series UIDs that stand under two patients."""
    shared: set[str] = set()
    for name in ("series_uid", "sop_uid"):
        pairs = instances.select([name, "patient_key"]).drop_null()
        counted = pairs.group_by(name).aggregate([("patient_key", "count_distinct")])
        shared.update(counted.filter(pc.greater(counted["patient_key_count_distinct"], 1))[name].to_pylist())
    return frozenset(shared)


class _Series:
    """One series under work."""

    def __init__(
        self,
        study_uid: str,
        series_uid: str,
        rows: list[Row],
        policy: SeriesSettings,
        shared_uids: frozenset[str],
        max_volume_gb: float,
    ) -> None:
        self.study_uid, self.series_uid, self.policy = study_uid, series_uid, policy
        self.shared_uids, self.max_volume_gb = shared_uids, max_volume_gb
        self.rows, self.duplicates, self.conflicts = _drop_duplicates(rows)
        self.patients = {row["patient_key"] for row in rows if row["patient_key"]}
        small = len(self.rows) <= MAX_LOCALIZER_IMAGES
        self.is_untyped_scout = small and count_orientations(self.rows) > 1

    def candidates(self) -> list[Candidate]:
        groups, split_by = split_series(self.rows)
        return sorted((self._candidate(group, split_by) for group in groups), key=lambda one: one.series_key)

    def _candidate(self, group: Group, split_by: tuple[str, ...]) -> Candidate:
        finding = Finding()
        copies = [copy for row in group.rows for copy in self.duplicates.get(_sop(row), ())]
        self._judge_identity(group, copies, finding)
        judge_headers(group.rows, self.policy, self.max_volume_gb, finding)
        first = group.rows[0]
        refs = [slice_ref(row) for row in group.rows]
        thickness, spacing = first["slice_thickness"], first["pixel_spacing"]
        stack = build_stack(refs, first["iop"], spacing, thickness, self.policy, finding)
        earliest = min(group.rows, key=lambda row: (row["image_dt"] is None, row["image_dt"], row["sop_uid"] or ""))
        judge_clock(earliest, finding)
        unused = [Unused(slice_ref(copy), DUPLICATE) for copy in copies]
        return self._assembled(group, split_by, stack, unused, earliest, finding)

    def _assembled(
        self,
        group: Group,
        split_by: tuple[str, ...],
        stack: Stack,
        unused: list[Unused],
        earliest: Row,
        finding: Finding,
    ) -> Candidate:
        hidden = SENSITIVE | _FILE_COLUMNS
        sop_uids = {_sop(row) for row in group.rows}
        return Candidate(
            series_key=series_key(self.study_uid, self.series_uid, group.split_values, sop_uids),
            study_uid=self.study_uid,
            series_uid=self.series_uid,
            split_by=split_by,
            attributes={name: value for name, value in earliest.items() if name not in hidden},
            slices=stack.slices,
            unused=unused,
            verdict=gravest(finding.verdicts),
            reasons=finding.reasons,
            actions=finding.actions,
            geometry=stack.geometry,
            image_dt=earliest["image_dt"],
            image_dt_source=earliest["image_dt_source"],
            image_dt_precision=earliest["image_dt_precision"],
            missing_after=stack.missing_after,
        )

    def _judge_identity(self, group: Group, copies: list[Row], finding: Finding) -> None:
        sop_uids = {_sop(row) for row in group.rows}
        shared = len(sop_uids & self.shared_uids)
        if shared or self.series_uid in self.shared_uids or len(self.patients) > 1:
            what = f"{shared} SOP UIDs" if shared else "the series UID"
            finding.add(Verdict.UID_ACROSS_PATIENTS, Reason.UID_ACROSS_PATIENTS, f"{what} under two patient ids")
        conflicts = len(sop_uids & self.conflicts)
        if conflicts:
            finding.add(Verdict.UID_CONFLICT, Reason.UID_CONFLICT, f"{conflicts} SOP UIDs stand for two images")
        dropped = sum(_sop(copy) not in self.conflicts for copy in copies)
        if dropped:
            detail = f"{dropped} copies of slices"
            finding.add(Verdict.OK_DROPPED_DUPLICATES, Reason.DUPLICATES, detail, Action.DROPPED_DUPLICATES)
        if self.is_untyped_scout:
            detail = f"{len(self.rows)} images of differing orientation"
            finding.add(Verdict.LOCALIZER, Reason.LOCALIZER, detail)


def slice_ref(row: Row) -> SliceRef:
    """Return what decoding needs of one catalogue row."""
    return SliceRef(
        root_id=row["root_id"],
        rel_path=os.fsdecode(row["rel_path"]),
        size=row["size"],
        mtime_ns=row["mtime_ns"],
        sop_uid=_sop(row),
        frame=row["frame"] or 0,
        header_hash=row["header_hash"],
        transfer_syntax_uid=row["transfer_syntax_uid"] or "",
        pixel_offset=row["pixel_offset"],
        pixel_length=row["pixel_length"],
        d_mm=float("nan"),
        ipp=tuple(row["ipp"] or ()),
        rows=row["rows"] or 0,
        columns=row["columns"] or 0,
        bits_allocated=row["bits_allocated"] or 0,
        bits_stored=row["bits_stored"] or 0,
        high_bit=row["high_bit"] if row["high_bit"] is not None else (row["bits_stored"] or 0) - 1,
        pixel_representation=row["pixel_representation"] or 0,
        samples_per_pixel=row["samples_per_pixel"] or 1,
        photometric=row["photometric"] or "MONOCHROME2",
        rescale_slope=row["rescale_slope"],
        rescale_intercept=row["rescale_intercept"],
        has_modality_lut=bool(row["has_modality_lut"]),
        padding_value=row["padding_value"],
        padding_limit=row["padding_limit"],
    )


def _sop(row: Row) -> str:
    """Return the SOP UID, or one derived from the header where there is none."""
    return row["sop_uid"] or f"2.25.{int(row['header_hash'], 16)}"


def _drop_duplicates(rows: list[Row]) -> tuple[list[Row], dict[str, list[Row]], set[str]]:
    """Keep one row a SOP UID; return the kept rows, the copies of each, and the UIDs of two different images."""
    kept: list[Row] = []
    copies: dict[str, list[Row]] = {}
    conflicts: set[str] = set()
    for sop_uid, same in _by_sop(rows):
        first, *others = sorted(same, key=lambda row: (row["header_hash"], row["root_id"], row["rel_path"]))
        kept.append(first)
        if others:
            copies[sop_uid] = others
        if any(_differs(first, other) for other in others):
            conflicts.add(sop_uid)
    return kept, copies, conflicts


def _by_sop(rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    by_sop: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_sop[_sop(row)].append(row)
    yield from sorted(by_sop.items())


def _differs(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return any(one[name] != other[name] for name in _SAME_IMAGE)
