"""The workbench on which defects are planted: a clean study as images that may be changed, and what must come of them.

An `Image` carries its header and the Hounsfield values that a right reader must find in it. Expectations are written
beside each case from the specification; nothing here is read, grouped or judged by the code that will be marked.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite, write_data_element, write_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian

from presage_etl.synthetic.pictures.grid import Grid

Hounsfield = NDArray[np.int16]
Known = dict[int, tuple[Any, bytes]]  # tag → a value, and the element as it is written
Float64 = NDArray[np.float64]

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
AIR_HU, LOWEST_HU, HIGHEST_HU = -1000, -1024, 3071
FIRST_INSTANCE = 1001
CHARACTER_SET = 0x00080005


@dataclass(frozen=True)
class Facts:
    """What the hospital knows of a study, its person and of one other person with a study in the record."""

    study: str  # key in truth
    person: str
    person_index: int
    scan: int
    t0: int
    zone: str
    in_record: bool  # the EHR holds an ImagingStudy of it
    birth: date
    death_s: int | None
    other_person: str
    other_mrn: str
    other_accession: str
    other_t0: int


@dataclass
class Image:
    """One slice: its header, the Hounsfield values that it stands for, and the file's bytes where they are special."""

    data: Dataset
    hu: Hounsfield
    content: bytes | None = None  # instead of the encoded header
    folder: int = 0
    known: Known | None = None

    @property
    def uid(self) -> str:
        """SOPInstanceUID as the file names it."""
        return str(self.data.get("SOPInstanceUID") or self.data.file_meta.MediaStorageSOPInstanceUID)

    def set(self, **elements: Any) -> Image:
        """Set elements of the header; None deletes one."""
        for keyword, value in elements.items():
            if value is not None:
                setattr(self.data, keyword, value)
            elif keyword in self.data:
                del self.data[keyword]
        return self

    def store(self, *, signed: bool = False, slope: float = 1.0, intercept: float | None = None) -> Image:
        """Encode the Hounsfield values: unsigned 12 bits, or signed 16."""
        offset = intercept if intercept is not None else (0.0 if signed else float(LOWEST_HU))
        values = np.rint((self.hu.astype(np.float64) - offset) / slope)
        bits = 16 if signed else 12
        self.set(
            BitsAllocated=16, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=int(signed),
            RescaleSlope=f"{slope:g}", RescaleIntercept=f"{offset:g}", RescaleType="HU",
        )  # fmt: skip
        return self.put(values.astype("<i2" if signed else "<u2"))

    def put(self, stored: NDArray[Any]) -> Image:
        """Set the stored values."""
        self.data.Rows, self.data.Columns = stored.shape[:2]
        content = stored.tobytes()
        self.data.add_new(
            "PixelData", "OW" if stored.dtype.itemsize > 1 else "OB", content + b"\0" * (len(content) % 2)
        )
        return self

    def encoded(self) -> bytes:
        """The file."""
        return self.content if self.content is not None else encode(self.data, self.known)


@dataclass(frozen=True)
class Expected:
    """What must come of one volume candidate."""

    images: tuple[Image, ...]
    verdict: str
    reasons: tuple[str, ...]
    actions: tuple[str, ...]
    used: tuple[str, ...]  # SOP UIDs in order of place, `/frame` behind those of many frames; empty when rejected
    touched: tuple[str, ...]
    volume: Hounsfield | None  # None: rejected, or resampled
    affine_ras: Float64 | None


@dataclass(frozen=True)
class Beside:
    """A file that is no image, and the status with which it must be counted."""

    content: bytes
    status: str
    name: str | None = None
    mode: int | None = None


@dataclass(frozen=True)
class Link:
    """How a study must be linked, where that is not what its person's other studies lead to."""

    link_class: str | None
    confidence: str | None
    reason: str | None = None
    date_shift_days: int = 0


@dataclass(frozen=True)
class Planted:
    """The files of one study with a defect, and what must come of them."""

    expected: tuple[Expected, ...]
    chosen: int | None = 0  # which candidate represents the study
    why: str = "only candidate"  # the criterion that decided
    beside: tuple[Beside, ...] = ()
    link: Link | None = None
    more_files: tuple[Image, ...] = ()  # copies of images that are listed in `expected` once
    other_study: str | None = None  # UID of a second study that shares the fate of this one's link

    def linked(self, link: Link) -> Planted:
        """The same files with another fate of the link."""
        return replace(self, link=link)


def quarantined(reason: str) -> Link:
    """The fate of a study that must stay without a person."""
    return Link(None, None, reason)


@dataclass(frozen=True)
class Clean:
    """A study as the scanner made it: one axial series, and where it lies (LPS, millimetres)."""

    header: Dataset  # of the first slice, without pixels
    hu: Hounsfield  # [z, y, x]
    origin: tuple[float, float, float]
    spacing: tuple[float, float, float]  # along x, y, z
    study_uid: str
    facts: Facts
    known: Known

    @property
    def num_slices(self) -> int:
        """Slices of the clean series."""
        return len(self.hu)

    def series_uid(self, series: int) -> str:
        """UID of a series of this study; the first is the one that the EHR knows."""
        return f"{self.study_uid}.{series}"

    def images(self, series: int = 1, first: int = 0) -> list[Image]:
        """The clean slices as images of a series; `first` counts on their instance UIDs."""
        x, y, z = self.origin
        return [
            self._image(series, first + place, (x, y, z + place * self.spacing[2]), self.hu[place].copy())
            for place in range(self.num_slices)
        ]

    def planes(
        self,
        offsets_mm: Sequence[float] | None = None,
        *,
        iop: Sequence[float] = AXIAL,
        steps_mm: tuple[float, float] | None = None,
        tilt_degrees: float = 0.0,
        series: int = 1,
        first: int = 0,
    ) -> list[Image]:
        """The anatomy cut anew by parallel planes.

        Parameters
        ----------
        offsets_mm
            Places of the planes along their normal, from the centre of the clean series; None = as many as it has,
            at its own step.
        iop
            ImageOrientationPatient.
        steps_mm
            Between rows and between columns; None = of the clean series.
        tilt_degrees
            Angle between the stack and the normal of its planes: the gantry's.
        series, first
            As in `images`.
        """
        row, column = np.array(iop[:3]), np.array(iop[3:])
        normal = np.cross(row, column)
        (_, rows, columns), (across, down, step) = self.hu.shape, self.spacing
        row_step, column_step = steps_mm or (down, across)
        if offsets_mm is None:
            offsets_mm = [(place - (self.num_slices - 1) / 2) * step for place in range(self.num_slices)]
        centre = np.array(self.origin) + (np.array(self.hu.shape[::-1]) - 1) / 2 * np.array(self.spacing)
        corner = centre - (columns - 1) / 2 * column_step * row - (rows - 1) / 2 * row_step * column
        images = []
        for place, offset in enumerate(offsets_mm):
            position = corner + offset * (normal + math.tan(math.radians(tilt_degrees)) * column)
            position = np.round(position, 4) + 0.0  # as it will be written; no negative zero
            j, i = np.mgrid[:rows, :columns]
            points = position + (i * column_step)[..., None] * row + (j * row_step)[..., None] * column
            image = self._image(series, first + place, tuple(position), self._sample(points))
            image.data.ImageOrientationPatient = [f"{value:.9g}" for value in iop]
            image.data.PixelSpacing = [f"{row_step:.4f}", f"{column_step:.4f}"]
            steps = np.diff(offsets_mm)
            image.data.SliceThickness = f"{steps[0] if len(steps) else step:.4f}"
            images.append(image)
        return images

    def _image(self, series: int, place: int, position: tuple[float, ...], hu: Hounsfield) -> Image:
        data = twin(self.header)
        data.SeriesInstanceUID = self.series_uid(series)
        data.SOPInstanceUID = f"{self.series_uid(series)}.{FIRST_INSTANCE + place}"
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.SeriesNumber, data.InstanceNumber = str(series), str(place + 1)
        data.ImagePositionPatient = [f"{value:.4f}" for value in position]
        return Image(data, hu, known=self.known).store()

    def _sample(self, points: Float64) -> Hounsfield:
        """Trilinear between voxel centres, air outside."""
        places = (points - np.array(self.origin)) / np.array(self.spacing)
        size = np.array(self.hu.shape[::-1])
        inside = ((places >= -0.5) & (places <= size - 0.5)).all(axis=-1)
        places = np.clip(places, 0, size - 1)
        low = np.minimum(np.floor(places).astype(np.int64), size - 2)
        share = places - low
        total = np.zeros(points.shape[:-1])
        for corner in np.ndindex(2, 2, 2):
            weight = np.prod(np.where(np.array(corner) == 1, share, 1 - share), axis=-1)
            at = low + np.array(corner)
            total += weight * self.hu[at[..., 2], at[..., 1], at[..., 0]]
        return np.where(inside, np.rint(total), AIR_HU).astype(np.int16)


def clean_study(header: Dataset, hu: Hounsfield, grid: Grid, facts: Facts) -> Clean:
    """Take a study as its scanner would have sent it, in plain form.

    Parameters
    ----------
    header
        Of one slice: what is not form (identity, times, scanner) is kept.
    hu
        Its voxels [z, y, x]; beyond what 12 bits hold they are cut off.
    grid
        Where they lie: axial, head first or feet first, which is turned round.
    """
    data = twin(header)
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    across, down, step = grid.spacing
    x, y, z = grid.origin
    if grid.row[0] < 0:
        x -= (grid.size[0] - 1) * across
        z -= (grid.size[2] - 1) * step
        hu = hu[::-1, :, ::-1]
    plain = Image(data, np.zeros((0, 0), np.int16)).set(
        **dict.fromkeys(_FORM), ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2", ImageOrientationPatient=list(AXIAL),
        PixelSpacing=[f"{down:.4f}", f"{across:.4f}"], SliceThickness=f"{step:.4f}", AcquisitionNumber="1",
        PatientPosition="HFS",
    )  # fmt: skip
    return Clean(
        header=plain.data,
        hu=np.clip(hu, LOWEST_HU, HIGHEST_HU).astype(np.int16),
        origin=(round(x, 4), round(y, 4), round(z, 4)),
        spacing=grid.spacing,
        study_uid=str(data.StudyInstanceUID),
        facts=facts,
        known=known_elements(plain.data),
    )


_FORM = (
    "PixelPaddingValue", "PixelPaddingRangeLimit", "SpacingBetweenSlices", "SliceLocation", "GantryDetectorTilt",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod", "ReconstructionDiameter",
    "SmallestImagePixelValue", "LargestImagePixelValue",
)  # fmt: skip
"""Elements that depend on how the scanner stored its pixels, or that only a trap carries."""


def accepted(
    images: Sequence[Image],
    verdict: str = "ok",
    *,
    reasons: Iterable[str] = (),
    actions: Iterable[str] = (),
    touched: Iterable[Image] = (),
    members: Sequence[Image] | None = None,
    exact: bool = True,
) -> Expected:
    """A candidate of which a volume must be made.

    Parameters
    ----------
    images
        Those that the volume is made of.
    members
        All images of the candidate; None = `images`.
    exact
        Voxels and affine are those of the images: nothing is interpolated.
    """
    ordered = by_place(images)
    return Expected(
        images=tuple(members if members is not None else images),
        verdict=verdict,
        reasons=tuple(reasons),
        actions=tuple(actions),
        used=tuple(image.uid for image in ordered),
        touched=tuple(image.uid for image in touched),
        volume=np.stack([image.hu for image in ordered]) if exact else None,
        affine_ras=affine_ras(ordered) if exact else None,
    )


def rejected(
    images: Sequence[Image],
    verdict: str,
    *reasons: str,
    touched: Iterable[Image] | None = None,
    actions: Iterable[str] = (),
) -> Expected:
    """A candidate that must be refused; without reasons, for the one that the verdict names."""
    word = verdict.removeprefix("rejected_")
    named = tuple(image.uid for image in (images if touched is None else touched))
    return Expected(tuple(images), verdict, reasons or (word,), tuple(actions), (), named, None, None)


def alone(expected: Expected, *, beside: tuple[Beside, ...] = ()) -> Planted:
    """A study of one candidate."""
    return Planted((expected,), 0 if expected.used else None, "only candidate", beside)


def by_place(images: Sequence[Image]) -> list[Image]:
    """Images in ascending order along the normal of the first."""
    iop = [float(value) for value in images[0].data.ImageOrientationPatient]
    normal = np.cross(iop[:3], iop[3:])
    return sorted(images, key=lambda image: float(np.dot(position_of(image), normal)))


def position_of(image: Image) -> Float64:
    """ImagePositionPatient."""
    return np.array([float(value) for value in image.data.ImagePositionPatient])


def affine_ras(ordered: Sequence[Image]) -> Float64:
    """Index (x, y, z) → RAS mm, of images in order of place."""
    data = ordered[0].data
    iop = [float(value) for value in data.ImageOrientationPatient]
    row_step, column_step = (float(value) for value in data.PixelSpacing)
    first, last = position_of(ordered[0]), position_of(ordered[-1])
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = np.array(iop[:3]) * column_step, np.array(iop[3:]) * row_step
    affine[:3, 2], affine[:3, 3] = (last - first) / (len(ordered) - 1), first
    affine[:2] *= -1  # LPS → RAS
    return affine


def twin(data: Dataset) -> Dataset:
    """A copy whose elements can be set without changing the other's."""
    result = Dataset()
    result.file_meta = FileMetaDataset()
    for source, target in ((data, result), (data.file_meta, result.file_meta)):
        for element in source:
            target.add(copy.copy(element))
    return result


def encode(data: Dataset, known: Known | None = None) -> bytes:
    """A data set as a file of the transfer syntax that its meta information names.

    Elements that still hold the very value of `known` need not be encoded again: most of a series' do.
    """
    buffer = DicomBytesIO()
    charset = data.get("SpecificCharacterSet")
    plain = known is not None and data.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    if known is None or not plain or charset is not known.get(CHARACTER_SET, (None,))[0]:
        dcmwrite(buffer, data, enforce_file_format=True)
        return buffer.getvalue()
    buffer.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(buffer, data.file_meta)
    encodings = convert_encodings(charset)
    for element in data:
        value, content = known.get(int(element.tag), (None, b""))
        buffer.write(content if content and element.value is value else _element_bytes(element, encodings))
    return buffer.getvalue()


def known_elements(header: Dataset) -> Known:
    """The elements of a header as they are written in explicit VR little endian."""
    encodings = convert_encodings(header.get("SpecificCharacterSet"))
    return {int(element.tag): (element.value, _element_bytes(element, encodings)) for element in header}


def _element_bytes(element: DataElement, encodings: list[str]) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_data_element(buffer, element, encodings)
    return buffer.getvalue()
