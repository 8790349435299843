"""The image catalogue's contract: its columns, and the words in which a series is judged.

One row of `catalogue/instances/*.parquet` is one SOP instance (one frame of it when it holds many) or one file that
turned out to be none. Verdict codes are append-only: a code that was once released never changes its meaning.
"""

from __future__ import annotations

from enum import StrEnum

import pyarrow as pa


class ReadStatus(StrEnum):
    """What became of one file of the archive; every file that was seen has exactly one."""

    OK = "ok"  # an image: a row of a series
    NOT_IMAGE = "not_image"  # DICOM without pixels: report, plan, directory
    NOT_DICOM = "not_dicom"
    UNREADABLE = "unreadable"
    ARCHIVE_SKIPPED = "archive_skipped"  # zip, tar, gz: unpack first


class Verdict(StrEnum):
    """What a volume candidate is good for; members stand in order of gravity, gravest first."""

    UID_ACROSS_PATIENTS = "rejected_uid_across_patients"
    UID_CONFLICT = "rejected_uid_conflict"
    MISSING_UID = "rejected_missing_uid"
    BURNED_IN = "rejected_burned_in"
    PHOTOMETRIC = "rejected_photometric"
    SECONDARY_CAPTURE = "rejected_secondary_capture"
    LOCALIZER = "rejected_localizer"
    DERIVED = "rejected_derived"
    FUNCTIONAL_GROUPS = "rejected_functional_groups"
    NO_AFFINE = "rejected_no_affine"
    BAD_AFFINE = "rejected_bad_affine"
    NOT_3D = "rejected_not_3d"
    NO_DECODER = "rejected_no_decoder"
    UNDECODABLE = "rejected_undecodable"
    NO_RESCALE = "rejected_no_rescale"
    BAD_ORIENTATION = "rejected_bad_orientation"
    BAD_POSITION = "rejected_bad_position"
    SINGLE_SLICE = "rejected_single_slice"
    TOO_FEW_SLICES = "rejected_too_few_slices"
    DUPLICATE_POSITIONS = "rejected_duplicate_positions"
    MISSING_SLICES = "rejected_missing_slices"
    POSITION_DRIFT = "rejected_position_drift"
    SPACING = "rejected_spacing"
    COVERAGE = "rejected_coverage"
    NOT_CT = "rejected_not_ct"
    OK_DERIVED = "ok_derived"
    OK_INTERPOLATED_GAPS = "ok_interpolated_gaps"
    OK_LOSSY = "ok_lossy"
    OK_DERIVED_UID = "ok_derived_uid"
    OK_RESAMPLED_SPACING = "ok_resampled_spacing"
    OK_RESAMPLED_TILT = "ok_resampled_tilt"
    OK_INVERTED = "ok_inverted"
    OK_ROUNDED_HU = "ok_rounded_hu"
    OK_ROUNDED_POSITIONS = "ok_rounded_positions"
    OK_DROPPED_DUPLICATES = "ok_dropped_duplicates"
    OK = "ok"

    @property
    def status(self) -> str:
        """`ok` (a volume can be had) or `rejected`."""
        return "rejected" if self.value.startswith("rejected_") else "ok"

    @property
    def gravity(self) -> int:
        """Place in the order of precedence: 0 is the gravest."""
        return _GRAVITY[self.value]

    @property
    def meaning(self) -> str:
        """The code in one plain sentence, for reports and the reference page."""
        return MEANINGS[self]


_GRAVITY = {verdict.value: place for place, verdict in enumerate(Verdict)}


def gravest(verdicts: list[Verdict]) -> Verdict:
    """Return the verdict that decides among several; `ok` when there is none."""
    return min(verdicts, key=lambda verdict: verdict.gravity, default=Verdict.OK)


MEANINGS: dict[Verdict, str] = {
    Verdict.UID_ACROSS_PATIENTS: "One SOP or series UID stands under two patient ids.",
    Verdict.UID_CONFLICT: "One SOP UID stands for two different images.",
    Verdict.MISSING_UID: "The study or series UID is empty.",
    Verdict.BURNED_IN: "Text may be burned into the pixels.",
    Verdict.PHOTOMETRIC: "The pixels are in colour or palette indices, not in one grey channel.",
    Verdict.SECONDARY_CAPTURE: "A screen capture, not an acquisition.",
    Verdict.LOCALIZER: "A localizer (scout), not a stack.",
    Verdict.DERIVED: "Derived from other images: reformat, projection, map or report.",
    Verdict.FUNCTIONAL_GROUPS: "Functional groups of a multi-frame object contradict each other, or are not read yet.",
    Verdict.NO_AFFINE: "The NIfTI file declares no position in space.",
    Verdict.BAD_AFFINE: "The NIfTI affine is singular or not finite.",
    Verdict.NOT_3D: "The NIfTI file is not one grey volume.",
    Verdict.NO_DECODER: "No decoder for this transfer syntax.",
    Verdict.UNDECODABLE: "No slice could be decoded, or the declared size is beyond the limits.",
    Verdict.NO_RESCALE: "No rescale slope and intercept: stored values are not Hounsfield units.",
    Verdict.BAD_ORIENTATION: "The row and column directions are missing, not unit vectors or not orthogonal.",
    Verdict.BAD_POSITION: "Slice positions are missing, not finite or all equal.",
    Verdict.SINGLE_SLICE: "One slice is not a volume.",
    Verdict.TOO_FEW_SLICES: "Fewer slices than the policy's minimum.",
    Verdict.DUPLICATE_POSITIONS: "Two different slices stand at one position and nothing tells them apart.",
    Verdict.MISSING_SLICES: "Slices are missing inside the stack.",
    Verdict.POSITION_DRIFT: "The slice positions leave the straight line along the normal.",
    Verdict.SPACING: "The step between slices varies.",
    Verdict.COVERAGE: "The stack is shorter than the policy's minimum extent.",
    Verdict.NOT_CT: "Not computed tomography.",
    Verdict.OK_DERIVED: "A derived series that the policy allows.",
    Verdict.OK_INTERPOLATED_GAPS: "Missing slices were interpolated; a mask marks the invented ones.",
    Verdict.OK_LOSSY: "Compressed with loss.",
    Verdict.OK_DERIVED_UID: "UIDs were missing and were derived from the content.",
    Verdict.OK_RESAMPLED_SPACING: "Varying steps were resampled to a regular grid.",
    Verdict.OK_RESAMPLED_TILT: "Gantry tilt was resampled to an orthogonal grid.",
    Verdict.OK_INVERTED: "MONOCHROME1 was inverted.",
    Verdict.OK_ROUNDED_HU: "Hounsfield values were rounded to whole numbers.",
    Verdict.OK_ROUNDED_POSITIONS: "Slice positions are rounded in the file; the step is their mean.",
    Verdict.OK_DROPPED_DUPLICATES: "Identical copies of slices were dropped.",
    Verdict.OK: "A regular stack, taken as it is.",
}


class Reason(StrEnum):
    """The word before the colon of an entry of `reasons`; the rest are numbers and words, never a resource's text."""

    UID_ACROSS_PATIENTS = "uid_across_patients"
    UID_CONFLICT = "uid_conflict"
    MISSING_UID = "missing_uid"
    UID_MALFORMED = "uid_malformed"
    BURNED_IN = "burned_in"
    PIXEL_RISK = "pixel_risk"
    PHOTOMETRIC = "photometric"
    SECONDARY_CAPTURE = "secondary_capture"
    LOCALIZER = "localizer"
    DERIVED = "derived"
    NOT_SUPPORTED_YET = "not_supported_yet"
    NO_DECODER = "no_decoder"
    LOSSY = "lossy"
    DECLARED_SIZE = "declared_size"
    UNDECODABLE = "undecodable"
    UNUSABLE_SLICES = "unusable_slices"
    NO_RESCALE = "no_rescale"
    BAD_ORIENTATION = "bad_orientation"
    BAD_POSITION = "bad_position"
    SINGLE_SLICE = "single_slice"
    TOO_FEW_SLICES = "too_few_slices"
    DUPLICATES = "duplicates"
    DUPLICATE_POSITIONS = "duplicate_positions"
    MISSING_SLICES = "missing_slices"
    ROUNDED_POSITIONS = "rounded_positions"
    SPACING = "spacing"
    TILT = "tilt"
    POSITION_DRIFT = "position_drift"
    THICKNESS_DIFFERS = "thickness_differs"
    COVERAGE = "coverage"
    NOT_CT = "not_ct"
    MIDNIGHT_TIME = "midnight_time"
    NO_DATE = "no_date"
    HU_IMPLAUSIBLE = "hu_implausible"
    BODY_CUT = "body_cut"  # the recipe's window cuts more than 5 % off the body
    NO_BODY = "no_body"  # nothing to centre the window on: the centre of the volume was taken


class Action(StrEnum):
    """What was done to pixels or geometry beyond copying."""

    DROPPED_DUPLICATES = "dropped_duplicates"
    INTERPOLATED_GAPS = "interpolated_gaps"
    ORTHONORMALISED = "orthonormalised"
    ROUNDED_POSITIONS = "rounded_positions"
    DERIVED_UID = "derived_uid"
    INVERTED = "inverted"
    ROUNDED_HU = "rounded_hu"
    HU_CLIPPED = "hu_clipped"
    PADDING_TO_AIR = "padding_to_air"
    MASKED_HIGH_BITS = "masked_high_bits"
    DECODER_FALLBACK = "decoder_fallback"


_KEYS = pa.list_(pa.string())
_NUMBERS = pa.list_(pa.float64())
_CLOCK = pa.timestamp("us")  # wall clock of the declared zone

INSTANCE_SCHEMA: pa.Schema = pa.schema(
    [
        # file
        ("root_id", pa.int32()),
        ("rel_path", pa.binary()),  # bytes: a file name need not be valid text
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("header_hash", pa.string()),  # blake2b-128 over all bytes before the pixel data element
        ("scan_run", pa.int64()),
        ("absent_since", pa.int64()),  # the run that no longer found the file
        ("pixel_offset", pa.int64()),
        ("pixel_length", pa.int64()),
        ("transfer_syntax_uid", pa.string()),
        ("read_status", pa.string()),
        ("uid_from_meta", pa.bool_()),
        # identity
        ("study_uid", pa.string()),
        ("series_uid", pa.string()),
        ("sop_uid", pa.string()),
        ("sop_class_uid", pa.string()),
        ("frame", pa.int32()),
        ("frame_of_reference_uid", pa.string()),
        ("instance_number", pa.int64()),
        ("acquisition_number", pa.int64()),
        ("temporal_position", pa.int64()),
        ("stack_id", pa.string()),
        # linking: keyed hashes
        ("patient_key", pa.string()),
        ("issuer", pa.string()),
        ("other_patient_keys", _KEYS),
        ("accession_key", pa.string()),
        ("accession_issuer", pa.string()),
        ("sex", pa.string()),
        ("birth_year", pa.int16()),
        ("age_years", pa.float32()),
        # time
        ("study_dt", _CLOCK),
        ("series_dt", _CLOCK),
        ("acquisition_dt", _CLOCK),
        ("content_dt", _CLOCK),
        ("tz_offset_min", pa.int16()),
        ("image_dt", _CLOCK),
        ("image_dt_source", pa.string()),
        ("image_dt_precision", pa.string()),  # s | min | day
        # geometry, as written: LPS millimetres
        ("rows", pa.int32()),
        ("columns", pa.int32()),
        ("ipp", _NUMBERS),
        ("iop", _NUMBERS),
        ("pixel_spacing", _NUMBERS),  # row step, column step
        ("slice_thickness", pa.float64()),
        ("spacing_between_slices", pa.float64()),
        ("gantry_tilt_tag", pa.float64()),
        ("patient_position", pa.string()),
        ("reconstruction_diameter", pa.float64()),
        # pixels
        ("bits_allocated", pa.int32()),
        ("bits_stored", pa.int32()),
        ("high_bit", pa.int32()),
        ("pixel_representation", pa.int32()),
        ("samples_per_pixel", pa.int32()),
        ("photometric", pa.string()),
        ("rescale_slope", pa.float64()),
        ("rescale_intercept", pa.float64()),
        ("rescale_type", pa.string()),
        ("has_modality_lut", pa.bool_()),
        ("padding_value", pa.int32()),
        ("padding_limit", pa.int32()),
        ("number_of_frames", pa.int64()),
        ("lossy", pa.bool_()),
        ("burned_in", pa.string()),  # yes | no | converted (a conversion type is declared); null = not declared
        ("has_overlay", pa.bool_()),  # overlay planes in the unused bits of the pixel data
        # acquisition
        ("modality", pa.string()),
        ("image_type", _KEYS),
        ("manufacturer", pa.string()),
        ("model", pa.string()),
        ("kernel", _KEYS),
        ("kvp", pa.float64()),
        ("exposure_mas", pa.float64()),
        ("contrast_agent_flag", pa.bool_()),
        ("contrast_phase", pa.string()),
        ("body_part", pa.string()),
        ("series_number", pa.int64()),
        ("series_description", pa.string()),  # sensitive
        ("protocol_name", pa.string()),  # sensitive
    ]
)

SORT_KEY = ("study_uid", "series_uid", "sop_uid", "frame", "header_hash", "root_id", "rel_path")
"""Order of the compacted catalogue: total, and independent of workers and of the walk."""
