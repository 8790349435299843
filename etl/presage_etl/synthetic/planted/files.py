"""Traps of files: what lies beside the images, and images that hardly look like DICOM."""

from __future__ import annotations

import io
import zipfile

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MediaStorageDirectoryStorage

from presage_etl.synthetic.planted.series import Beside, Clean, Planted, accepted, encode

PREAMBLE_BYTES = 132
TEXT = b"This text lies beside the images and is none of them. synthetic: true\n" * 8
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
NO_RIGHTS = 0o000


def no_preamble(clean: Clean) -> Planted:
    """Neither preamble nor file meta information: a bare data set of implicit VR."""
    images = clean.images()
    for image in images:
        image.data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        content = encode(image.data)
        meta_bytes = 12 + int.from_bytes(content[PREAMBLE_BYTES + 8 : PREAMBLE_BYTES + 12], "little")
        image.content = content[PREAMBLE_BYTES + meta_bytes :]
    return Planted((accepted(images, touched=images),))


def directory_of_medium(clean: Clean) -> Planted:
    return _beside(clean, Beside(_directory(clean), "not_image", "DICOMDIR"))


def text_and_archive(clean: Clean) -> Planted:
    return _beside(clean, Beside(TEXT, "not_dicom"), Beside(_archive(), "archive_skipped"))


def text_named_dcm(clean: Clean) -> Planted:
    return _beside(clean, Beside(TEXT, "not_dicom", "notes.dcm"))


def empty_file(clean: Clean) -> Planted:
    return _beside(clean, Beside(b"", "not_dicom"))


def no_permission(clean: Clean) -> Planted:
    """A file that only the administrator can open; it holds no image, so the series is whole for everybody."""
    return _beside(clean, Beside(TEXT, "unreadable", mode=NO_RIGHTS))


def _beside(clean: Clean, *files: Beside) -> Planted:
    return Planted((accepted(clean.images()),), beside=files)


def _archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("inside", ZIP_TIME), TEXT)
    return buffer.getvalue()


def _directory(clean: Clean) -> bytes:
    """A DICOMDIR that lists the patient alone."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    meta.MediaStorageSOPInstanceUID = UID(f"{clean.study_uid}.8.1")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    record = Dataset()
    record.OffsetOfTheNextDirectoryRecord = record.OffsetOfReferencedLowerLevelDirectoryEntity = 0
    record.RecordInUseFlag, record.DirectoryRecordType = 0xFFFF, "PATIENT"
    record.PatientID, record.PatientName = clean.header.PatientID, "SYNTHETIC"
    data = Dataset()
    data.file_meta = meta
    data.FileSetID, data.FileSetConsistencyFlag = "SYNTHETIC", 0
    data.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = 0
    data.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = 0
    data.DirectoryRecordSequence = Sequence([record])
    return encode(data)
