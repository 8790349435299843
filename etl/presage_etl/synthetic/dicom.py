"""CT images as a scanner could have sent them: the header is encoded once a series and patched a slice."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from presage_etl.synthetic.clock import MINUTE_S, dicom_date, dicom_time, offset
from presage_etl.synthetic.identifiers import (
    ACCESSION_ISSUER,
    FIRST_INSTANCE,
    PATIENT_ISSUER,
    accession,
    frame_uid,
    series_uid,
    study_uid,
    uid_root,
)
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.persons import Person
from presage_etl.synthetic.scanner import Acquisition
from presage_etl.synthetic.streams import Stage, stream

POSITION = "{:+011.4f}"  # DS of one width, so that a position is patched in place
NUMBER_WIDTH = 4
INSTANCE_NUMBER = b"\x20\x00\x13\x00"
UNSIGNED_INTERCEPT = -1024


@dataclass(frozen=True)
class WrittenSeries:
    """Where a series went and what it holds."""

    folder: str
    study_uid: str
    series_uid: str
    sha256: str  # of the int16 volume [z, y, x], slices ascending along the normal
    affine_ras: tuple[float, ...]  # 16 numbers, row by row
    files: tuple[tuple[str, str], ...]  # path below the archive, sha256


@dataclass(frozen=True)
class Series:
    """A series that is not yet written: what it will hold, and all that its bytes depend on."""

    parameters: Parameters
    person: Person
    scan: int
    t0: int
    made: Acquisition
    volume: NDArray[np.int16]  # [z, y, x] in HU as a right reader sees it

    @property
    def study_uid(self) -> str:
        """StudyInstanceUID."""
        return study_uid(self.parameters.seed, self.person.index, self.scan)

    @property
    def folder(self) -> str:
        """Name of the series' folder in the archive; it says nothing about what is inside."""
        return hashlib.sha256(f"folder {self.study_uid}".encode()).hexdigest()[:16]


def series_files(series: Series) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file of a series, slice by slice along the normal."""
    made, volume, study = series.made, series.volume, series.study_uid
    header = _header(series.parameters, series.person, series.scan, series.t0, made, study)
    template = Template.encode(header, made)
    stored = volume if made.signed else (volume.astype(np.int32) - UNSIGNED_INTERCEPT).astype("<u2")
    rng = stream(series.parameters.seed, series.person.index, Stage.SCANNER, series.scan, 1)
    numbers = _instance_numbers(made, len(volume), rng)
    for place in range(len(volume)):
        instance = FIRST_INSTANCE + place
        name = hashlib.sha256(f"file {study} {instance}".encode()).hexdigest()[:12]
        name += ".dcm" if name[0] < "8" else ""
        yield name, template.slice(instance, numbers[place], _position(made, place), stored[place])


def write_series(archive: Path, series: Series) -> WrittenSeries:
    """Write the one series of a study; return where it is and its truth."""
    (archive / series.folder).mkdir(parents=True, exist_ok=True)
    files = []
    for name, content in series_files(series):
        (archive / series.folder / name).write_bytes(content)
        files.append((f"{series.folder}/{name}", hashlib.sha256(content).hexdigest()))
    return WrittenSeries(
        folder=series.folder,
        study_uid=series.study_uid,
        series_uid=series_uid(series.study_uid),
        sha256=hashlib.sha256(np.ascontiguousarray(series.volume).tobytes()).hexdigest(),
        affine_ras=_affine(series.made),
        files=tuple(files),
    )


class Template:
    """One encoded header, and where in it the things that change from slice to slice stand."""

    def __init__(self, header: bytes, uid_ends: list[int], number: int | None, position: int, pixels: bytes) -> None:
        self._header, self._uid_ends, self._number, self._position, self._pixels = (
            header,
            uid_ends,
            number,
            position,
            pixels,
        )

    @classmethod
    def encode(cls, dataset: Dataset, made: Acquisition) -> Template:
        """Encode a dataset without pixels."""
        buffer = BytesIO()
        dcmwrite(buffer, dataset, enforce_file_format=True)
        header = buffer.getvalue()
        uid = str(dataset.SOPInstanceUID).encode()
        first = header.index(uid)
        second = header.index(uid, first + 1)
        length = made.grid.size[0] * made.grid.size[1] * 2
        start = struct.pack("<HH", 0x7FE0, 0x0010)
        pixels = start + (struct.pack("<I", length) if made.implicit else b"OW\0\0" + struct.pack("<I", length))
        number = header.index(INSTANCE_NUMBER) + 8 if made.instance_order != "absent" else None
        position = header.index(_position(made, 0).encode())
        return cls(header, [first + len(uid), second + len(uid)], number, position, pixels)

    def slice(self, instance: int, number: int, position: str, pixels: NDArray[np.generic]) -> bytes:
        """The file of one slice."""
        header = bytearray(self._header)
        suffix = str(instance).encode()
        for end in self._uid_ends:
            header[end - len(suffix) : end] = suffix
        if self._number is not None:
            header[self._number : self._number + NUMBER_WIDTH] = f"{number:<{NUMBER_WIDTH}d}".encode()
        header[self._position : self._position + len(position)] = position.encode()
        return b"".join((bytes(header), self._pixels, pixels.tobytes()))


def _header(parameters: Parameters, person: Person, scan: int, t0: int, made: Acquisition, study: str) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(f"{series_uid(study)}.{FIRST_INSTANCE}")
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if made.implicit else ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(f"{uid_root(parameters.seed)}.2")
    meta.ImplementationVersionName = "PRESAGE_SYNTH_1"
    ds = Dataset()
    ds.file_meta = meta
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series_uid(study), frame_uid(study)
    _identity(ds, person, scan)
    _times(ds, t0, made, parameters.calendar.zone)
    _acquisition(ds, made)
    _geometry(ds, made)
    return ds


def _identity(ds: Dataset, person: Person, scan: int) -> None:
    ds.PatientName = f"SYNTHETIC^{person.given.upper()}"
    ds.PatientID = person.mrn
    ds.IssuerOfPatientID = PATIENT_ISSUER
    ds.PatientBirthDate = f"{person.birth:%Y%m%d}"
    ds.PatientSex = "M" if person.male else "F"
    ds.AccessionNumber = accession(person.index, scan)
    issuer = Dataset()
    issuer.LocalNamespaceEntityID = ACCESSION_ISSUER
    ds.IssuerOfAccessionNumberSequence = Sequence([issuer])
    ds.StudyID = str(scan + 1)
    ds.ReferringPhysicianName = ""


def _times(ds: Dataset, t0: int, made: Acquisition, zone: str) -> None:
    ds.StudyDate, ds.StudyTime = dicom_date(t0 - 4 * MINUTE_S), dicom_time(t0 - 4 * MINUTE_S)
    ds.SeriesDate, ds.SeriesTime = dicom_date(t0 - MINUTE_S), dicom_time(t0 - MINUTE_S)
    ds.AcquisitionDate = ds.ContentDate = dicom_date(t0)
    ds.AcquisitionTime = ds.ContentTime = dicom_time(t0)
    shift = offset(t0, zone).replace(":", "")
    ds.AcquisitionDateTime = f"{dicom_date(t0)}{dicom_time(t0)}{shift if made.has_offset else ''}"
    if made.has_offset:
        ds.TimezoneOffsetFromUTC = shift


def _acquisition(ds: Dataset, made: Acquisition) -> None:
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Modality = "CT"
    ds.Manufacturer = made.manufacturer
    ds.ManufacturerModelName = made.model
    ds.SeriesDescription = "CHEST"
    ds.BodyPartExamined = "CHEST"
    ds.ConvolutionKernel = made.kernel
    ds.KVP = str(made.kvp)
    ds.Exposure = str(made.exposure_mas)
    ds.AcquisitionNumber = "1"
    ds.SeriesNumber = "1"
    ds.PatientPosition = "FFS" if made.feet_first else "HFS"
    ds.PositionReferenceIndicator = ""
    if made.contrast:
        ds.ContrastBolusAgent = "CONTRAST"


def _geometry(ds: Dataset, made: Acquisition) -> None:
    columns, rows, _ = made.grid.size
    across, down, _ = made.grid.spacing
    ds.InstanceNumber = None if made.instance_order == "absent" else "1" + "0" * (NUMBER_WIDTH - 1)
    ds.ImagePositionPatient = _position(made, 0).split("\\")
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [f"{down:.4f}", f"{across:.4f}"]
    ds.SliceThickness = f"{made.thickness_mm:.2f}"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = rows, columns
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, made.bits_stored, made.bits_stored - 1
    ds.PixelRepresentation = int(made.signed)
    ds.RescaleIntercept = "0" if made.signed else str(UNSIGNED_INTERCEPT)
    ds.RescaleSlope, ds.RescaleType = "1", "HU"
    ds.WindowCenter, ds.WindowWidth = "40", "400"


def _position(made: Acquisition, place: int) -> str:
    x, y, z = made.grid.origin
    return "\\".join(POSITION.format(value) for value in (x, y, z + place * made.grid.spacing[2]))


def _affine(made: Acquisition) -> tuple[float, ...]:
    """RAS affine from array index (i, j, k) to millimetres: the first two axes of DICOM's LPS are turned."""
    (x, y, z), (across, down, step) = made.grid.origin, made.grid.spacing
    return (-across, 0.0, 0.0, -x, 0.0, -down, 0.0, -y, 0.0, 0.0, step, z, 0.0, 0.0, 0.0, 1.0)


def _instance_numbers(made: Acquisition, num_slices: int, rng: np.random.Generator) -> list[int]:
    ascending = list(range(1, num_slices + 1))
    if made.instance_order == "descending":
        return ascending[::-1]
    if made.instance_order == "shuffled":
        return [int(number) + 1 for number in rng.permutation(num_slices)]
    return ascending
