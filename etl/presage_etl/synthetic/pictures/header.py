"""The header of a synthetic CT series: a valid CT Image IOD that varies as those of real scanners do."""

from __future__ import annotations

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, CTImageStorage

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
from presage_etl.synthetic.lives.persons import Person
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.pictures.detector import field_radius_mm
from presage_etl.synthetic.pictures.scanner import Acquisition
from presage_etl.synthetic.pictures.syntaxes import SYNTAXES

POSITION = "{:+011.4f}"  # DS of one width, so that a position is patched in place
NUMBER_WIDTH = 4
PADDING = -2000
# Series descriptions and ideographic or hangul names that a character set can hold and Latin letters cannot.
DESCRIPTIONS = {
    "ISO_IR 100": "THORAX nativ, Übersicht",
    "ISO_IR 192": "ΘΩΡΑΞ",
    "\\ISO 2022 IR 87": "胸部",
    "\\ISO 2022 IR 149": "흉부",
}
SECOND_NAMES = {"\\ISO 2022 IR 87": "=合成^試験", "\\ISO 2022 IR 149": "=합성^시험"}


def series_header(parameters: Parameters, person: Person, scan: int, t0: int, made: Acquisition) -> Dataset:
    """The data set of the first slice of a series, without pixels."""
    study = study_uid(parameters.seed, person.index, scan)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(f"{series_uid(study)}.{FIRST_INSTANCE}")
    meta.TransferSyntaxUID = UID(SYNTAXES[made.syntax].uid)
    meta.ImplementationClassUID = UID(f"{uid_root(parameters.seed)}.2")
    meta.ImplementationVersionName = "PRESAGE_SYNTH_2"
    ds = Dataset()
    ds.file_meta = meta
    if made.character_set:
        ds.SpecificCharacterSet = made.character_set.split("\\")
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series_uid(study), frame_uid(study)
    _identity(ds, person, scan, made)
    _times(ds, t0, made, parameters.calendar.zone)
    _acquisition(ds, made)
    _contrast(ds, made)
    _geometry(ds, made)
    _pixels(ds, made)
    return ds


def position_of(made: Acquisition, place: int) -> str:
    """ImagePositionPatient of a slice, as it is written."""
    return "\\".join(POSITION.format(value) for value in made.grid.position(place))


def _identity(ds: Dataset, person: Person, scan: int, made: Acquisition) -> None:
    ds.PatientName = f"SYNTHETIC^{person.given.upper()}{SECOND_NAMES.get(made.character_set, '')}"
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
    fraction = ".000000" if made.has_fraction else ""
    ds.StudyDate, ds.StudyTime = dicom_date(t0 - 4 * MINUTE_S), dicom_time(t0 - 4 * MINUTE_S) + fraction
    ds.SeriesDate, ds.SeriesTime = dicom_date(t0 - MINUTE_S), dicom_time(t0 - MINUTE_S) + fraction
    ds.AcquisitionDate = ds.ContentDate = dicom_date(t0)
    ds.AcquisitionTime = ds.ContentTime = dicom_time(t0) + fraction
    shift = offset(t0, zone).replace(":", "")
    ds.AcquisitionDateTime = f"{dicom_date(t0)}{dicom_time(t0)}{fraction}{shift if made.has_offset else ''}"
    if made.has_offset:
        ds.TimezoneOffsetFromUTC = shift


def _acquisition(ds: Dataset, made: Acquisition) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Modality = "CT"
    ds.Manufacturer = made.manufacturer
    ds.ManufacturerModelName = made.model
    ds.SeriesDescription = DESCRIPTIONS.get(made.character_set, "CHEST")
    ds.BodyPartExamined = "CHEST"
    ds.ConvolutionKernel = made.kernel
    ds.KVP = str(made.kvp)
    ds.Exposure = str(made.exposure_mas)
    ds.ReconstructionDiameter = f"{2 * field_radius_mm(made.grid):.2f}"
    ds.AcquisitionNumber = "1"
    ds.SeriesNumber = "1"
    ds.PatientPosition = "FFS" if made.feet_first else "HFS"
    ds.PositionReferenceIndicator = ""


def _contrast(ds: Dataset, made: Acquisition) -> None:
    if not made.contrast:
        return
    ds.ContrastBolusAgent = "IODINATED CONTRAST"
    ds.ContrastBolusRoute = "IV"
    ds.ContrastBolusVolume = "80"


def _geometry(ds: Dataset, made: Acquisition) -> None:
    columns, rows, _ = made.grid.size
    across, down, _ = made.grid.spacing
    ds.InstanceNumber = None if made.instance_order == "absent" else "1" + "0" * (NUMBER_WIDTH - 1)
    ds.ImagePositionPatient = position_of(made, 0).split("\\")
    ds.ImageOrientationPatient = [f"{value:.10g}" for value in (*made.grid.row, *made.grid.column)]
    ds.PixelSpacing = [f"{down:.4f}", f"{across:.4f}"]
    ds.SliceThickness = f"{made.thickness_mm:.2f}"
    ds.Rows, ds.Columns = rows, columns


def _pixels(ds: Dataset, made: Acquisition) -> None:
    stored = made.stored
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, stored.bits, stored.bits - 1
    ds.PixelRepresentation = int(stored.signed)
    if stored.padded:
        ds.PixelPaddingValue = PADDING
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(stored.intercept), "1", "HU"
    if made.num_windows == 1:
        ds.WindowCenter, ds.WindowWidth = "40", "400"
    else:
        ds.WindowCenter, ds.WindowWidth = ["40", "-600"], ["400", "1500"]
        ds.WindowCenterWidthExplanation = ["MEDIASTINUM", "LUNG"]
