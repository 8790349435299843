"""Which DICOM elements the catalogue reads, and how each is read: the one list that both header readers share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TEXT = "text"  # decoded by SpecificCharacterSet
CODE = "code"  # default repertoire: CS, UI, DA, TM, DT, AS
NUMBER = "number"  # DS
INTEGER = "integer"  # IS
SHORT = "short"  # US, or US/SS read as unsigned
PRESENT = "present"  # only whether it has a value

ELEMENTS: dict[str, tuple[int, str]] = {
    "specific_character_set": (0x00080005, CODE),
    "image_type": (0x00080008, CODE),
    "sop_class_uid": (0x00080016, CODE),
    "sop_uid": (0x00080018, CODE),
    "study_date": (0x00080020, CODE),
    "series_date": (0x00080021, CODE),
    "acquisition_date": (0x00080022, CODE),
    "content_date": (0x00080023, CODE),
    "acquisition_datetime": (0x0008002A, CODE),
    "study_time": (0x00080030, CODE),
    "series_time": (0x00080031, CODE),
    "acquisition_time": (0x00080032, CODE),
    "content_time": (0x00080033, CODE),
    "accession_number": (0x00080050, TEXT),
    "modality": (0x00080060, CODE),
    "conversion_type": (0x00080064, CODE),
    "manufacturer": (0x00080070, TEXT),
    "timezone_offset": (0x00080201, CODE),
    "series_description": (0x0008103E, TEXT),
    "model": (0x00081090, TEXT),
    "patient_id": (0x00100020, TEXT),
    "issuer": (0x00100021, TEXT),
    "birth_date": (0x00100030, CODE),
    "sex": (0x00100040, CODE),
    "other_patient_ids": (0x00101000, TEXT),
    "age": (0x00101010, CODE),
    "contrast_agent": (0x00180010, PRESENT),
    "body_part": (0x00180015, CODE),
    "slice_thickness": (0x00180050, NUMBER),
    "kvp": (0x00180060, NUMBER),
    "spacing_between_slices": (0x00180088, NUMBER),
    "protocol_name": (0x00181030, TEXT),
    "reconstruction_diameter": (0x00181100, NUMBER),
    "gantry_tilt": (0x00181120, NUMBER),
    "exposure_mas": (0x00181152, INTEGER),
    "kernel": (0x00181210, TEXT),
    "patient_position": (0x00185100, CODE),
    "contrast_phase": (0x00189344, CODE),
    "study_uid": (0x0020000D, CODE),
    "series_uid": (0x0020000E, CODE),
    "series_number": (0x00200011, INTEGER),
    "acquisition_number": (0x00200012, INTEGER),
    "instance_number": (0x00200013, INTEGER),
    "ipp": (0x00200032, NUMBER),
    "iop": (0x00200037, NUMBER),
    "frame_of_reference_uid": (0x00200052, CODE),
    "temporal_position": (0x00200100, INTEGER),
    "stack_id": (0x00209056, TEXT),
    "samples_per_pixel": (0x00280002, SHORT),
    "photometric": (0x00280004, CODE),
    "number_of_frames": (0x00280008, INTEGER),
    "rows": (0x00280010, SHORT),
    "columns": (0x00280011, SHORT),
    "pixel_spacing": (0x00280030, NUMBER),
    "bits_allocated": (0x00280100, SHORT),
    "bits_stored": (0x00280101, SHORT),
    "high_bit": (0x00280102, SHORT),
    "pixel_representation": (0x00280103, SHORT),
    "padding_value": (0x00280120, SHORT),
    "padding_limit": (0x00280121, SHORT),
    "burned_in": (0x00280301, CODE),
    "rescale_intercept": (0x00281052, NUMBER),
    "rescale_slope": (0x00281053, NUMBER),
    "rescale_type": (0x00281054, TEXT),
    "lossy_compression": (0x00282110, CODE),
    "modality_lut": (0x00283000, PRESENT),
}

OTHER_PATIENT_IDS_SEQUENCE = 0x00101002
ACCESSION_ISSUER_SEQUENCE = 0x00080051
SHARED_GROUPS = 0x52009229
PER_FRAME_GROUPS = 0x52009230
DEEP = frozenset({OTHER_PATIENT_IDS_SEQUENCE, ACCESSION_ISSUER_SEQUENCE, SHARED_GROUPS, PER_FRAME_GROUPS})
"""Sequences whose items are read: only the pydicom reader does that."""

PIXEL_GROUP = 0x7FE0
IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BE = "1.2.840.10008.1.2.2"
UNCOMPRESSED = frozenset({IMPLICIT_LE, EXPLICIT_LE})

ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
LEGACY_CONVERTED_CT = "1.2.840.10008.5.1.4.1.1.2.2"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


@dataclass(slots=True)
class Header:
    """The wanted elements of one file, as plain values; what both readers must agree on.

    `values` maps a name of `ELEMENTS` to its values without blanks: text, float, int, or True for `PRESENT`; an element
    that is absent, empty or does not follow its VR is not in it.
    """

    transfer_syntax_uid: str | None = None
    meta_sop_class_uid: str | None = None
    meta_sop_uid: str | None = None
    values: dict[str, list[Any]] = field(default_factory=dict)
    overlay_in_pixels: bool = False
    has_pixels: bool = False
    pixel_offset: int | None = None
    pixel_length: int | None = None
    header_hash: str = ""
    functional_groups: bool = False

    def first(self, name: str) -> Any:
        """Return the first value of an element, or None."""
        values = self.values.get(name)
        return values[0] if values else None
