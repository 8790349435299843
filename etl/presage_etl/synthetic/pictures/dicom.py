"""CT images as a scanner could have sent them: the header is encoded once a series and patched a slice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info

from presage_etl.synthetic.identifiers import FIRST_INSTANCE, series_uid, study_uid
from presage_etl.synthetic.lives.persons import Person
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.pictures.detector import field_of_view
from presage_etl.synthetic.pictures.header import NUMBER_WIDTH, PADDING, position_of, series_header
from presage_etl.synthetic.pictures.scanner import Acquisition, Stored
from presage_etl.synthetic.pictures.syntaxes import DEFLATED, IMPLICIT, deflated, pixel_element
from presage_etl.synthetic.streams import Stage, stream

INSTANCE_NUMBER = b"\x20\x00\x13\x00"


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
    made, study = series.made, series.study_uid
    template = Template(series_header(series.parameters, series.person, series.scan, series.t0, made), made)
    outside = ~field_of_view(made.grid) if made.stored.padded else None
    rng = stream(series.parameters.seed, series.person.index, Stage.SCANNER, series.scan, 1)
    numbers = _instance_numbers(made, len(series.volume), rng)
    for place, slice_hu in enumerate(series.volume):
        instance = FIRST_INSTANCE + place
        name = hashlib.sha256(f"file {study} {instance}".encode()).hexdigest()[:12]
        name += ".dcm" if name[0] < "8" else ""
        pixels = stored_values(slice_hu, made.stored, outside)
        yield name, template.slice(instance, numbers[place], position_of(made, place), pixels)


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
        sha256=hashlib.sha256(series.volume.tobytes()).hexdigest(),
        affine_ras=series.made.grid.affine_ras(),
        files=tuple(files),
    )


def stored_values(
    slice_hu: NDArray[np.int16], stored: Stored, outside: NDArray[np.bool_] | None
) -> NDArray[np.int16] | NDArray[np.uint16]:
    """The values of one slice as they are stored: HU less the intercept, padding outside the circle."""
    values = slice_hu - np.int16(stored.intercept)
    if outside is not None:
        values[outside] = PADDING
    return np.asarray(values, dtype="<i2") if stored.signed else values.astype("<u2")


class Template:
    """One encoded header, and where in it the things that change from slice to slice stand."""

    def __init__(self, dataset: Dataset, made: Acquisition) -> None:
        meta, content = DicomBytesIO(), DicomBytesIO()
        meta.write(b"\0" * 128 + b"DICM")
        write_file_meta_info(meta, dataset.file_meta)
        content.is_little_endian, content.is_implicit_VR = True, made.syntax == IMPLICIT
        write_dataset(content, dataset)
        self._meta, self._content = meta.getvalue(), content.getvalue()
        uid = str(dataset.SOPInstanceUID).encode()
        self._meta_uid_end, self._uid_end = (part.index(uid) + len(uid) for part in (self._meta, self._content))
        number = self._content.index(INSTANCE_NUMBER) + 8
        self._number = number if made.instance_order != "absent" else None
        self._position = self._content.index(position_of(made, 0).encode())
        self._syntax, self._bits = made.syntax, made.stored.bits

    def slice(self, instance: int, number: int, position: str, pixels: NDArray[np.generic]) -> bytes:
        """The file of one slice."""
        meta, content, suffix = bytearray(self._meta), bytearray(self._content), str(instance).encode()
        meta[self._meta_uid_end - len(suffix) : self._meta_uid_end] = suffix
        content[self._uid_end - len(suffix) : self._uid_end] = suffix
        if self._number is not None:
            content[self._number : self._number + NUMBER_WIDTH] = f"{number:<{NUMBER_WIDTH}d}".encode()
        content[self._position : self._position + len(position)] = position.encode()
        element = pixel_element(self._syntax, pixels, self._bits)
        if self._syntax == DEFLATED:
            return bytes(meta) + deflated(bytes(content) + element)
        return b"".join((meta, content, element))


def _instance_numbers(made: Acquisition, num_slices: int, rng: np.random.Generator) -> list[int]:
    ascending = list(range(1, num_slices + 1))
    if made.instance_order == "descending":
        return ascending[::-1]
    if made.instance_order == "shuffled":
        return [int(number) + 1 for number in rng.permutation(num_slices)]
    return ascending
