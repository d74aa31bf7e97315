"""A faster decoder for small plain JPEG files, where simplejpeg is installed and gives exactly Pillow's pixels.

Verdicts must not depend on an optional package: a file that is not plain goes to Pillow, which alone decides what is
refused, and simplejpeg is used only after it has decoded the samples below as Pillow does in this very installation.
"""

from __future__ import annotations

import functools
import io
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALL_FILE = 1 << 16
"""Bytes up to which a file is looked at; in a larger one the entropy decoding, which is the same code, dominates."""

_START, _END = b"\xff\xd8", b"\xff\xd9"
_JFIF, _SCAN, _COMMENT = 0xE0, 0xDA, 0xFE
_FRAMES, _HUFFMAN, _QUANTIZATION, _RESTART = (0xC0, 0xC1, 0xC2), 0xC4, 0xDB, 0xDD
_HARMLESS = {_JFIF, *_FRAMES, _HUFFMAN, _QUANTIZATION, _RESTART, _COMMENT}
_COLOURS = {"Gray": "GRAY", "YCbCr": "RGB"}


def decode_small_jpeg(data: bytes, *, channels: int, max_pixels: int) -> NDArray[np.uint8] | None:
    """Decode a JPEG file without EXIF, colour transforms of Adobe's or further pictures.

    Args:
        data: A whole file.
        channels: 1 for grey, 3 for RGB; a colour file is not made grey here.
        max_pixels: Largest height * width that is decoded.

    Returns:
        uint8 ``(h, w, channels)``, or None: let Pillow decide.
    """
    if not data.startswith(_START) or (simplejpeg := _trusted_decoder()) is None or not _plain(data):
        return None
    try:
        height, width, kind, _ = simplejpeg.decode_jpeg_header(data)
        if height * width > max_pixels or kind not in _COLOURS or (kind == "YCbCr" and channels == 1):
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace=_COLOURS[kind], strict=True)
    except ValueError:
        return None
    return np.repeat(pixels, 3, axis=2) if channels > pixels.shape[2] else pixels


def _plain(data: bytes) -> bool:
    """Whether no segment before the first scan could turn the image, change its colours or bring a second one."""
    at, kind = len(_START), _JFIF
    while kind in _HARMLESS and data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        at += 2 + length
    return kind == _SCAN and data[2:4] == bytes((0xFF, _JFIF)) and data.endswith(_END)


@functools.cache
def _trusted_decoder() -> Any:
    """Return simplejpeg, or None where it is missing or decodes anything differently than Pillow here."""
    try:
        simplejpeg: Any = import_module("simplejpeg")
    except ImportError:
        return None
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (37, 43, 3), np.uint8)
    smooth = np.cumsum(noise, axis=1, dtype=np.uint8) // 2
    for pixels in (noise, smooth, noise[..., :1], smooth[:5, :3]):
        for subsampling in ("444", "422", "420", "440", "411") if pixels.shape[2] == 3 else ("Gray",):
            colours = "RGB" if pixels.shape[2] == 3 else "GRAY"
            data = simplejpeg.encode_jpeg(
                np.ascontiguousarray(pixels), quality=70, colorspace=colours, colorsubsampling=subsampling
            )
            with Image.open(io.BytesIO(data)) as image:
                expected = np.asarray(image).reshape(pixels.shape)
            if not np.array_equal(simplejpeg.decode_jpeg(data, colorspace=colours), expected):
                return None
    return simplejpeg
