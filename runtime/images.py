"""From an image file to the pixels a guard takes; every decision here is listed in ``docs/guard.md``.

Pillow is imported by the functions that need it. All its errors become `ImageError`, with the word for the row.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError, UsageError, one_line
from runtime.files import NotRegularError, open_regular
from runtime.spec import InputSpec, Resize

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N")
CHANNELS = {1: "L", 3: "RGB"}

Pixels: TypeAlias = NDArray[np.uint8]
Source: TypeAlias = "str | os.PathLike[str] | bytes"

_quiet = threading.Lock()
"""Held while Pillow parses headers: silencing warnings is a change to the whole process, so one thread at a time."""


def read(source: Source, spec: InputSpec) -> Pixels:
    """Decode an image file and fit it to what a guard takes.

    Args:
        source: Path of the file, or its bytes.
        spec: Size, channels, filter and pixel limit.

    Returns:
        uint8 ``(H, W, C)``.

    Raises:
        ImageError: The file cannot be used; its `reason` says why in one word.
        UsageError: `spec` takes neither 1 nor 3 channels, or this process lets Pillow pass truncated images.
    """
    image = decode(source, channels=spec.channels, max_pixels=spec.max_pixels)
    return fit(image, height=spec.height, width=spec.width, resize=spec.resize)


def decode(source: Source, *, channels: int, max_pixels: int) -> Pixels:
    """Decode an image file to 8 bits a channel, upright, without transparency.

    Args:
        source: Path of the file, or its bytes.
        channels: 1 for grey, 3 for RGB.
        max_pixels: Largest height * width that is decoded; the header is asked first.

    Returns:
        uint8 ``(h, w, channels)``.

    Raises:
        ImageError: The file cannot be used; its `reason` says why in one word.
        UsageError: `channels` is neither 1 nor 3, or this process lets Pillow pass truncated images.
    """
    from PIL import ImageFile

    if channels not in CHANNELS:
        raise UsageError(f"channels: expected 1 or 3 to read image files, got {channels}; pass arrays to classify")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UsageError(
            "ImageFile.LOAD_TRUNCATED_IMAGES: expected False, got True; half an image must not get a verdict"
        )
    with _open(source) as file:
        try:
            return _decode(file, CHANNELS[channels], max_pixels)
        except ImageError:
            raise
        except Exception as error:  # hostile bytes make Pillow raise nearly anything
            raise ImageError(f"expected an intact image, got: {one_line(error)}", reason="unreadable") from None


def fit(image: Pixels, *, height: int, width: int, resize: Resize) -> Pixels:
    """Bring an image to the size a guard takes, stretching it where the aspect differs.

    Args:
        image: uint8 ``(h, w, C)`` with C 1 or 3.
        height: Rows wanted.
        width: Columns wanted.
        resize: ``bilinear`` or ``bicubic``, both with antialiasing; ``none`` refuses another size.

    Returns:
        uint8 ``(height, width, C)``; `image` itself where nothing is to be done.

    Raises:
        ImageError: Another size under ``none``; its reason is ``wrong-size``.
    """
    if image.shape[:2] == (height, width):
        return image
    if resize == "none":
        got = f"{image.shape[0]}x{image.shape[1]}"
        raise ImageError(f"expected {height}x{width} pixels, got {got}; resize it first", reason="wrong-size")
    from PIL import Image

    squeezed = image[..., 0] if image.shape[2] == 1 else image
    filter_ = Image.Resampling.BILINEAR if resize == "bilinear" else Image.Resampling.BICUBIC
    resized = np.asarray(Image.fromarray(squeezed).resize((width, height), filter_))
    return resized.reshape(height, width, image.shape[2])


@contextmanager
def _open(source: Source) -> Iterator[BinaryIO]:
    """Open a regular file that is not empty."""
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else open_regular(source)
    except NotRegularError as error:
        raise ImageError(f"expected a regular file, got {error}", reason="not-a-file") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"expected a readable file, got: {one_line(error)}", reason="unreadable") from None
    with file:
        if file.seek(0, os.SEEK_END) == 0:
            raise ImageError("expected an image, got 0 bytes", reason="empty")
        file.seek(0)
        yield file


def _decode(file: BinaryIO, mode: str, max_pixels: int) -> Pixels:
    from PIL import ImageOps

    image = _parse(file, max_pixels)
    image.load()
    _check_size(image, max_pixels)
    with _quietly():
        ImageOps.exif_transpose(image, in_place=True)
    pixels = np.array(_eight_bits(image).convert(mode))
    return pixels if pixels.ndim == 3 else pixels[..., np.newaxis]


def _parse(file: BinaryIO, max_pixels: int) -> ImageFile:
    """Read the header, and decide by it alone what can be decided."""
    from PIL import Image, UnidentifiedImageError

    with _quietly():
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            expected = ", ".join(FORMATS)
            raise ImageError(f"expected one of {expected}, got another file", reason="not-an-image") from None
        except Image.DecompressionBombError as error:
            raise ImageError(f"expected a smaller image, got: {one_line(error)}", reason="too-large") from None
        _check_size(image, max_pixels)
        if image.mode not in MODES + DEEP_GREY:
            raise ImageError(f"expected a grey or RGB image, got mode {image.mode}", reason="unsupported-mode")
        if image.format != "MPO" and getattr(image, "is_animated", False):
            raise ImageError("expected one picture, got several frames or pages", reason="animated")
        if image.format == "TIFF":
            image.load()  # goes on parsing headers, with warnings
    return image


def _check_size(image: Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        got = f"{image.width}x{image.height}"
        raise ImageError(f"expected at most {max_pixels} pixels, got {got}; resize it first", reason="too-large")


def _eight_bits(image: Image) -> Image:
    """Return the image with 8 bits a channel and without transparency, refusing what that would change."""
    from PIL.Image import fromarray

    transparent = ImageError("expected an opaque image, got transparent pixels; flatten it first", reason="transparent")
    if image.mode in DEEP_GREY:
        values = np.asarray(image).astype(np.uint32)
        if "transparency" in image.info and np.any(values == image.info["transparency"]):
            raise transparent
        return fromarray(((values + 128) // 257).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema() != (255, 255):
        raise transparent
    return image.convert("RGB")


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep Pillow's warnings about odd headers from the caller; what matters in them is an `ImageError` here."""
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
