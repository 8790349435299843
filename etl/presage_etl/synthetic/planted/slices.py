"""Defects of a stack: slices that are missing, doubled, unevenly placed or out of order."""

from __future__ import annotations

import numpy as np

from presage_etl.synthetic.planted.series import Clean, Image, Planted, accepted, alone, rejected, twin

VARIED_STEPS_MM = (1.14, 4.22, 7.38)
WIDE_STEPS_MM = (3.0, 3.0, 7.0, 15.0)  # one beyond the widest step that is resampled


def one_missing_inside(clean: Clean) -> Planted:
    images = clean.images()
    gone = images.pop(clean.num_slices // 2)
    return alone(rejected(images, "rejected_missing_slices", touched=[gone]))


def several_missing(clean: Clean) -> Planted:
    images = clean.images()
    places = (clean.num_slices // 4, clean.num_slices // 2, clean.num_slices // 2 + 1)
    gone = [images.pop(place) for place in reversed(places)]
    return alone(rejected(images, "rejected_missing_slices", touched=gone))


def last_missing(clean: Clean) -> Planted:
    """A cut at an end cannot be seen."""
    *images, gone = clean.images()
    return alone(accepted(images, touched=[gone]))


def single_slice(clean: Clean) -> Planted:
    return alone(rejected(clean.images()[:1], "rejected_single_slice"))


def three_slices(clean: Clean) -> Planted:
    return alone(rejected(clean.images()[:3], "rejected_too_few_slices"))


def variable_spacing(clean: Clean) -> Planted:
    images = without_thickness(clean.planes(uneven_places(clean, VARIED_STEPS_MM)))
    return alone(
        accepted(
            images,
            "ok_resampled_spacing",
            reasons=["spacing"],
            actions=["resampled_spacing"],
            touched=images,
            exact=False,
        )
    )


def spacing_beyond_policy(clean: Clean) -> Planted:
    return alone(rejected(without_thickness(clean.planes(uneven_places(clean, WIDE_STEPS_MM))), "rejected_spacing"))


def duplicate_file(clean: Clean) -> Planted:
    images = clean.images()
    copied = images[clean.num_slices // 3]
    expected = accepted(
        images,
        "ok_dropped_duplicates",
        reasons=["duplicates"],
        actions=["dropped_duplicates"],
        touched=[copied],
    )
    return Planted((expected,), more_files=(copied,))


def same_position_two_contents(clean: Clean) -> Planted:
    images = clean.images()
    other = _like(images[5], clean, 500)
    other.hu = other.hu[::-1].copy()
    other.store()
    return alone(rejected([*images, other], "rejected_duplicate_positions", touched=[images[5], other]))


def same_uid_two_contents(clean: Clean) -> Planted:
    """One SOPInstanceUID, two pixels: nothing in the headers tells the files apart."""
    images = clean.images()
    other = Image(twin(images[5].data), images[5].hu[::-1].copy()).store()
    return Planted((rejected(images, "rejected_uid_conflict", touched=[images[5]]),), None, more_files=(other,))


def shuffled_numbers(clean: Clean) -> Planted:
    images = clean.images()
    for place, image in enumerate(images):
        image.set(InstanceNumber=str((place * 5 + 3) % clean.num_slices + 1))
    return alone(accepted(images, touched=images))


def reverse_numbers(clean: Clean) -> Planted:
    images = clean.images()
    for place, image in enumerate(images):
        image.set(InstanceNumber=str(clean.num_slices - place))
    return alone(accepted(images, touched=images))


def no_numbers(clean: Clean) -> Planted:
    images = [image.set(InstanceNumber=None) for image in clean.images()]
    return alone(accepted(images, touched=images))


def rounded_positions(clean: Clean) -> Planted:
    """Steps of 1.25 mm, written with one decimal; the ends need no rounding."""
    images = clean.planes(_even(clean, 1.25)[: (clean.num_slices - 1) // 2 * 2 + 1])
    first = float(images[0].data.ImagePositionPatient[2])
    for place, image in enumerate(images):
        x, y, _ = image.data.ImagePositionPatient
        image.data.ImagePositionPatient = [x, y, f"{np.floor(first) + place * 1.25:.1f}"]
    return alone(
        accepted(
            images,
            "ok_rounded_positions",
            reasons=["rounded_positions"],
            actions=["rounded_positions"],
            touched=images,
        )
    )


def noisy_positions(clean: Clean) -> Planted:
    images = clean.planes(_even(clean, 2.5))
    for place, image in enumerate(images):
        x, y, z = image.data.ImagePositionPatient
        image.data.ImagePositionPatient = [x, y, f"{float(z) + 1e-5 * (-1) ** place:.6f}"]
    return alone(accepted(images, touched=images))


def uneven_places(clean: Clean, steps_mm: tuple[float, ...]) -> list[float]:
    """Offsets from the centre at which the steps follow a pattern."""
    steps = [steps_mm[place % len(steps_mm)] for place in range(min(clean.num_slices, 32) - 1)]
    places = np.cumsum([0.0, *steps])
    return [round(float(place), 4) for place in places - places[-1] / 2]


def _even(clean: Clean, step_mm: float) -> list[float]:
    number = clean.num_slices
    return [(place - (number - 1) / 2) * step_mm for place in range(number)]


def without_thickness(images: list[Image]) -> list[Image]:
    """Where steps vary, no thickness says anything."""
    return [image.set(SliceThickness=None) for image in images]


def _like(image: Image, clean: Clean, place: int) -> Image:
    """Another image at the same place."""
    data = twin(image.data)
    data.SOPInstanceUID = f"{clean.series_uid(1)}.{2000 + place}"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    return Image(data, image.hu.copy())
