"""What headers alone say about a candidate: identity, kind of image, pixels that can be read. Geometry is `stack`'s."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from presage_etl.dicom.codecs import has_decoder
from presage_etl.dicom.grouping import Row, sop_class_family
from presage_etl.dicom.stack import Finding
from presage_platform.settings import SeriesSettings
from presage_platform.volumes.catalogue import Action, Reason, Verdict

MAX_SIDE, MAX_FRAMES = 4096, 65_536
_UID = re.compile(r"[0-9.]{1,64}")
DERIVED_WORDS = frozenset(
    {
        "MPR", "CSA MPR", "CSAMPR", "CPR", "REFORMATTED", "MIP", "MINIP", "MNIP", "MAXIP", "PROJECTION IMAGE",
        "AVERAGE", "AVG", "MEAN", "VRT", "SSD", "3D", "PERFUSION", "CBF", "CBV", "MTT", "TTP", "TMAX", "SUBTRACTION",
        "DIFFERENCE", "DOSE", "DOSE REPORT", "SCREEN SAVE", "FUSION", "RESAMPLED",
    }
)  # fmt: skip
_CLOCKS = (
    ("AcquisitionDateTime", "acquisition_dt"),
    ("AcquisitionDate", "acquisition_dt"),
    ("ContentDate", "content_dt"),
    ("SeriesDate", "series_dt"),
    ("StudyDate", "study_dt"),
)


def judge_headers(rows: list[Row], policy: SeriesSettings, max_volume_gb: float, finding: Finding) -> None:
    """Add to `finding` what the headers of a candidate's slices say, geometry apart."""
    _judge_uids(rows, policy, finding)
    _judge_risk(rows, policy, finding)
    _judge_kind(rows, policy, finding)
    _judge_pixels(rows, policy, finding)
    _judge_size(rows, max_volume_gb, finding)
    _judge_rescale(rows, finding)


def is_localizer(rows: list[Row]) -> bool:
    """Tell whether the image type says localizer."""
    return any("LOCALIZER" in (row["image_type"] or ()) for row in rows)


def judge_clock(row: Row, finding: Finding) -> None:
    """Note how the time of a candidate's earliest slice was come by."""
    source = row["image_dt_source"]
    if source is None:
        finding.add(None, Reason.NO_DATE, "no date in the header")
        return
    names = [name for name, _ in _CLOCKS]
    passed = [row[column] for _, column in _CLOCKS[: names.index(source)] if row[column] is not None]
    if row["image_dt_precision"] != "day" and any(moment != row["image_dt"] for moment in passed):
        finding.add(None, Reason.MIDNIGHT_TIME, f"a better source has no hour or 000000; {source} taken")


def _count(rows: list[Row], matches: Iterable[bool]) -> str | None:
    """Return `n of m slices`, or None when there are none."""
    number = sum(matches)
    return f"{number} of {len(rows)} slices" if number else None


def _judge_uids(rows: list[Row], policy: SeriesSettings, finding: Finding) -> None:
    missing = _count(rows, (not (row["study_uid"] and row["series_uid"] and row["sop_uid"]) for row in rows))
    if missing and policy.missing_uid == "derive":
        finding.add(Verdict.OK_DERIVED_UID, Reason.MISSING_UID, f"{missing}, derived", Action.DERIVED_UID)
    elif missing:
        finding.add(Verdict.MISSING_UID, Reason.MISSING_UID, f"{missing} without study, series or SOP UID")
    malformed = _count(rows, (any(_is_malformed(row[name]) for name in _UID_COLUMNS) for row in rows))
    if malformed:
        finding.add(None, Reason.UID_MALFORMED, f"{malformed} with other characters than digits and dots, or over 64")


_UID_COLUMNS = ("study_uid", "series_uid", "sop_uid")


def _is_malformed(uid: str | None) -> bool:
    return uid is not None and not _UID.fullmatch(uid)


def _judge_risk(rows: list[Row], policy: SeriesSettings, finding: Finding) -> None:
    """Judge whether text may stand in the pixels.

    Secondary captures and colour are risks too, but have codes of their own that say more.
    """
    captured = [sop_class_family(row["sop_class_uid"]) == "secondary_capture" for row in rows]
    risky = (
        row["burned_in"] == "yes" or row["has_overlay"] or (row["burned_in"] == "converted" and not capture)
        for row, capture in zip(rows, captured, strict=True)
    )
    flagged = _count(rows, risky)
    if flagged:
        verdict = None if policy.allow_pixel_risk else Verdict.BURNED_IN
        finding.add(verdict, Reason.BURNED_IN, f"{flagged} declare text, overlays or a conversion")
    if flagged or any(captured) or any((row["samples_per_pixel"] or 1) != 1 for row in rows):
        finding.add(None, Reason.PIXEL_RISK, "no thumbnails")


def _judge_kind(rows: list[Row], policy: SeriesSettings, finding: Finding) -> None:
    first = rows[0]
    family = sop_class_family(first["sop_class_uid"])
    is_ct = first["modality"] == "CT" or (first["modality"] is None and family in ("ct", "enhanced_ct"))
    if family == "secondary_capture":
        finding.add(Verdict.SECONDARY_CAPTURE, Reason.SECONDARY_CAPTURE, "secondary capture SOP class")
    if not is_ct:
        finding.add(Verdict.NOT_CT, Reason.NOT_CT, "modality is not CT")
    if is_localizer(rows):
        finding.add(Verdict.LOCALIZER, Reason.LOCALIZER, "image type says localizer")
    _judge_derived(
        rows, policy, finding, not_ct_class=is_ct and family not in ("ct", "enhanced_ct", "secondary_capture")
    )
    frames = max((row["number_of_frames"] or 1) for row in rows)
    if family == "enhanced_ct" or frames > 1:
        detail = f"multi-frame object of up to {frames} frames in {len(rows)} files"
        finding.add(Verdict.FUNCTIONAL_GROUPS, Reason.NOT_SUPPORTED_YET, detail)


def _judge_derived(rows: list[Row], policy: SeriesSettings, finding: Finding, *, not_ct_class: bool) -> None:
    derived = _count(rows, (is_derived(row["image_type"]) for row in rows))
    if not derived and not not_ct_class:
        return
    allowed = {word.upper() for word in policy.allow_derived}
    if derived and not not_ct_class and all(allowed & set(row["image_type"] or ()) for row in rows):
        finding.add(Verdict.OK_DERIVED, Reason.DERIVED, f"{derived}, allowed by policy")
        return
    detail = f"{derived} by image type" if derived else "the SOP class is not CT image storage"
    finding.add(Verdict.DERIVED, Reason.DERIVED, detail)


def is_derived(image_type: list[str] | None) -> bool:
    """Tell whether ImageType says that an image was computed from others."""
    words = [word.upper() for word in image_type or ()]
    return bool(words) and (words[0] == "DERIVED" or not DERIVED_WORDS.isdisjoint(words[2:]))


def _judge_pixels(rows: list[Row], policy: SeriesSettings, finding: Finding) -> None:
    colour = _count(
        rows,
        (
            row["photometric"] not in ("MONOCHROME1", "MONOCHROME2", None) or (row["samples_per_pixel"] or 1) != 1
            for row in rows
        ),
    )
    if colour:
        finding.add(Verdict.PHOTOMETRIC, Reason.PHOTOMETRIC, f"{colour} are not one grey channel")
    undecoded = _count(rows, (not has_decoder(row["transfer_syntax_uid"]) for row in rows))
    if undecoded:
        finding.add(Verdict.NO_DECODER, Reason.NO_DECODER, f"{undecoded} in a transfer syntax without decoder")
    lossy = _count(rows, (bool(row["lossy"]) for row in rows))
    if lossy and policy.lossy == "reject":
        finding.add(Verdict.NO_DECODER, Reason.LOSSY, f"{lossy} compressed with loss, refused by policy")
    elif lossy:
        finding.add(Verdict.OK_LOSSY, Reason.LOSSY, f"{lossy} compressed with loss")
    if any(row["photometric"] == "MONOCHROME1" for row in rows):
        finding.verdicts.append(Verdict.OK_INVERTED)
        finding.actions.append(Action.INVERTED.value)


def _judge_size(rows: list[Row], max_volume_gb: float, finding: Finding) -> None:
    wrong = _count(rows, (not _is_size_legal(row) for row in rows))
    if wrong:
        detail = f"{wrong} beyond {MAX_SIDE} x {MAX_SIDE} pixels or {MAX_FRAMES} frames, or empty"
        finding.add(Verdict.UNDECODABLE, Reason.DECLARED_SIZE, detail)
        return
    odd = _count(rows, (not _is_layout_read(row) for row in rows))
    if odd:
        finding.add(Verdict.UNDECODABLE, Reason.NOT_SUPPORTED_YET, f"{odd} not of 8 or 16 bits with the usual high bit")
    voxels = sum(row["rows"] * row["columns"] * (row["number_of_frames"] or 1) for row in rows)
    if voxels * 2 > max_volume_gb * 1e9:
        detail = f"{voxels * 2 / 1e9:.1f} GB decoded, at most {max_volume_gb:g} GB"
        finding.add(Verdict.UNDECODABLE, Reason.DECLARED_SIZE, detail)


def _is_size_legal(row: Row) -> bool:
    sides = (row["rows"] or 0, row["columns"] or 0)
    return all(0 < side <= MAX_SIDE for side in sides) and 0 < (row["number_of_frames"] or 1) <= MAX_FRAMES


def _is_layout_read(row: Row) -> bool:
    allocated, stored = row["bits_allocated"], row["bits_stored"]
    if allocated not in (8, 16) or stored is None or not 0 < stored <= allocated:
        return False
    return row["high_bit"] in (None, stored - 1) and row["pixel_representation"] in (0, 1)


def _judge_rescale(rows: list[Row], finding: Finding) -> None:
    absent = _count(rows, (not _has_rescale(row) for row in rows))
    if absent:
        finding.add(Verdict.NO_RESCALE, Reason.NO_RESCALE, f"{absent} without slope and intercept or modality LUT")


def _has_rescale(row: dict[str, Any]) -> bool:
    return row["has_modality_lut"] or (row["rescale_slope"] is not None and row["rescale_intercept"] is not None)
