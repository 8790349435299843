"""One header to one row of the catalogue: identifiers hashed, times on one clock, nothing of a person in plain."""

from __future__ import annotations

from typing import Any

from presage_etl.dicom.dates import ImageTimes, Moment, age_years, birth_year, image_times
from presage_etl.dicom.elements import ENHANCED_CT, EXPLICIT_LE, IMPLICIT_LE, LEGACY_CONVERTED_CT, Header
from presage_platform.ledger.identity import keyed_hash
from presage_platform.volumes.catalogue import INSTANCE_SCHEMA, ReadStatus

_LOSSY_SYNTAXES = frozenset(f"1.2.840.10008.1.2.4.{suffix}" for suffix in ("50", "51", "81", "91", "93", "203", "112"))
_ALWAYS_FIRST = {name: None for name in INSTANCE_SCHEMA.names}
_INT16, _INT32, _INT64 = 1 << 15, 1 << 31, 1 << 63


def empty_row() -> dict[str, Any]:
    """Return a row of which nothing is known: a file that is no image."""
    return dict(_ALWAYS_FIRST)


def catalogue_row(header: Header, *, secret: bytes, timezone: str, strip_leading_zeros: bool) -> dict[str, Any]:
    """Return the catalogue's columns for one header; the file's own columns are the scan's.

    Parameters
    ----------
    header
        What a reader found.
    secret
        The workspace's key: identifiers leave this function only as keyed hashes.
    timezone
        Declared zone: times with an offset are converted to it, others are taken to be in it.
    strip_leading_zeros
        `link.strip_leading_zeros`.
    """
    row = empty_row()
    times = image_times(header, timezone)
    row.update(_file_columns(header))
    row.update(_identity_columns(header))
    row.update(_linking_columns(header, secret, strip_leading_zeros))
    row.update(_time_columns(times))
    row.update(_geometry_columns(header))
    row.update(_pixel_columns(header))
    row.update(_acquisition_columns(header))
    return row


def _file_columns(header: Header) -> dict[str, Any]:
    return {
        "header_hash": header.header_hash,
        "pixel_offset": header.pixel_offset,
        "pixel_length": header.pixel_length if header.has_pixels else 0,
        "transfer_syntax_uid": header.transfer_syntax_uid,
        "read_status": ReadStatus.OK.value if header.has_pixels or header.first("rows") else ReadStatus.NOT_IMAGE.value,
    }


def _identity_columns(header: Header) -> dict[str, Any]:
    first = header.first
    sop_class, sop = first("sop_class_uid"), first("sop_uid")
    return {
        "uid_from_meta": not (sop_class and sop),
        "study_uid": first("study_uid"),
        "series_uid": first("series_uid"),
        "sop_uid": sop or header.meta_sop_uid,
        "sop_class_uid": sop_class or header.meta_sop_class_uid,
        "frame": 0,
        "frame_of_reference_uid": first("frame_of_reference_uid"),
        "instance_number": _fits(first("instance_number"), _INT64),
        "acquisition_number": _fits(first("acquisition_number"), _INT64),
        "temporal_position": _fits(first("temporal_position"), _INT64),
        "stack_id": first("stack_id"),
    }


def _linking_columns(header: Header, secret: bytes, strip_zeros: bool) -> dict[str, Any]:
    first = header.first

    def hashed(value: str | None) -> str | None:
        return keyed_hash(secret, value, strip_leading_zeros=strip_zeros) if value else None

    others = sorted({key for value in header.values.get("other_patient_ids", []) if (key := hashed(value))})
    sex = first("sex")
    return {
        "patient_key": hashed(first("patient_id")),
        "issuer": first("issuer"),
        "other_patient_keys": others or None,
        "accession_key": hashed(first("accession_number")),
        "accession_issuer": first("accession_issuer"),
        "sex": sex if sex in ("M", "F", "O") else None,
        "birth_year": birth_year(first("birth_date"), first("age"), first("study_date")),
        "age_years": age_years(first("age")),
    }


def _time_columns(times: ImageTimes) -> dict[str, Any]:
    def when(moment: Moment | None) -> Any:
        return moment.when if moment else None

    return {
        "study_dt": when(times.study),
        "series_dt": when(times.series),
        "acquisition_dt": when(times.acquisition),
        "content_dt": when(times.content),
        "tz_offset_min": times.image.offset_min if times.image else None,
        "image_dt": when(times.image),
        "image_dt_source": times.image.source if times.image else None,
        "image_dt_precision": times.image.precision if times.image else None,
    }


def _geometry_columns(header: Header) -> dict[str, Any]:
    first, values = header.first, header.values
    return {
        "rows": first("rows"),
        "columns": first("columns"),
        "ipp": values.get("ipp"),
        "iop": values.get("iop"),
        "pixel_spacing": values.get("pixel_spacing"),
        "slice_thickness": first("slice_thickness"),
        "spacing_between_slices": first("spacing_between_slices"),
        "gantry_tilt_tag": first("gantry_tilt"),
        "patient_position": first("patient_position"),
        "reconstruction_diameter": first("reconstruction_diameter"),
    }


def _pixel_columns(header: Header) -> dict[str, Any]:
    first, values = header.first, header.values
    sign = first("pixel_representation")
    return {
        "bits_allocated": first("bits_allocated"),
        "bits_stored": first("bits_stored"),
        "high_bit": first("high_bit"),
        "pixel_representation": sign,
        "samples_per_pixel": first("samples_per_pixel"),
        "photometric": first("photometric"),
        "rescale_slope": first("rescale_slope"),
        "rescale_intercept": first("rescale_intercept"),
        "rescale_type": first("rescale_type"),
        "has_modality_lut": "modality_lut" in values,
        "padding_value": _signed(first("padding_value"), sign),
        "padding_limit": _signed(first("padding_limit"), sign),
        "number_of_frames": _number_of_frames(header),
        "lossy": first("lossy_compression") == "01" or header.transfer_syntax_uid in _LOSSY_SYNTAXES,
        "burned_in": _burned_in(header),
        "has_overlay": header.overlay_in_pixels,
    }


def _acquisition_columns(header: Header) -> dict[str, Any]:
    first, values = header.first, header.values
    exposure = first("exposure_mas")
    return {
        "modality": first("modality"),
        "image_type": values.get("image_type"),
        "manufacturer": first("manufacturer"),
        "model": first("model"),
        "kernel": values.get("kernel"),
        "kvp": first("kvp"),
        "exposure_mas": float(exposure) if exposure is not None else None,
        "contrast_agent_flag": "contrast_agent" in values,
        "contrast_phase": first("contrast_phase"),
        "body_part": first("body_part"),
        "series_number": _fits(first("series_number"), _INT64),
        "series_description": first("series_description"),
        "protocol_name": first("protocol_name"),
    }


def _fits(number: int | None, limit: int) -> int | None:
    return number if number is not None and -limit <= number < limit else None


def _signed(value: int | None, pixel_representation: int | None) -> int | None:
    """Read a padding value with the sign of the pixels, whatever VR it was written with."""
    if value is None:
        return None
    return value - 0x10000 if pixel_representation == 1 and value >= 0x8000 else value


def _number_of_frames(header: Header) -> int:
    """Frames of the file; an enhanced object counts as many even with one, its geometry lies in functional groups."""
    declared = _fits(header.first("number_of_frames"), _INT64)
    return declared if declared is not None else 1


def _burned_in(header: Header) -> str | None:
    flag = header.first("burned_in")
    if flag != "YES" and header.first("conversion_type"):
        return "converted"
    return {"YES": "yes", "NO": "no"}.get(flag) if flag else None


def is_enhanced(sop_class_uid: str | None) -> bool:
    """Tell whether geometry and rescale lie in functional groups."""
    return sop_class_uid in (ENHANCED_CT, LEGACY_CONVERTED_CT)


def is_uncompressed(transfer_syntax_uid: str | None) -> bool:
    """Tell whether pixels can be read where they lie."""
    return transfer_syntax_uid in (IMPLICIT_LE, EXPLICIT_LE)
