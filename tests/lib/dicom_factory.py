"""Small CT series on disk, made of an asymmetric phantom in which a flip, a swap or half a voxel of shift is seen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CENTRE_LPS_MM = np.array([-12.5, 41.0, -307.0])
HALF_SIZE_MM = np.array([9.0, 10.0, 14.0])

Change = Callable[[Dataset, int], None]


def uid(*parts: object) -> str:
    """Return a UID that depends on nothing but its parts."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:15], 'big')}"


def phantom_hu(points_lps_mm: np.ndarray) -> np.ndarray:
    """Return Hounsfield units at patient coordinates: a body, six distinct blobs near its faces, a slanted gradient."""
    local = (points_lps_mm - CENTRE_LPS_MM) / HALF_SIZE_MM
    hu = np.where((local**2).sum(axis=-1) < 1.6, 40, -900)
    blobs = {(1, 0, 0): 300, (-1, 0, 0): 500, (0, 1, 0): 700, (0, -1, 0): 900, (0, 0, 1): 1100, (0, 0, -1): -500}
    for direction, value in blobs.items():
        near = ((local - 0.75 * np.array(direction)) ** 2).sum(axis=-1) < 0.09
        hu = np.where(near, value, hu)
    return hu + np.floor(local @ np.array([11.0, 7.0, 5.0])).astype(int)


@dataclass(frozen=True)
class Spec:
    """One series; `change` has the last word on every data set."""

    study: str = "study"
    series: str = "series"
    patient: str = "patient"
    iop: tuple[float, ...] = AXIAL
    rows: int = 24
    columns: int = 20
    row_step_mm: float = 0.9
    column_step_mm: float = 0.7
    step_mm: float = 2.5
    num_slices: int = 8
    offsets_mm: tuple[float, ...] | None = None  # positions along the normal, instead of step_mm
    slope: float = 1.0
    intercept: float = -1024.0
    bits_stored: int = 12
    signed: bool = False
    syntax: str = ExplicitVRLittleEndian
    change: Change | None = None
    file_name: Callable[[int], str] = field(default=lambda k: f"{k:03d}.dcm")

    @property
    def places_mm(self) -> list[float]:
        """Positions of the slices along the normal, from the first."""
        if self.offsets_mm is not None:
            return list(self.offsets_mm)
        return [k * self.step_mm for k in range(self.num_slices)]

    @property
    def normal(self) -> np.ndarray:
        """Row direction × column direction."""
        return np.cross(self.iop[:3], self.iop[3:])

    @property
    def origin_lps_mm(self) -> np.ndarray:
        """Centre of the first voxel of the first slice, such that the stack surrounds the phantom."""
        row, column = np.array(self.iop[:3]), np.array(self.iop[3:])
        half = (self.columns - 1) / 2 * self.column_step_mm * row + (self.rows - 1) / 2 * self.row_step_mm * column
        return CENTRE_LPS_MM - half - self.normal * max(self.places_mm) / 2

    def position(self, k: int) -> np.ndarray:
        """ImagePositionPatient of slice k."""
        return self.origin_lps_mm + self.normal * self.places_mm[k]

    def slice_hu(self, k: int) -> np.ndarray:
        """Hounsfield units of slice k, [row, column], sampled from the phantom."""
        row, column = np.array(self.iop[:3]), np.array(self.iop[3:])
        j, i = np.mgrid[: self.rows, : self.columns]
        points = self.position(k) + i[..., None] * self.column_step_mm * row + j[..., None] * self.row_step_mm * column
        return phantom_hu(points)

    def volume_hu(self) -> np.ndarray:
        """Hounsfield units, [z, y, x], in the order of places."""
        return np.stack([self.slice_hu(k) for k in range(len(self.places_mm))])

    def affine_ras(self) -> np.ndarray:
        """The affine that reading must find: index (x, y, z) → RAS mm."""
        affine = np.eye(4)
        affine[:3, 0] = np.array(self.iop[:3]) * self.column_step_mm
        affine[:3, 1] = np.array(self.iop[3:]) * self.row_step_mm
        affine[:3, 2] = self.normal * (self.places_mm[-1] - self.places_mm[0]) / (len(self.places_mm) - 1)
        affine[:3, 3] = self.origin_lps_mm
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def stored_pixels(hu: np.ndarray, spec: Spec) -> np.ndarray:
    """Return the values that a scanner would store for Hounsfield units."""
    stored = np.rint((hu - spec.intercept) / spec.slope).astype(np.int64)
    return stored.astype(np.int16 if spec.signed else np.uint16)


def slice_dataset(spec: Spec, k: int) -> FileDataset:
    """Return the data set of one slice, without `change`."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = uid(spec.study, spec.series, "slice", k)
    meta.TransferSyntaxUID = spec.syntax
    implicit, little = spec.syntax == ImplicitVRLittleEndian, spec.syntax != ExplicitVRBigEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=implicit, is_little_endian=little)
    data.SpecificCharacterSet = "ISO_IR 100"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID = uid(spec.study), uid(spec.study, spec.series)
    data.FrameOfReferenceUID = uid(spec.study, "frame of reference")
    data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = "20210304"
    data.StudyTime, data.SeriesTime, data.AcquisitionTime, data.ContentTime = (
        "101500",
        "102000",
        f"1021{k:02d}",
        "102500",
    )
    data.Modality, data.Manufacturer, data.ManufacturerModelName = "CT", "SIEMENS", "Phantom"
    data.PatientID, data.PatientSex, data.PatientAge = spec.patient, "F", "061Y"
    data.SliceThickness, data.KVP, data.ConvolutionKernel = spec.step_mm, 120, "B40f"
    data.SeriesNumber, data.AcquisitionNumber, data.InstanceNumber = 3, 1, k + 1
    data.ImagePositionPatient = [float(value) for value in spec.position(k)]
    data.ImageOrientationPatient = list(spec.iop)
    data.PixelSpacing = [spec.row_step_mm, spec.column_step_mm]
    data.PatientPosition = "HFS"
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = (
        spec.rows,
        spec.columns,
        1,
        "MONOCHROME2",
    )
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, spec.bits_stored, spec.bits_stored - 1
    data.PixelRepresentation = int(spec.signed)
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = spec.slope, spec.intercept, "HU"
    data.PixelData = stored_pixels(spec.slice_hu(k), spec).tobytes()
    data["PixelData"].VR = "OW"
    return data


def write_series(folder: Path, spec: Spec | None = None, **changes: Any) -> list[Path]:
    """Write a series; return its files in the order of places."""
    spec = replace(spec or Spec(), **changes)
    return [write_slice(folder, spec, k) for k in range(len(spec.places_mm))]


def write_slice(folder: Path, spec: Spec, k: int, name: str | None = None) -> Path:
    """Write one slice of a series."""
    data = slice_dataset(spec, k)
    if spec.change is not None:
        spec.change(data, k)
    return write_dataset(folder / (name or spec.file_name(k)), data)


def write_dataset(path: Path, data: FileDataset) -> Path:
    """Write a data set in the transfer syntax of its meta information."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def every(change: Callable[[Dataset], None]) -> Change:
    """Return a change that does the same to each slice."""
    return lambda data, k: change(data)


def setting(**elements: Any) -> Change:
    """Return a change that sets elements of each slice; None deletes one."""

    def change(data: Dataset, k: int) -> None:
        for keyword, value in elements.items():
            if value is None:
                del data[keyword]
            else:
                setattr(data, keyword, value)

    return change


def sequence(*items: dict[str, Any]) -> DicomSequence:
    """Return a sequence of small data sets."""
    made = []
    for elements in items:
        item = Dataset()
        for keyword, value in elements.items():
            setattr(item, keyword, value)
        made.append(item)
    return DicomSequence(made)


def shuffled(values: Sequence[Any], seed: int = 7) -> list[Any]:
    """Return values in an order that is none of theirs."""
    order = np.random.default_rng(seed).permutation(len(values))
    return [values[at] for at in order]


IMPLICIT = ImplicitVRLittleEndian
