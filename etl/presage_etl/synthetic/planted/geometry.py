"""Traps of geometry: tilt, oblique planes, patient positions, pixels that are not square, positions that are none."""

from __future__ import annotations

from presage_etl.synthetic.planted.series import (
    CORONAL,
    SAGITTAL,
    Clean,
    Image,
    Planted,
    accepted,
    alone,
    encode,
    rejected,
)
from presage_etl.synthetic.planted.slices import VARIED_STEPS_MM, uneven_places, without_thickness

TILT_DEGREES, OBLIQUE_DEGREES = 15.0, 10.0
OBLIQUE_PLUS = (1.0, 0.0, 0.0, 0.0, 0.984807753, 0.173648178)
OBLIQUE_MINUS = (1.0, 0.0, 0.0, 0.0, 0.984807753, -0.173648178)
DRIFT_MM = 5.0


def tilt_plus(clean: Clean) -> Planted:
    return _tilted(clean, TILT_DEGREES)


def tilt_minus(clean: Clean) -> Planted:
    return _tilted(clean, -TILT_DEGREES)


def tilt_tag_lies(clean: Clean) -> Planted:
    """A tilt is in the positions or nowhere."""
    images = [image.set(GantryDetectorTilt="15") for image in clean.images()]
    return alone(accepted(images, touched=images))


def tilt_and_steps(clean: Clean) -> Planted:
    images = clean.planes(uneven_places(clean, VARIED_STEPS_MM), tilt_degrees=TILT_DEGREES)
    return alone(
        accepted(
            without_thickness(images),
            "ok_resampled_spacing",
            reasons=["spacing", "tilt"],
            actions=["resampled_spacing", "resampled_tilt"],
            touched=images,
            exact=False,
        )
    )


def oblique_plus(clean: Clean) -> Planted:
    return _whole(clean.planes(iop=OBLIQUE_PLUS))


def oblique_minus(clean: Clean) -> Planted:
    return _whole(clean.planes(iop=OBLIQUE_MINUS))


def not_square(clean: Clean) -> Planted:
    across, down, _ = clean.spacing
    return _whole(clean.planes(steps_mm=(round(down * 9 / 8, 4), round(across * 7 / 8, 4))))


def head_first_supine(clean: Clean) -> Planted:
    return _whole(clean.images())


def feet_first_supine(clean: Clean) -> Planted:
    return _lying(clean, (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0), "FFS")


def head_first_prone(clean: Clean) -> Planted:
    return _lying(clean, (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0), "HFP")


def head_first_right(clean: Clean) -> Planted:
    return _lying(clean, (0.0, 1.0, 0.0, -1.0, 0.0, 0.0), "HFDR")


def position_absent(clean: Clean) -> Planted:
    images = clean.images()
    images[3].set(ImagePositionPatient=None)
    return alone(rejected(images, "rejected_bad_position", touched=[images[3]]))


def position_nan(clean: Clean) -> Planted:
    images = clean.images()
    written = [str(value) for value in images[3].data.ImagePositionPatient]
    nothing = ["NaN".ljust(len(text)) for text in written]
    images[3].content = encode(images[3].data).replace("\\".join(written).encode(), "\\".join(nothing).encode())
    return alone(rejected(images, "rejected_bad_position", touched=[images[3]]))


def positions_all_equal(clean: Clean) -> Planted:
    images = [image.set(ImagePositionPatient=["1", "2", "3"]) for image in clean.images()]
    return alone(rejected(images, "rejected_bad_position"))


def directions_skewed(clean: Clean) -> Planted:
    images = [image.set(ImageOrientationPatient=["1", "0", "0", "0.2", "1", "0"]) for image in clean.images()]
    return alone(rejected(images, "rejected_bad_orientation"))


def positions_drift(clean: Clean) -> Planted:
    images = clean.images()
    odd = images[clean.num_slices // 2]
    x, y, z = (float(value) for value in odd.data.ImagePositionPatient)
    odd.data.ImagePositionPatient = [f"{x + DRIFT_MM:.4f}", f"{y:.4f}", f"{z:.4f}"]
    return alone(rejected(images, "rejected_position_drift", touched=[odd]))


def axial_and_coronal(clean: Clean) -> Planted:
    """Two orientations under one series UID: two candidates."""
    axial, coronal = clean.images(), clean.planes(iop=CORONAL, first=200)
    return Planted((accepted(axial), accepted(coronal, touched=coronal)), 0, "orientation")


def mixed_with_localizer(clean: Clean) -> Planted:
    axial = clean.images()
    (scout,) = clean.planes([0.0], iop=SAGITTAL, first=200)
    scout.set(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    refused = rejected([scout], "rejected_localizer", "localizer", "single_slice")
    return Planted((accepted(axial), refused))


def thickness_beyond_step(clean: Clean) -> Planted:
    images = clean.planes([(place - (clean.num_slices - 1) / 2) * 2.0 for place in range(clean.num_slices)])
    for image in images:
        image.set(SliceThickness="3")
    return alone(accepted(images, reasons=["thickness_differs"], touched=images))


def no_thickness(clean: Clean) -> Planted:
    return _whole(without_thickness(clean.images()))


def zero_thickness(clean: Clean) -> Planted:
    return _whole([image.set(SliceThickness="0") for image in clean.images()])


def short_coverage(clean: Clean) -> Planted:
    """No least extent is declared: what is there is taken."""
    images = clean.images()[:8]
    return alone(accepted(images, touched=images))


def wrong_body_part(clean: Clean) -> Planted:
    return _whole([image.set(BodyPartExamined="FOOT") for image in clean.images()])


def _tilted(clean: Clean, degrees: float) -> Planted:
    images = clean.planes(tilt_degrees=degrees)
    for image in images:
        image.set(GantryDetectorTilt=f"{degrees:g}")
    return alone(
        accepted(
            images,
            "ok_resampled_tilt",
            reasons=["tilt"],
            actions=["resampled_tilt"],
            touched=images,
            exact=False,
        )
    )


def _lying(clean: Clean, iop: tuple[float, ...], position: str) -> Planted:
    """The same anatomy: the tag says nothing that the directions do not say."""
    return _whole([image.set(PatientPosition=position) for image in clean.planes(iop=iop)])


def _whole(images: list[Image]) -> Planted:
    return alone(accepted(images, touched=images))
