"""What grouping hands on: a volume candidate with its ordered slices, its verdict and its provenance."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from presage_etl.dicom.geometry import Geometry
from presage_platform.volumes.catalogue import Verdict


@dataclass(frozen=True, slots=True)
class SliceRef:
    """One frame of one file: where its pixels lie and how they are to be read. Independent of the other slices."""

    root_id: int
    rel_path: str  # os.fsdecode of the catalogue's bytes; sensitive
    size: int
    mtime_ns: int
    sop_uid: str
    frame: int
    header_hash: str
    transfer_syntax_uid: str
    pixel_offset: int | None  # of the first byte of the pixel value (encapsulated: of its first item)
    pixel_length: int | None
    d_mm: float  # position along the stack's normal; nan where there is none
    ipp: tuple[float, ...]  # LPS mm
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    pixel_representation: int  # 1 = signed
    samples_per_pixel: int
    photometric: str
    rescale_slope: float | None
    rescale_intercept: float | None
    has_modality_lut: bool
    padding_value: int | None  # in stored values, signed as the pixels are
    padding_limit: int | None


@dataclass(frozen=True, slots=True)
class Unused:
    """A slice of the candidate that is not in its volume, and why."""

    ref: SliceRef
    reason: str  # duplicate | unusable: … | …


@dataclass(slots=True)
class Candidate:
    """A group of slices that would make one volume (I20), with the verdict of the header pass.

    `attributes` are catalogue columns by name, constant over the group or taken from its earliest slice.
    `reasons` are `word: numbers` with a `Reason` as the word; `actions` are words of `Action`.
    """

    series_key: str
    study_uid: str  # derived (case 29) where the file had none and the policy derives
    series_uid: str
    split_by: tuple[str, ...]
    attributes: dict[str, Any]
    slices: list[SliceRef]  # ascending d_mm
    unused: list[Unused]
    verdict: Verdict
    reasons: list[str]
    actions: list[str]
    geometry: Geometry | None
    image_dt: datetime | None  # earliest over the used slices
    image_dt_source: str | None
    image_dt_precision: str | None
    rank: int | None = None  # 1 = represents the study; set by choice.rank
    rank_reason: str | None = None
    verdict_stage: str = "header"
    stale: bool = False  # a file of it is gone or changed: not to be converted before another scan
    volume_id: str | None = None
    missing_after: tuple[tuple[int, int], ...] = field(default=())  # (index of the slice before, slices missing)
