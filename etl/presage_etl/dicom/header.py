"""One file to one header: the fast walker where it is sure, pydicom, which defines the truth, everywhere else."""

from __future__ import annotations

import io
import os
import warnings
import zlib
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from presage_etl.dicom.elements import (
    ACCESSION_ISSUER_SEQUENCE,
    CODE,
    DEFLATED,
    ELEMENTS,
    INTEGER,
    NUMBER,
    OTHER_PATIENT_IDS_SEQUENCE,
    PER_FRAME_GROUPS,
    PRESENT,
    SHARED_GROUPS,
    SHORT,
    TEXT,
    Header,
)
from presage_etl.dicom.walker import split_text, walk_header
from presage_platform.volumes.catalogue import ReadStatus

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MIN_BYTES = 132
INFLATE_LIMIT = 64 * 1024 * 1024
_CHUNK = 1024 * 1024
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_IMAGE_CLASS_PREFIX = "1.2.840.10008.5.1.4.1.1."
_IMAGELESS_CLASS_PREFIXES = tuple(
    _IMAGE_CLASS_PREFIX + suffix
    for suffix in ("88.", "104.", "66", "67", "9.", "11.", "481.3", "481.5", "481.8", "481.4")
)
_ARCHIVE_MAGIC = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")


def read_header(path: Path | str | bytes, size: int) -> tuple[ReadStatus, Header | None]:
    """Read the header of one file.

    Parameters
    ----------
    path
        The file; its name carries no meaning.
    size
        Its size in bytes, as `stat` gave it.

    Returns
    -------
    (ReadStatus, Header | None)
        A header with `ok` and `not_image`, else None. Never an exception for what a file holds.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ReadStatus.UNREADABLE, None
    try:
        header = walk_header(descriptor, size)
        if header is not None:
            return ReadStatus.OK, header
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return _read_slowly(file, size)
    except (OSError, MemoryError):
        return ReadStatus.UNREADABLE, None
    finally:
        os.close(descriptor)


def pydicom_header(file: BinaryIO, size: int) -> Header:
    """Read a header with pydicom alone: what the walker is measured against.

    Raises
    ------
    Exception
        Whatever pydicom raises for a file that it cannot read.
    """
    import pydicom
    from pydicom import config

    file.seek(0)
    with warnings.catch_warnings():
        # The texts of pydicom's warnings quote element values: none may leave this function.
        warnings.simplefilter("ignore")
        reading_mode = config.settings.reading_validation_mode
        config.settings.reading_validation_mode = config.IGNORE
        try:
            meta = _read_meta(file)
            if meta.get("TransferSyntaxUID") == DEFLATED:
                return _deflated_header(file, meta, size)
            file.seek(0)
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            header = _header_of(dataset, dataset.file_meta)
            _locate_pixels(header, file, size, dataset)
            return header
        finally:
            config.settings.reading_validation_mode = reading_mode


def _read_slowly(file: BinaryIO, size: int) -> tuple[ReadStatus, Header | None]:
    """Judge a file that the walker left: by its first bytes, then by pydicom."""
    start = file.read(MIN_BYTES)
    has_magic = start[128:132] == b"DICM"
    if not has_magic:
        if start.startswith(_ARCHIVE_MAGIC) or _is_tar(file):
            return ReadStatus.ARCHIVE_SKIPPED, None
        if size < MIN_BYTES or not _looks_like_data_set(start):
            return ReadStatus.NOT_DICOM, None
    try:
        header = pydicom_header(file, size)
    except Exception:  # whatever a broken file makes pydicom raise is a property of that file
        return (ReadStatus.UNREADABLE if has_magic else ReadStatus.NOT_DICOM), None
    return _judge(header, has_magic=has_magic)


def _judge(header: Header, *, has_magic: bool) -> tuple[ReadStatus, Header | None]:
    sop_class = header.first("sop_class_uid") or header.meta_sop_class_uid
    if not has_magic and not (sop_class or header.first("modality")):
        return ReadStatus.NOT_DICOM, None
    if header.has_pixels or header.first("rows"):
        return ReadStatus.OK, header
    if not (header.values or sop_class):
        return ReadStatus.UNREADABLE, None
    is_image_class = str(sop_class).startswith(_IMAGE_CLASS_PREFIX)
    if is_image_class and not str(sop_class).startswith(_IMAGELESS_CLASS_PREFIXES):
        return ReadStatus.UNREADABLE, None  # cut off before its size was declared
    return ReadStatus.NOT_IMAGE, header


def _looks_like_data_set(start: bytes) -> bool:
    """Tell whether bytes without preamble may start a data set: group 0002 or 0008 first, little or big endian."""
    return start[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")


def _is_tar(file: BinaryIO) -> bool:
    file.seek(257)
    return file.read(5) == b"ustar"


def _read_meta(file: BinaryIO) -> Dataset:
    from pydicom.filereader import _read_file_meta_info, read_preamble

    read_preamble(file, force=True)
    return _read_file_meta_info(file)


def _deflated_header(file: BinaryIO, meta: Dataset, size: int) -> Header:
    """Inflate no more than the limit, and read up to the pixels; offsets have no meaning in such a file."""
    from pydicom.filereader import read_dataset

    start = file.tell()
    inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), INFLATE_LIMIT)
    buffer = io.BytesIO(inflated)
    dataset = read_dataset(buffer, False, True, stop_when=lambda tag, vr, length: tag in _PIXEL_TAGS)
    header = _header_of(dataset, meta)
    header.has_pixels = buffer.read(2) == b"\xe0\x7f"
    file.seek(0)
    digest = blake2b(file.read(start), digest_size=16)
    digest.update(inflated[: buffer.tell() - 2] if header.has_pixels else inflated)
    header.header_hash = digest.hexdigest()
    return header


def _header_of(dataset: Dataset, meta: Dataset) -> Header:
    header = Header(
        transfer_syntax_uid=_meta_text(meta, "TransferSyntaxUID") or _assumed_syntax(dataset),
        meta_sop_class_uid=_meta_text(meta, "MediaStorageSOPClassUID"),
        meta_sop_uid=_meta_text(meta, "MediaStorageSOPInstanceUID"),
    )
    for name, (tag, kind) in ELEMENTS.items():
        if tag in dataset:
            values = _values(dataset, tag, kind)
            if values:
                header.values[name] = values
    header.functional_groups = PER_FRAME_GROUPS in dataset or SHARED_GROUPS in dataset
    overlays = {tag.group for tag in dataset.keys() if 0x6000 <= tag.group <= 0x60FF}  # noqa: SIM118
    header.overlay_in_pixels = any((group, 0x3000) not in dataset for group in overlays)
    _add_sequence_values(header, dataset)
    return header


def _meta_text(meta: Dataset, keyword: str) -> str | None:
    return str(meta.get(keyword) or "").strip(" \0") or None


def _assumed_syntax(dataset: Dataset) -> str | None:
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = dataset.original_encoding
    if implicit:
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRLittleEndian if little else ExplicitVRBigEndian)


def _values(dataset: Dataset, tag: int, kind: str) -> list[Any]:
    """Return an element's values as the walker would; an element that does not follow its VR has none."""
    try:
        value = dataset[tag].value
        if kind == PRESENT:
            return [True] if value else []
        if value is None or value == "":
            return []
        many = value if isinstance(value, list) or type(value).__name__ == "MultiValue" else [value]
        return _AS_PLAIN[kind](many)
    except Exception:  # pydicom raises what it likes on values that do not follow their VR
        return []


def _as_text(values: Any) -> list[Any]:
    if any(isinstance(value, bytes) for value in values):
        return []
    return split_text("\\".join(str(value) for value in values))


def _as_shorts(values: Any) -> list[Any]:
    return [int(value) & 0xFFFF for value in values]


def _as_numbers(values: Any) -> list[Any]:
    return [float(value) for value in values]


def _as_integers(values: Any) -> list[Any]:
    numbers = _as_numbers(values)
    return [int(number) for number in numbers] if all(number.is_integer() for number in numbers) else []


_AS_PLAIN = {TEXT: _as_text, CODE: _as_text, NUMBER: _as_numbers, INTEGER: _as_integers, SHORT: _as_shorts}


def _add_sequence_values(header: Header, dataset: Dataset) -> None:
    """Read the two sequences that identifiers hide in."""
    others = [str(item.get("PatientID") or "") for item in _items(dataset, OTHER_PATIENT_IDS_SEQUENCE)]
    more = split_text("\\".join(others))
    if more:
        header.values["other_patient_ids"] = header.values.get("other_patient_ids", []) + more
    for item in _items(dataset, ACCESSION_ISSUER_SEQUENCE):
        issuer = split_text(str(item.get("LocalNamespaceEntityID") or item.get("UniversalEntityID") or ""))
        if issuer:
            header.values["accession_issuer"] = issuer[:1]


def _items(dataset: Dataset, tag: int) -> list[Dataset]:
    try:
        return list(dataset[tag].value) if tag in dataset else []
    except Exception:  # a sequence that cannot be read names nobody
        return []


def _locate_pixels(header: Header, file: BinaryIO, size: int, dataset: Dataset) -> None:
    """Note where the pixel value lies, and hash what stands before its element."""
    position = file.tell()
    element = file.read(12)
    implicit, little = dataset.original_encoding
    order = "little" if little else "big"
    group, number = (int.from_bytes(element[at : at + 2], order) for at in (0, 2))  # type: ignore[arg-type]
    header.has_pixels = len(element) >= 8 and (group << 16 | number) in _PIXEL_TAGS
    if header.has_pixels:
        at = 4 if implicit else 8
        length = int.from_bytes(element[at : at + 4], order)  # type: ignore[arg-type]
        header.pixel_offset = position + at + 4
        header.pixel_length = size - header.pixel_offset if length == 0xFFFFFFFF else length
    file.seek(0)
    digest = blake2b(digest_size=16)
    left = position if header.has_pixels else size
    while left > 0 and (chunk := file.read(min(left, _CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    header.header_hash = digest.hexdigest()
