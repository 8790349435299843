"""Synthetic series read by dcm2niix, highdicom and SimpleITK: the affine, the voxels and the side of the truth (S45)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from presage_etl.synthetic.lives.persons import draw_person
from presage_etl.synthetic.parameters import read_parameters
from presage_etl.synthetic.pictures.anatomy import Body
from presage_etl.synthetic.pictures.dicom import Series, WrittenSeries, write_series
from presage_etl.synthetic.pictures.images import picture
from presage_etl.synthetic.pictures.scanner import FORMS, Acquisition, draw_acquisition, scan
from presage_etl.synthetic.pictures.syntaxes import SYNTAXES
from presage_etl.synthetic.shards import orphan_scan
from presage_etl.synthetic.streams import Stage, stream
from tests.lib.nifti_oracle import DCM2NIIX, assert_same_volume, canonical, dcm2niix_volume, highdicom_volume

PARAMETERS = read_parameters("small", grid=(72, 64, 32))
NUM_DRAWN = 14  # as they come, beside one of each syntax and one of each stored form
AIR_HU = -1024
UNKNOWN_TO_DCM2NIIX = ("jpeg_ls", "deflated")  # it names them as unsupported, in the build that Debian ships
OBLIQUE = ((0.97814760, 0.20791169, 0.0), (-0.20535195, 0.96610498, 0.15643447))  # 12 and 9 degrees


@dataclass(frozen=True)
class Sent:
    """A series in a folder of its own, and what it must read as."""

    folder: Path
    made: Acquisition
    volume: NDArray[np.int16]
    written: WrittenSeries

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.rglob("*.dcm")) + sorted(p for p in self.folder.rglob("*") if p.suffix == "")

    @property
    def expected(self) -> nibabel.Nifti1Image:
        return canonical(self.volume, np.array(self.written.affine_ras).reshape(4, 4))


def acquisitions() -> Iterator[tuple[int, Acquisition]]:
    """What was drawn, then every syntax, every stored form and an oblique grid by force."""
    for index in range(NUM_DRAWN):
        person = draw_person(PARAMETERS, index)
        yield index, draw_acquisition(PARAMETERS, index, 0, male=person.male, biomarkers=person.biomarkers)
    plain = draw_acquisition(PARAMETERS, 50, 0, male=True)
    unsigned = next(form for form, _ in FORMS if not form.signed)
    for name in SYNTAXES:
        yield 50, replace(plain, syntax=name, stored=unsigned)
    for form, _ in FORMS:
        yield 50, replace(plain, syntax="explicit", stored=form)
    yield 50, replace(plain, syntax="jpeg_2000", stored=FORMS[1][0], feet_first=True)
    row, column = OBLIQUE
    yield 50, replace(plain, grid=replace(plain.grid, row=row, column=column), syntax="explicit", stored=unsigned)


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> list[Sent]:
    root, series = tmp_path_factory.mktemp("cross_tools"), []
    for number, (index, made) in enumerate(acquisitions()):
        person = draw_person(PARAMETERS, index)
        planned = orphan_scan(person)
        volume = scan(
            picture(PARAMETERS, person, planned, made), made, stream(PARAMETERS.seed, index, Stage.NOISE, number)
        )
        written = write_series(root / str(number), Series(PARAMETERS, person, 0, planned.t0, made, volume))
        series.append(Sent(root / str(number) / written.folder, made, volume, written))
    return series


def padding_as_air(image: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    """Tools hand padding over as it is stored; the product makes it air."""
    array = np.asarray(image.dataobj, dtype=np.float64)
    return nibabel.Nifti1Image(np.maximum(array, AIR_HU), image.affine)


@pytest.mark.skipif(DCM2NIIX is None, reason="dcm2niix is not installed")
def test_s45_dcm2niix_reads_the_affine_and_the_voxels_of_the_truth(sent: list[Sent], tmp_path: Path) -> None:
    read = [one for one in sent if one.made.syntax not in UNKNOWN_TO_DCM2NIIX]
    assert {one.made.syntax for one in read} == set(SYNTAXES) - set(UNKNOWN_TO_DCM2NIIX)
    for number, one in enumerate(read):
        image = dcm2niix_volume(one.folder, tmp_path / str(number))
        assert_same_volume(one.expected, padding_as_air(image))


@pytest.mark.filterwarnings("ignore::UserWarning")  # highdicom's remarks on optional elements
def test_s45_highdicom_reads_the_affine_and_the_voxels_of_the_truth(sent: list[Sent]) -> None:
    for one in sent:
        array, affine = highdicom_volume(one.files)
        assert_same_volume(one.expected, padding_as_air(canonical(array, affine)))


def test_s45_simpleitk_reads_the_affine_and_the_voxels_of_the_truth(sent: list[Sent]) -> None:
    itk = pytest.importorskip("SimpleITK")
    for one in sent:
        names = itk.ImageSeriesReader.GetGDCMSeriesFileNames(str(one.folder))
        image = itk.ReadImage(names)
        direction = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = direction, image.GetOrigin()
        theirs = canonical(itk.GetArrayFromImage(image), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
        assert_same_volume(one.expected, padding_as_air(theirs))


@pytest.mark.skipif(DCM2NIIX is None, reason="dcm2niix is not installed")
def test_s45_the_markers_lie_on_their_sides_for_a_reader_that_knows_nothing(sent: list[Sent], tmp_path: Path) -> None:
    """The stomach's air is on the patient's left and the liver in its mirror, head first or feet first."""
    seen = set()
    drawn = [one for one in sent[:NUM_DRAWN] if one.made.syntax not in UNKNOWN_TO_DCM2NIIX]
    for number, one in enumerate(drawn):
        image = dcm2niix_volume(one.folder, tmp_path / str(number))
        assert hu_at(image, one.made, (62.0, -30.0, -112.0)) < -600  # LPS: x to the left
        assert hu_at(image, one.made, (-62.0, -30.0, -112.0)) > -50
        seen.add(one.made.feet_first)
    assert seen == {False, True}


def hu_at(image: nibabel.Nifti1Image, made: Acquisition, spot: tuple[float, float, float]) -> float:
    """Median of the voxels around a place of the body, given in the body's own axes at mid breath."""
    anatomy = made.anatomy
    x, y, z = spot[0] * anatomy.width, spot[1], spot[2] + anatomy.breath
    placed = Body(anatomy).segments([(x, y, z, x, y, z, 1.0, 1.0, 0.0, 0.0)])[0, :3]
    i, j, k = np.rint(np.linalg.inv(image.affine)[:3] @ [-placed[0], -placed[1], placed[2], 1.0]).astype(int)
    return float(np.median(np.asarray(image.dataobj)[i - 1 : i + 2, j - 1 : j + 2, k]))


def test_s27_every_mandatory_attribute_of_the_standards_ct_image_iod_is_there(sent: list[Sent]) -> None:
    """The tables of PS3.3 as highdicom ships them: type 1 has a value, type 2 is present, in every mandatory module."""
    standard = pytest.importorskip("highdicom._standard_utils")
    modules = [one["key"] for one in standard.get_iod_module_map()["ct-image"] if one["usage"] == "M"]
    assert {"patient", "general-study", "frame-of-reference", "image-plane", "ct-image", "sop-common"} <= set(modules)
    rows = [row for module in modules for row in standard.get_module_attribute_map()[module]]
    for one in sent:
        for path in one.files[::16]:
            image = pydicom.dcmread(path)
            for row in rows:
                for holder in holders(image, row["path"]):
                    if row["type"] in ("1", "2"):
                        assert row["keyword"] in holder, row
                    if row["type"] == "1" or (row["type"] == "1C" and row["keyword"] in holder):
                        assert holder[row["keyword"]].value not in (None, ""), row


def holders(image: pydicom.Dataset, path: list[str]) -> list[pydicom.Dataset]:
    """The data sets that an attribute of the standard's tables belongs to: items of sequences that are present."""
    found = [image]
    for keyword in path:
        found = [item for holder in found for item in holder.get(keyword, [])]
    return found
