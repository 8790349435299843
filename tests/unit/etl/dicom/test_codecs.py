"""One decoder a transfer syntax: lossless frames come back as they were encoded, by every decoder that is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from pydicom.encaps import encapsulate

from presage_etl.dicom.candidate import SliceRef
from presage_etl.dicom.codecs import DECODERS, chosen_plugin, decode_encapsulated, has_decoder, is_fallback
from presage_etl.dicom.series import slice_ref
from presage_platform.volumes.catalogue import INSTANCE_SCHEMA

FRAME = np.random.default_rng(11).integers(0, 4096, (48, 40)).astype(np.uint16)


def encode_rle(frame: np.ndarray) -> bytes:
    from rle.utils import encode_pixel_data

    layout = {"rows": frame.shape[0], "columns": frame.shape[1], "samples_per_pixel": 1, "bits_allocated": 16}
    return bytes(encode_pixel_data(frame.tobytes(), number_of_frames=1, byteorder="<", **layout))


def encode_jpeg_ls(frame: np.ndarray) -> bytes:
    import jpeg_ls

    return bytes(jpeg_ls.encode_array(frame))


def encode_jpeg2000(frame: np.ndarray) -> bytes:
    from openjpeg.utils import encode

    return encode(frame, bits_stored=12)


LOSSLESS = {
    "1.2.840.10008.1.2.5": encode_rle,
    "1.2.840.10008.1.2.4.80": encode_jpeg_ls,
    "1.2.840.10008.1.2.4.90": encode_jpeg2000,
}


def ref_of(syntax: str) -> SliceRef:
    row = dict.fromkeys(INSTANCE_SCHEMA.names)
    row.update(root_id=1, rel_path=b"x", header_hash="0", sop_uid="1.2", rows=48, columns=40, bits_allocated=16)
    return replace(slice_ref(row), transfer_syntax_uid=syntax, bits_stored=12, high_bit=11)


@pytest.mark.parametrize(("syntax", "encode"), LOSSLESS.items())
def test_i42_every_installed_decoder_gives_back_what_was_encoded(
    syntax: str, encode: Callable[[np.ndarray], bytes]
) -> None:
    payload = encapsulate([encode(FRAME)])
    installed = [plugin for plugin in DECODERS[syntax] if plugin.is_installed]
    assert len(installed) == 2
    for plugin in installed:
        np.testing.assert_array_equal(decode_encapsulated(payload, ref_of(syntax), plugin), FRAME, err_msg=plugin.name)


def test_i40_the_pinned_decoder_is_the_one_in_use() -> None:
    assert all(has_decoder(syntax) and not is_fallback(syntax) for syntax in DECODERS)
    used = {chosen_plugin(syntax).distribution for syntax in DECODERS}  # type: ignore[union-attr]
    assert used == {"presage", "pydicom", "pylibjpeg-rle", "python-gdcm", "pyjpegls", "pylibjpeg-openjpeg"}


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.94", "1.2.3.4", "", None])
def test_i41_video_jpip_and_private_syntaxes_have_no_decoder(syntax: str | None) -> None:
    assert not has_decoder(syntax)
