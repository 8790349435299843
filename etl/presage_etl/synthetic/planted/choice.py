"""Studies of several series: which one must represent the study, and which must never."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.uid import UID

from presage_etl.synthetic.planted.series import (
    CORONAL,
    SAGITTAL,
    Beside,
    Clean,
    Image,
    Planted,
    accepted,
    encode,
    rejected,
    twin,
)

SECONDARY_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.7")
DOSE_REPORT = UID("1.2.840.10008.5.1.4.1.1.88.67")
VENDOR, SOFT, SHARP = "SIEMENS", "B30f", "B70f"


def localizer(clean: Clean) -> Planted:
    scout = clean.planes([0.0], iop=SAGITTAL, series=2)
    scout[0].set(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    return Planted((accepted(clean.images()), rejected(scout, "rejected_localizer", "localizer", "single_slice")))


def untyped_scout(clean: Clean) -> Planted:
    """Two views that say nothing of being scouts."""
    front, side = clean.planes([0.0], iop=CORONAL, series=2), clean.planes([0.0], iop=SAGITTAL, series=2, first=1)
    refused = [rejected(view, "rejected_localizer", "localizer", "single_slice") for view in (front, side)]
    return Planted((accepted(clean.images()), *refused))


def secondary_capture(clean: Clean) -> Planted:
    captured = [_captured(image) for image in clean.images(series=2)]
    refused = rejected(captured, "rejected_secondary_capture", "secondary_capture", "pixel_risk")
    return Planted((accepted(clean.images()), refused))


def secondary_capture_with_text(clean: Clean) -> Planted:
    captured = [_captured(image).set(BurnedInAnnotation="YES") for image in clean.images(series=2)]
    for image in captured:
        image.hu[2:5, 2 : image.hu.shape[1] // 2] = 2000  # where the text stands
        image.store()
    refused = rejected(captured, "rejected_burned_in", "burned_in", "secondary_capture", "pixel_risk")
    return Planted((accepted(clean.images()), refused))


def burned_in(clean: Clean) -> Planted:
    images = [image.set(BurnedInAnnotation="YES") for image in clean.images()]
    return Planted((rejected(images, "rejected_burned_in", "burned_in", "pixel_risk"),), None)


def dose_report(clean: Clean) -> Planted:
    """A structured report: no image, and no candidate."""
    report = twin(clean.header)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"):
        if keyword in report:
            del report[keyword]
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = DOSE_REPORT
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = UID(f"{clean.series_uid(8)}.1")
    report.SeriesInstanceUID, report.Modality = clean.series_uid(8), "SR"
    report.ValueType, report.ContinuityOfContent = "CONTAINER", "SEPARATE"
    report.CompletionFlag, report.VerificationFlag = "COMPLETE", "UNVERIFIED"
    return Planted((accepted(clean.images()),), beside=(Beside(encode(report), "not_image"),))


def dose_picture(clean: Clean) -> Planted:
    """A dose table as a picture of CT class."""
    (page,) = clean.planes([0.0], series=2)
    page.set(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"])
    return Planted((accepted(clean.images()), rejected([page], "rejected_derived", "derived", "single_slice")))


def coronal_reformat(clean: Clean) -> Planted:
    images = [image.set(ImageType=["DERIVED", "SECONDARY", "MPR"]) for image in clean.planes(iop=CORONAL, series=2)]
    return Planted((accepted(clean.images()), rejected(images, "rejected_derived")))


def maximum_intensity(clean: Clean) -> Planted:
    return Planted((accepted(clean.images()), rejected(_projections(clean, 2), "rejected_derived")))


def two_kernels(clean: Clean) -> Planted:
    """Soft and sharp, each a series: the soft one represents the study."""
    soft, sharp = clean.images(), clean.images(series=2)
    _kernel(soft, SOFT)
    _kernel(sharp, SHARP)
    return Planted((accepted(soft), accepted(sharp, touched=sharp)), 0, "kernel")


def two_kernels_one_uid(clean: Clean) -> Planted:
    """Two reconstructions under one SeriesInstanceUID: two candidates."""
    sharp, soft = clean.images(), clean.images(first=200)
    _kernel(soft, SOFT)
    _kernel(sharp, SHARP)
    return Planted((accepted(sharp), accepted(soft, touched=soft)), 1, "kernel")


def thin_and_thick(clean: Clean) -> Planted:
    thick, thin = clean.planes(_places(clean, 8.0)), clean.planes(_places(clean, 5.0), series=2)
    return Planted((accepted(thick), accepted(thin, touched=thin)), 1, "slice step")


def two_phases_one_uid(clean: Clean) -> Planted:
    """Two phases under one SeriesInstanceUID, told apart by the acquisition alone; the late one is shorter."""
    late, early = clean.images(first=200)[:-3], clean.images()
    for image in late:
        image.set(AcquisitionNumber="2")
    return Planted((accepted(early), accepted(late, touched=late)), 0, "longer extent")


def several_series_one_folder(clean: Clean) -> Planted:
    first, second = clean.images(), clean.images(series=2)[:-4]
    return Planted((accepted(first), accepted(second, touched=second)), 0, "longer extent")


def one_series_scattered(clean: Clean) -> Planted:
    images = clean.images()
    for place, image in enumerate(images):
        image.folder = place % 3
    return Planted((accepted(images, touched=images),))


def study_of_six(clean: Clean) -> Planted:
    """Thick, soft, sharp, scout, reformat and the one to take: thin, soft and whole."""
    thick, sharp, best = (
        clean.planes(_places(clean, step), series=series) for step, series in ((8.0, 1), (5.0, 2), (5.0, 3))
    )
    soft = clean.planes(_places(clean, 5.0)[:-6], series=4)
    scout = clean.planes([0.0], iop=SAGITTAL, series=5)
    scout[0].set(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    for images, kernel in ((thick, SOFT), (sharp, SHARP), (best, SOFT), (soft, SOFT)):
        _kernel(images, kernel)
    return Planted(
        (
            accepted(best),
            accepted(soft),
            accepted(sharp),
            accepted(thick),
            rejected(scout, "rejected_localizer", "localizer", "single_slice"),
            rejected(_projections(clean, 6), "rejected_derived"),
        ),
        0,
        "longer extent",
    )


def _kernel(images: Sequence[Image], kernel: str) -> None:
    for image in images:
        image.set(Manufacturer=VENDOR, ConvolutionKernel=kernel)


def _captured(image: Image) -> Image:
    image.data.SOPClassUID = image.data.file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
    return image.set(ConversionType="WSD", ImageType=["ORIGINAL", "SECONDARY"])


def _projections(clean: Clean, series: int) -> list[Image]:
    """Each slice the maximum of itself and its neighbours."""
    images = clean.images(series=series)
    for place, image in enumerate(images):
        image.hu = clean.hu[max(place - 1, 0) : place + 2].max(axis=0)
        image.store().set(ImageType=["DERIVED", "SECONDARY", "AXIAL", "MIP"])
    return images


def _places(clean: Clean, step_mm: float) -> list[float]:
    """Planes over 248 mm, of which the lungs fill most."""
    number = round(248.0 / step_mm)
    return [(place - (number - 1) / 2) * step_mm for place in range(number)]
