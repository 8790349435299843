"""One decoder a transfer syntax, pinned: stored bytes of one frame to stored values.

The choice is never left to what happens to be installed: a fallback steps in only where the pinned package is missing,
not where it fails, and its use is recorded.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from presage_etl.dicom.candidate import SliceRef
from presage_etl.dicom.elements import DEFLATED, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE

OWN = "presage"


@dataclass(frozen=True, slots=True)
class Plugin:
    """A decoder, named as pydicom does where it is called through it, and the package that must be there for it."""

    name: str
    module: str
    distribution: str

    @property
    def is_installed(self) -> bool:
        """Whether its package can be imported."""
        return importlib.util.find_spec(self.module) is not None

    @property
    def label(self) -> str:
        """Name and version, for the run ledger."""
        return f"{self.distribution} {importlib.metadata.version(self.distribution)}"


_OWN = Plugin(OWN, "presage_etl", "presage")
_PYDICOM = Plugin("pydicom", "pydicom", "pydicom")
_GDCM = Plugin("gdcm", "gdcm", "python-gdcm")
_OPENJPEG = Plugin("openjpeg", "openjpeg", "pylibjpeg-openjpeg")
_RLE = Plugin("rle", "rle", "pylibjpeg-rle")
_JPEG_LS = Plugin("pyjpegls", "jpeg_ls", "pyjpegls")

DECODERS: dict[str, tuple[Plugin, ...]] = {
    IMPLICIT_LE: (_OWN,),
    EXPLICIT_LE: (_OWN,),
    EXPLICIT_BE: (_PYDICOM,),
    DEFLATED: (_PYDICOM,),
    "1.2.840.10008.1.2.5": (_RLE, _PYDICOM),
    "1.2.840.10008.1.2.4.50": (_GDCM,),
    "1.2.840.10008.1.2.4.51": (_GDCM,),
    "1.2.840.10008.1.2.4.57": (_GDCM,),
    "1.2.840.10008.1.2.4.70": (_GDCM,),
    "1.2.840.10008.1.2.4.80": (_JPEG_LS, _GDCM),
    "1.2.840.10008.1.2.4.81": (_JPEG_LS, _GDCM),
    "1.2.840.10008.1.2.4.90": (_OPENJPEG, _GDCM),
    "1.2.840.10008.1.2.4.91": (_OPENJPEG, _GDCM),
    "1.2.840.10008.1.2.4.201": (_OPENJPEG,),
    "1.2.840.10008.1.2.4.202": (_OPENJPEG,),
    "1.2.840.10008.1.2.4.203": (_OPENJPEG,),
}
"""Pinned decoder first, then the fallbacks for where it is not installed."""


def has_decoder(transfer_syntax_uid: str | None) -> bool:
    """Tell whether frames of a transfer syntax can be decoded here."""
    return chosen_plugin(transfer_syntax_uid or "") is not None


@lru_cache(maxsize=64)
def chosen_plugin(transfer_syntax_uid: str) -> Plugin | None:
    """Return the first installed decoder of a syntax; None when there is none."""
    return next((plugin for plugin in DECODERS.get(transfer_syntax_uid, ()) if plugin.is_installed), None)


def is_fallback(transfer_syntax_uid: str) -> bool:
    """Tell whether the pinned decoder is not the one that works."""
    return DECODERS[transfer_syntax_uid][0] is not chosen_plugin(transfer_syntax_uid)


def decode_encapsulated(payload: bytes, ref: SliceRef, plugin: Plugin) -> NDArray[Any]:
    """Decode one frame from the value of an encapsulated pixel data element.

    Returns
    -------
    NDArray, shape = (rows, columns)
        Whatever integer type the decoder gives; only the low `bits_stored` bits count.

    Raises
    ------
    Exception
        Whatever the decoder raises for a broken codestream.
    """
    with warnings.catch_warnings():
        # a codestream that disagrees with the header is settled by the header (case 14)
        warnings.simplefilter("ignore")
        if plugin in (_OPENJPEG, _RLE):
            from pydicom.encaps import get_frame

            frame = get_frame(payload, ref.frame, number_of_frames=1)
            return _decode_openjpeg(frame) if plugin is _OPENJPEG else _decode_rle(frame, ref)
        return _decode_by_pydicom(payload, ref, plugin)


def _decode_openjpeg(frame: bytes) -> NDArray[Any]:
    from openjpeg.utils import decode

    return np.asarray(decode(frame))


def _decode_rle(frame: bytes, ref: SliceRef) -> NDArray[Any]:
    from rle.utils import decode_pixel_data

    values = decode_pixel_data(
        frame, version=2, rows=ref.rows, columns=ref.columns, bits_allocated=ref.bits_allocated, byteorder="<"
    )
    return np.frombuffer(values, np.uint16 if ref.bits_allocated == 16 else np.uint8).reshape(ref.rows, ref.columns)


def _decode_by_pydicom(payload: bytes, ref: SliceRef, plugin: Plugin) -> NDArray[Any]:
    from pydicom.pixels.decoders.base import get_decoder

    layout: dict[str, Any] = {
        "rows": ref.rows,
        "columns": ref.columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": ref.photometric,
        "bits_allocated": ref.bits_allocated,
        "bits_stored": ref.bits_stored,
        "pixel_representation": ref.pixel_representation,
        "pixel_keyword": "PixelData",
    }
    decoder = get_decoder(ref.transfer_syntax_uid)
    frame, _ = decoder.as_array(payload, index=ref.frame, raw=True, decoding_plugin=plugin.name, **layout)
    return frame


def decode_with_pydicom(path: str, ref: SliceRef) -> NDArray[Any]:
    """Decode a native frame that cannot be read in place: big endian, deflated."""
    import pydicom
    from pydicom.pixels.decoders.base import get_decoder

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's texts quote element values
        dataset = pydicom.dcmread(path, force=True)
        frame, _ = get_decoder(ref.transfer_syntax_uid).as_array(dataset, index=ref.frame, raw=True)
    return np.asarray(frame)
