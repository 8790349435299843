"""Traps of stored values: padding, rescale, sign, photometric interpretation, and pixels that cannot be read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from presage_etl.synthetic.planted.series import (
    LOWEST_HU,
    Clean,
    Image,
    Planted,
    accepted,
    alone,
    encode,
    rejected,
)

PADDING_SHARE = 0.97  # of half the field: what lies beyond the circle is padded
HIGH_BITS = 0xA000
METAL_HU = 3071
COARSE_SLOPE = 8  # Hounsfield units of one step in 8 bits
UNUSABLE = ("unusable_slices", "missing_slices")


def truncated_file(clean: Clean) -> Planted:
    images = clean.images()
    broken = images[clean.num_slices // 2]
    content = encode(broken.data)
    broken.content = content[: len(content) - broken.hu.nbytes // 2]
    return alone(rejected(images, "rejected_missing_slices", *UNUSABLE, touched=[broken]))


def last_slice_truncated(clean: Clean) -> Planted:
    """The slice is unusable; a cut at an end is no gap."""
    images = clean.images()
    broken = images[-1]
    broken.content = encode(broken.data)[: -broken.hu.nbytes // 2]
    return alone(accepted(images[:-1], reasons=["unusable_slices"], touched=[broken], members=images))


def short_pixel_data(clean: Clean) -> Planted:
    """The value's length is true, and too small for the image."""
    images = clean.images()
    broken = images[clean.num_slices // 3]
    broken.data.PixelData = broken.data.PixelData[: broken.hu.nbytes // 4 * 2]
    return alone(rejected(images, "rejected_missing_slices", *UNUSABLE, touched=[broken]))


def no_pixel_data(clean: Clean) -> Planted:
    images = clean.images()
    broken = images[clean.num_slices // 3].set(PixelData=None)
    return alone(rejected(images, "rejected_missing_slices", *UNUSABLE, touched=[broken]))


def all_truncated(clean: Clean) -> Planted:
    images = clean.images()
    for image in images:
        image.data.PixelData = image.data.PixelData[:100]
    return alone(rejected(images, "rejected_undecodable"))


def declared_size(clean: Clean) -> Planted:
    """Sides beyond any scanner's: refused before memory is asked for."""
    images = clean.images()
    for image in images:
        image.data.Rows = image.data.Columns = 65_535
    return alone(rejected(images, "rejected_undecodable", "declared_size"))


def odd_number_of_bytes(clean: Clean) -> Planted:
    """Eight bits, an odd number of pixels, and the byte of padding that the standard asks for."""
    images = clean.images()
    for image in images:
        rows, columns = (size - 1 + size % 2 for size in image.hu.shape)
        stored = (image.hu[:rows, :columns] - LOWEST_HU) // COARSE_SLOPE
        stored = np.minimum(stored, 255).astype(np.uint8)
        image.hu = (stored.astype(np.int16) * COARSE_SLOPE + LOWEST_HU).astype(np.int16)
        image.store().set(
            BitsAllocated=8, BitsStored=8, HighBit=7, RescaleSlope=str(COARSE_SLOPE), RescaleIntercept=str(LOWEST_HU)
        ).put(stored)
    return alone(accepted(images, touched=images))


def monochrome1(clean: Clean) -> Planted:
    images = clean.images()
    for image in images:
        image.set(PhotometricInterpretation="MONOCHROME1").put((4095 - _stored(image)).astype("<u2"))
    return alone(accepted(images, "ok_inverted", actions=["inverted"], touched=images))


def colour(clean: Clean) -> Planted:
    images = clean.images()
    for image in images:
        grey = np.clip((image.hu + 1000) // 8, 0, 255).astype(np.uint8)
        image.set(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
        image.set(BitsAllocated=8, BitsStored=8, HighBit=7).put(np.repeat(grey[..., None], 3, axis=-1))
    return alone(rejected(images, "rejected_photometric", "photometric", "pixel_risk"))


def padding_2000(clean: Clean) -> Planted:
    return _padded(clean, -2000, PixelPaddingValue=-2000)


def padding_3024_undeclared(clean: Clean) -> Planted:
    """Nothing declares it; it lies below any Hounsfield unit."""
    return _padded(clean, -3024)


def padding_range(clean: Clean) -> Planted:
    return _padded(clean, -1800, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1500)


def padding_with_wrong_sign(clean: Clean) -> Planted:
    """Written as unsigned by mistake: the same bits as -1500."""
    planted = _padded(clean, -1500)
    for image in planted.expected[0].images:
        image.data.add_new("PixelPaddingValue", "US", 65_536 - 1500)
    return planted


def rescale_per_slice(clean: Clean) -> Planted:
    images = clean.images()
    for image in images[::2]:
        image.hu = (image.hu // 2 * 2).astype(np.int16)
        image.store(slope=2.0, intercept=-1100.0)
    return alone(accepted(images, touched=images[::2]))


def modality_table(clean: Clean) -> Planted:
    """A modality LUT in place of slope and intercept; its values cannot be negative, which no CT of a chest is."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    table = (np.arange(4096) * 2).astype("<u2")
    images = clean.images()
    for image in images:
        item = Dataset()
        item.LUTDescriptor, item.ModalityLUTType = [4096, 0, 16], "HU"
        item.add_new("LUTData", "OW", table.tobytes())
        image.hu = table[_stored(image)].astype(np.int16)
        image.set(RescaleSlope=None, RescaleIntercept=None, RescaleType=None, ModalityLUTSequence=Sequence([item]))
    return alone(accepted(images, reasons=["hu_implausible"], touched=images))


def fractional_rescale(clean: Clean) -> Planted:
    images = clean.images()
    for image in images:
        image.store(slope=0.5, intercept=-1024.25)
        image.set(BitsStored=16, HighBit=15)
        image.hu = np.rint(_stored(image) * 0.5 - 1024.25).astype(np.int16)
    return alone(accepted(images, "ok_rounded_hu", actions=["rounded_hu"], touched=images))


def no_rescale(clean: Clean) -> Planted:
    images = [image.set(RescaleSlope=None, RescaleIntercept=None, RescaleType=None) for image in clean.images()]
    return alone(rejected(images, "rejected_no_rescale"))


def signed_12_bits(clean: Clean) -> Planted:
    """Twelve signed bits in a container of sixteen, the sign not repeated above them."""
    images = clean.images()
    for image in images:
        image.hu = np.minimum(image.hu, 2047).astype(np.int16)
        image.store(signed=True).set(BitsStored=12, HighBit=11)
        image.put((image.hu.view(np.uint16) & np.uint16(0x0FFF)).astype("<u2"))
    return alone(accepted(images, touched=images))


def dirty_high_bits(clean: Clean) -> Planted:
    """Something else stands in the bits above the stored ones."""
    images = clean.images()
    for image in images:
        image.put((_stored(image) | np.uint16(HIGH_BITS)).astype("<u2"))
    return alone(accepted(images, actions=["masked_high_bits"], touched=images))


def lossy_flag(clean: Clean) -> Planted:
    images = [
        image.set(LossyImageCompression="01", LossyImageCompressionRatio="8", LossyImageCompressionMethod="ISO_10918_1")
        for image in clean.images()
    ]
    return alone(accepted(images, "ok_lossy", reasons=["lossy"], touched=images))


def all_air(clean: Clean) -> Planted:
    images = clean.images()
    for image in images:
        image.hu = np.full_like(image.hu, -1000)
        image.store()
    return alone(accepted(images, reasons=["hu_implausible"], touched=images))


def metal(clean: Clean) -> Planted:
    images = clean.images()
    touched = images[4:8]
    for image in touched:
        rows, columns = image.hu.shape
        image.hu[rows // 2 : rows // 2 + 3, columns // 3 : columns // 3 + 3] = METAL_HU
        image.store()
    return alone(accepted(images, touched=touched))


def _stored(image: Image) -> NDArray[np.uint16]:
    return np.frombuffer(image.data.PixelData, "<u2")[: image.hu.size].reshape(image.hu.shape)


def _padded(clean: Clean, stored: int, **elements: int) -> Planted:
    """Signed pixels, and a value outside the circle that is no Hounsfield unit."""
    images = clean.images()
    for image in images:
        rows, columns = image.hu.shape
        j, i = np.mgrid[:rows, :columns]
        radius = np.hypot((j - (rows - 1) / 2) / (rows / 2), (i - (columns - 1) / 2) / (columns / 2))
        outside = radius > PADDING_SHARE
        values = np.where(outside, stored, image.hu).astype("<i2")
        image.hu = np.where(outside, LOWEST_HU, image.hu).astype(np.int16)
        image.store(signed=True).put(values)
        for keyword, value in elements.items():
            image.data.add_new(keyword, "SS", value)
    return alone(accepted(images, actions=["padding_to_air"], touched=images))
