"""Transfer syntaxes and objects of many frames: what an archive holds besides plain little endian slices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from presage_etl.synthetic.planted.pixels import UNUSABLE
from presage_etl.synthetic.planted.series import (
    Clean,
    Expected,
    Image,
    Planted,
    accepted,
    affine_ras,
    alone,
    rejected,
)

ENHANCED_CT, LEGACY_CONVERTED_CT = UID("1.2.840.10008.5.1.4.1.1.2.1"), UID("1.2.840.10008.5.1.4.1.1.2.2")
MPEG2 = UID("1.2.840.10008.1.2.4.100")  # video: no volume of anything
_PER_FRAME = ("ImagePositionPatient", "InstanceNumber")
_SHARED = (
    "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope", "RescaleIntercept", "RescaleType",
)  # fmt: skip


def implicit_vr(clean: Clean) -> Planted:
    return _written_as(clean, ImplicitVRLittleEndian)


def deflated(clean: Clean) -> Planted:
    return _written_as(clean, DeflatedExplicitVRLittleEndian)


def big_endian(clean: Clean) -> Planted:
    images = clean.images()
    for image in images:
        image.data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        image.data.PixelData = np.frombuffer(image.data.PixelData, "<u2").astype(">u2").tobytes()
    return alone(accepted(images, touched=images))


def run_length(clean: Clean) -> Planted:
    return _compressed(clean, RLELossless, "pydicom")


def jpeg_ls(clean: Clean) -> Planted:
    return _compressed(clean, JPEGLSLossless, "pyjpegls")


def jpeg_2000(clean: Clean) -> Planted:
    images = clean.images()
    for image in images:
        _encapsulated(image, _jpeg_2000(_bits(image)), JPEG2000Lossless)
    return alone(accepted(images, touched=images))


def jpeg_2000_with_wrong_sign(clean: Clean) -> Planted:
    """A signed codestream under a header that says unsigned: the bits are what was meant."""
    images = clean.images()
    for image in images:
        signed = (_bits(image).astype(np.int16) << 4 >> 4).astype(np.int16)
        _encapsulated(image, _jpeg_2000(signed), JPEG2000Lossless)
    return alone(accepted(images, touched=images))


def corrupt_run_length(clean: Clean) -> Planted:
    """A header of segments that lie beyond the frame."""
    images = _compressed(clean, RLELossless, "pydicom").expected[0].images
    broken = images[clean.num_slices // 2]
    nonsense = (2).to_bytes(4, "little") + b"\xff\xff\xff\x7f" * 15 + b"\x81" * 8
    _encapsulated(broken, nonsense, RLELossless)
    return alone(rejected(images, "rejected_missing_slices", *UNUSABLE, touched=[broken]))


def corrupt_jpeg_2000(clean: Clean) -> Planted:
    images = jpeg_2000(clean).expected[0].images
    broken = images[clean.num_slices // 2]
    _encapsulated(broken, b"\xff\x4f\xff\x51" + b"\xff" * 60, JPEG2000Lossless)
    return alone(rejected(images, "rejected_missing_slices", *UNUSABLE, touched=[broken]))


def video(clean: Clean) -> Planted:
    images = clean.images()
    for image in images:
        _encapsulated(image, b"\0" * 64, MPEG2)
    return alone(rejected(images, "rejected_no_decoder"))


def enhanced(clean: Clean) -> Planted:
    return _frames(clean, ENHANCED_CT)


def legacy_converted(clean: Clean) -> Planted:
    return _frames(clean, LEGACY_CONVERTED_CT)


def rescale_per_frame(clean: Clean) -> Planted:
    return _frames(clean, ENHANCED_CT, own_rescale=True)


def contradictory_groups(clean: Clean) -> Planted:
    """Fewer items than frames: which frame lies where cannot be known."""
    image = _enhanced_image(clean, clean.images(), ENHANCED_CT, own_rescale=False)
    image.data.PerFrameFunctionalGroupsSequence = image.data.PerFrameFunctionalGroupsSequence[:-3]
    return alone(rejected([image], "rejected_functional_groups"))


def _written_as(clean: Clean, syntax: UID) -> Planted:
    images = clean.images()
    for image in images:
        image.data.file_meta.TransferSyntaxUID = syntax
    return alone(accepted(images, touched=images))


def _compressed(clean: Clean, syntax: UID, encoder: str) -> Planted:
    images = clean.images()
    for image in images:
        image.data.compress(syntax, encoding_plugin=encoder, generate_instance_uid=False)
    return alone(accepted(images, touched=images))


def _bits(image: Image) -> NDArray[np.uint16]:
    return np.frombuffer(image.data.PixelData, "<u2").reshape(image.hu.shape)


def _jpeg_2000(stored: NDArray[Any]) -> bytes:
    from openjpeg.utils import encode

    return bytes(encode(stored, bits_stored=12))


def _encapsulated(image: Image, codestream: bytes, syntax: UID) -> None:
    image.data.file_meta.TransferSyntaxUID = syntax
    image.data.add_new("PixelData", "OB", encapsulate([codestream]))
    image.data["PixelData"].is_undefined_length = True


def _frames(clean: Clean, sop_class: UID, *, own_rescale: bool = False) -> Planted:
    slices = clean.images()
    if own_rescale:
        for image in slices[::2]:
            image.hu = (image.hu // 2 * 2).astype(np.int16)
            image.store(slope=2.0, intercept=-1100.0)
    whole = _enhanced_image(clean, slices, sop_class, own_rescale=own_rescale)
    return alone(
        Expected(
            images=(whole,),
            verdict="ok",
            reasons=(),
            actions=(),
            used=tuple(f"{whole.uid}/{frame}" for frame in range(len(slices))),
            touched=(whole.uid,),
            volume=np.stack([image.hu for image in slices]),
            affine_ras=affine_ras(slices),
        )
    )


def _enhanced_image(clean: Clean, slices: list[Image], sop_class: UID, *, own_rescale: bool) -> Image:
    """One object of all slices; what differs stands in the groups of its frames."""
    pixels = b"".join(image.data.PixelData for image in slices)
    whole = clean.images()[0]
    frames, shared = [], Dataset()
    shared.PixelMeasuresSequence = _group(whole, "PixelSpacing", "SliceThickness")
    shared.PlaneOrientationSequence = _group(whole, "ImageOrientationPatient")
    if not own_rescale:
        shared.PixelValueTransformationSequence = _group(whole, "RescaleSlope", "RescaleIntercept", "RescaleType")
    for place, image in enumerate(slices):
        frame, content = Dataset(), Dataset()
        content.StackID, content.InStackPositionNumber, content.FrameAcquisitionNumber = "1", place + 1, 1
        frame.FrameContentSequence = Sequence([content])
        frame.PlanePositionSequence = _group(image, "ImagePositionPatient")
        if own_rescale:
            frame.PixelValueTransformationSequence = _group(image, "RescaleSlope", "RescaleIntercept", "RescaleType")
        frames.append(frame)
    whole.set(**dict.fromkeys((*_PER_FRAME, *_SHARED)))
    data = whole.data
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = sop_class
    data.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    data.InstanceNumber, data.NumberOfFrames = "1", str(len(slices))
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    data.PerFrameFunctionalGroupsSequence = Sequence(frames)
    data.PixelData = pixels
    return whole


def _group(image: Image, *keywords: str) -> Any:
    item = Dataset()
    for keyword in keywords:
        setattr(item, keyword, image.data[keyword].value)
    return Sequence([item])


NEEDED_ENCODER: dict[Callable[[Clean], Planted], str] = {
    jpeg_ls: "jpeg_ls",
    jpeg_2000: "openjpeg",
    jpeg_2000_with_wrong_sign: "openjpeg",
    corrupt_jpeg_2000: "openjpeg",
}
"""Packages without which a case cannot be written; it is then left out."""
